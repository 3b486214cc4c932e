//! Every composite that an executor overrides against its composed body on the same executor.

use mila_ops::{
    Activation, Bottleneck, Builder, Convolution, Dims, Executor, FusedBottleneck, GatedConv, GatedInput, Init,
    LAYER_NORM_EPS, Mlp, NoTap, NormedLinear, Numeric, Onto, Residual, Result, composed,
};

use crate::{Factory, Formula, Tolerance, assert_close, formula_input};

/// Runs every composite and its composed body over awkward extents.
///
/// # Panics
/// With the composite and extent that differ.
pub fn composites<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    for (batch, height, width, channels) in
        [(1, 1, 1, 24), (2, 7, 9, 32), (1, 1, 7, 60), (1, 14, 14, 96), (3, 5, 3, 16), (0, 4, 4, 32)]
    {
        check(make, Dims::new(batch, height, width, channels), tolerance);
    }
}

fn check<E: Numeric + 'static>(make: Factory<E>, dims: Dims, tolerance: Tolerance) {
    let channels = dims.channels;
    let mut e = make();
    let mut b = Builder::new(&mut e, &Formula);
    let mlp = Mlp::build(&mut b, "norm2", LAYER_NORM_EPS, channels, 4 * channels).expect("an MLP");
    let input = GatedInput {
        norm_name: "norm1".into(),
        norm: b.layer_norm("norm1", channels, LAYER_NORM_EPS).expect("a norm"),
        gate: b.linear("act_proj", channels, channels).expect("a gate"),
        inner: b.linear("in_proj", channels, channels).expect("a projection"),
    };
    let out = b.linear("out_proj", channels, channels).expect("a projection");
    let depthwise = b.conv("cpe1", Convolution::depthwise(channels, 3)).expect("a depthwise convolution");
    let normed = Convolution::new(channels, 12, 3).stride(2).no_bias().batch_norm("norm");
    let normed = b.conv("conv", normed).expect("a convolution");
    let bottleneck = Bottleneck {
        names: ["conv.0", "conv.1", "conv.2"].map(Into::into),
        expand: b.conv("conv.0", Convolution::new(channels, 4 * channels, 1)).expect("a convolution"),
        spatial: b.conv("conv.1", Convolution::depthwise(4 * channels, 3).stride(2)).expect("a convolution"),
        project: b.conv("conv.2", Convolution::new(4 * channels, 12, 1)).expect("a convolution"),
        activation: Activation::Relu,
    };
    let fused_bottleneck = FusedBottleneck {
        names: ["conv3.0", "conv3.1"].map(Into::into),
        expand: b.conv("conv3.0", Convolution::new(channels, 40, 3).stride(2)).expect("a convolution"),
        project: b.conv("conv3.1", Convolution::new(40, 12, 1)).expect("a convolution"),
        activation: Activation::Relu,
    };
    let gated_conv = b.scope("mixer", |b| gated_conv(b, channels)).expect("a gated convolution");
    let gamma = b.parameter("gamma", &[channels], Init::Ones).expect("a layer scale");

    let e = e.evaluating();
    let values = formula_input(2 * dims.volume());
    let x = e.map(dims, &values[..dims.volume()]).expect("a map");
    let other = e.map(dims, &values[dims.volume()..]).expect("a map");
    let plain = || Residual::onto_input();
    let scaled = || Residual { onto: Onto::Map(other.clone()), layer_scale: Some(&gamma), drop_path: None };
    let same = |what: &str, fused: Result<E::Map>, parts: Result<E::Map>| {
        let [fused, parts] = [fused, parts].map(|map| map.and_then(|map| e.read(&map)).expect(what));
        assert_eq!(fused.dims, parts.dims, "{what} at {dims}: extent");
        assert_close(&format!("{what} at {dims}"), &fused.values, &parts.values, tolerance);
    };
    let fused = e.mlp(x.clone(), &mlp, plain(), &mut NoTap);
    same("mlp", fused, composed::mlp(&e, x.clone(), &mlp, plain(), &mut NoTap));
    let fused = e.mlp(x.clone(), &mlp, scaled(), &mut NoTap);
    same("mlp with layer scale", fused, composed::mlp(&e, x.clone(), &mlp, scaled(), &mut NoTap));
    let fused = e.normed_linear(&x, &gated_conv.input, &mut NoTap);
    same("normed linear", fused, composed::normed_linear(&e, &x, &gated_conv.input, &mut NoTap));
    for how in ["", " onto", " with scale"] {
        let add = || match how {
            "" => plain(),
            " onto" => Residual::onto(other.clone()),
            _ => scaled(),
        };
        let fused = e.linear_residual(x.clone(), &out, add());
        same(&format!("linear residual{how}"), fused, composed::linear_residual(&e, x.clone(), &out, add()));
        let fused = e.gated_conv(x.clone(), &gated_conv, add(), &mut NoTap);
        let parts = composed::gated_conv(&e, x.clone(), &gated_conv, add(), &mut NoTap);
        same(&format!("gated convolution{how}"), fused, parts);
    }
    let fused = e.gated_output(x.clone(), &other, &out, plain());
    same("gated output", fused, composed::gated_output(&e, x.clone(), &other, &out, plain()));
    let fused = e.gated_output(x.clone(), &x, &out, Residual::onto(other.clone()));
    same("gated output onto", fused, composed::gated_output(&e, x.clone(), &x, &out, Residual::onto(other.clone())));
    same(
        "conv residual",
        e.conv_residual(x.clone(), &depthwise, plain()),
        composed::conv_residual(&e, x.clone(), &depthwise, plain()),
    );
    let fused = e.conv_residual(x.clone(), &depthwise, scaled());
    same("conv residual onto", fused, composed::conv_residual(&e, x.clone(), &depthwise, scaled()));
    for then in [
        Activation::None,
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::Softplus,
        Activation::EluPlusOne,
    ] {
        same("conv", e.conv(&x, &normed, then), composed::conv(&e, &x, &normed, then));
    }
    let fused = e.bottleneck(&x, &bottleneck, &mut NoTap);
    same("bottleneck", fused, composed::bottleneck(&e, &x, &bottleneck, &mut NoTap));
    let fused = e.fused_bottleneck(&x, &fused_bottleneck, &mut NoTap);
    same("fused bottleneck", fused, composed::fused_bottleneck(&e, &x, &fused_bottleneck, &mut NoTap));
    let fused = e.gated_input(&x, &input, &mut NoTap).expect("gated input");
    let parts = composed::gated_input(&e, &x, &input, &mut NoTap).expect("gated input");
    same("gate", Ok(fused.0), Ok(parts.0));
    same("inner", Ok(fused.1), Ok(parts.1));
}

fn gated_conv<E: Executor>(b: &mut Builder<E>, channels: usize) -> Result<GatedConv<E>> {
    let hidden = 8 * channels / 3;
    Ok(GatedConv {
        input_name: "fc1".into(),
        conv_name: "conv".into(),
        name: "fc2".into(),
        input: NormedLinear::build(b, ("norm", LAYER_NORM_EPS), "fc1", channels, 2 * hidden)?,
        hidden,
        convolved: channels,
        conv: b.conv("conv", Convolution::depthwise(channels, 7))?,
        fc2: b.linear("fc2", hidden, channels)?,
        activation: Activation::Gelu,
    })
}

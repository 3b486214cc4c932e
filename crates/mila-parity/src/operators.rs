//! The operators that there are goldens of, against PyTorch. The others, and other options of these, stand against the f64
//! reference: see [`reference_operators`](crate::reference_operators), and [`recurrences`](crate::recurrences).

use mila_ops::{
    Activation, BatchNormWanted, ConvWanted, Init, LinearAttention, LinearWanted, NormForm, NormWanted, Numeric,
    PatchOrder, Result, Wanted, Window, Windows,
};

use crate::{Case, Factory, Golden, Tolerance, assert_close};

/// Runs every operator case of the goldens that evaluates.
///
/// # Panics
/// With the case that fails.
pub fn operators<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    let golden = Golden::open("operators");
    let mut checked = 0;
    for case in golden.cases.iter().filter(|case| case.mode != "train" && !case.name.contains("grouped")) {
        let wanted = golden.map(&format!("{}/y", case.name));
        let found = run(make, &golden, case).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(found.dims, wanted.dims, "{}: extent", case.name);
        assert_close(&case.name, &found.values, &wanted.values, tolerance);
        checked += 1;
    }
    assert!(checked > 40, "only {checked} operator cases");
}

fn run<E: Numeric + 'static>(
    make: Factory<E>,
    golden: &Golden,
    case: &Case,
) -> Result<mila_ops::reference::Array<f32>> {
    let wanted = |part: &str| {
        let name = format!("{}/{part}", case.name);
        Wanted::parameter(name.clone(), golden.tensor(&name).0, Init::Zeros)
    };
    let optional = |part: &str| golden.has(&format!("{}/{part}", case.name)).then(|| wanted(part));
    let input = |e: &E, part: &str| {
        let map = golden.map(&format!("{}/{part}", case.name));
        e.map(map.dims, &map.values)
    };
    let then = activation(&case.activation);
    let mut e = make();
    let y = match case.op.as_str() {
        "linear" => {
            let p = e.prepare_linear(LinearWanted::new(wanted("weight"), optional("bias")), golden)?;
            e = e.evaluating();
            e.linear(&input(&e, "x")?, &p, then)?
        }
        "conv" => {
            let window = Window { kernel: case.kernel, stride: case.stride, padding: case.padding };
            let (weight, bias) = (wanted("weight"), optional("bias"));
            let p = e.prepare_conv(ConvWanted { weight, bias, norm: None, window, groups: case.groups }, golden)?;
            e = e.evaluating();
            e.conv(&input(&e, "x")?, &p, then)?
        }
        "layer_norm" => {
            let form = NormForm::Layer { bias: wanted("bias") };
            let wanted = NormWanted { weight: wanted("weight"), form, eps: case.eps };
            let p = e.prepare_layer_norm(wanted, golden)?;
            e = e.evaluating();
            e.layer_norm(&input(&e, "x")?, &p)?
        }
        "batch_norm" => {
            let p = e.prepare_batch_norm(batch_norm_wanted(case, wanted), golden)?;
            e = e.evaluating();
            e.batch_norm(&input(&e, "x")?, &p)?
        }
        "channels" => e.channels(&input(&e, "x")?, case.start..case.end)?,
        "concat" => e.concat(&input(&e, "a")?, &input(&e, "b")?)?,
        "linear_attention" => {
            e.linear_attention(&input(&e, "qk")?, &input(&e, "v")?, LinearAttention::mila(case.heads))?
        }
        "window_attention" => {
            let p = e.prepare_parameter(wanted("table"), golden)?;
            e = e.evaluating();
            let windows = Windows { side: case.side, shift: case.shift };
            e.window_attention(&input(&e, "x")?, &p, case.heads, windows)?
        }
        "patches" => e.patches(input(&e, "x")?, PatchOrder::Tokens)?,
        "mean_tokens" => e.mean_tokens(&input(&e, "x")?)?,
        "pad" => e.pad_to_multiple(input(&e, "x")?, case.multiple)?,
        other => panic!("golden operator `{other}` is unknown to the harness"),
    };
    e.read(&y)
}

/// The tensors of a batch-norm case.
pub(crate) fn batch_norm_wanted(case: &Case, wanted: impl Fn(&str) -> Wanted) -> BatchNormWanted {
    BatchNormWanted {
        name: case.name.clone(),
        weight: wanted("weight"),
        bias: wanted("bias"),
        running_mean: wanted("running_mean"),
        running_var: wanted("running_var"),
        eps: case.eps,
    }
}

fn activation(name: &str) -> Activation {
    match name {
        "" | "none" => Activation::None,
        "relu" => Activation::Relu,
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "softplus" => Activation::Softplus,
        "elu_plus_one" => Activation::EluPlusOne,
        other => panic!("golden activation `{other}` is unknown to the harness"),
    }
}

//! Every operator and composite at awkward extents, in training.

use mila_burn::Burn;
use mila_ops::recurrence::Path;
use mila_ops::reference::Reference;
use mila_ops::{
    Activation, Builder, CROSS_SCAN, Convolution, Dims, Executor, LinearAttention, Mode, Normalisation, Numeric,
    PatchOrder, Positions, ScanOrder, TokenPlace, Windows,
};
use mila_parity::Formula;

use crate::check::{SEED, STEP, check, check_with_zeros};
use crate::forms;
use crate::operator::{GRID, Operator, Ratio};

const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::Softplus,
    Activation::EluPlusOne,
];

/// One image of one token, a few of one token, and maps of odd sides.
const EXTENTS: [Dims; 5] = [
    Dims::new(1, 1, 1, 24),
    Dims::new(3, 1, 1, 8),
    Dims::new(2, 2, 3, 24),
    Dims::new(1, 5, 7, 8),
    Dims::new(3, 5, 7, 24),
];

fn everywhere(operator: Operator) {
    EXTENTS.into_iter().for_each(|dims| check(operator, dims));
}

/// Batch statistics need more than one value a channel; of two values they leave only their signs, and a gradient that
/// is rounding.
fn with_statistics(operator: Operator) {
    EXTENTS.into_iter().filter(|dims| dims.rows() > 2).for_each(|dims| check(operator, dims));
}

#[test]
fn linear() {
    for then in ACTIVATIONS {
        everywhere(Operator::Linear { bias: true, then });
    }
    everywhere(Operator::Linear { bias: false, then: Activation::None });
    everywhere(Operator::Linear { bias: false, then: Activation::Silu });
}

#[test]
fn full_convolution() {
    everywhere(Operator::Conv("3x3", |c| Convolution::new(c, 12, 3)));
    everywhere(Operator::Conv("3x3 without bias", |c| Convolution::new(c, 12, 3).no_bias()));
    everywhere(Operator::Conv("3x3 stride 2", |c| Convolution::new(c, 12, 3).stride(2)));
    everywhere(Operator::Conv("1x1", |c| Convolution::new(c, 12, 1)));
    everywhere(Operator::Conv("2x2 patches", |c| Convolution::patches(c, 12, 2)));
    everywhere(Operator::Conv("4x4 patches", |c| Convolution::patches(c, 12, 4)));
}

#[test]
fn depthwise_convolution() {
    everywhere(Operator::Conv("depthwise 3x3", |c| Convolution::depthwise(c, 3)));
    everywhere(Operator::Conv("depthwise 3x3 without bias", |c| Convolution::depthwise(c, 3).no_bias()));
    everywhere(Operator::Conv("depthwise 3x3 stride 2", |c| Convolution::depthwise(c, 3).stride(2)));
    everywhere(Operator::Conv("depthwise 7x7", |c| Convolution::depthwise(c, 7)));
}

#[test]
fn layer_norm() {
    everywhere(Operator::LayerNorm);
    everywhere(Operator::RmsNorm);
}

#[test]
fn batch_norm() {
    with_statistics(Operator::BatchNorm);
    for then in ACTIVATIONS {
        with_statistics(Operator::ConvNorm(then));
    }
}

#[test]
fn one_value_a_channel_has_no_batch_statistics() {
    let dims = Dims::new(1, 1, 1, 8);
    let mut e = Reference::<f64>::new(Mode::Train { seed: SEED, step: STEP });
    let forward = Operator::BatchNorm.build(&mut Builder::new(&mut e, &Formula), 8).expect("a norm");
    let x = e.map(dims, &[1.0; 8]).expect("a map");
    assert!(matches!(forward(&e, &[x]), Err(mila_ops::Error::Shape { .. })), "the reference");
    for form in forms() {
        let mut declared = Burn::declare();
        let forward = Operator::BatchNorm.build(&mut Builder::new(&mut declared, &Formula), 8).expect("a norm");
        let burn = Burn::train(declared.into_store(), SEED, STEP).with_form(form);
        let x = burn.map(dims, &[1.0; 8]).expect("a map");
        assert!(matches!(forward(&burn, &[x]), Err(mila_ops::Error::Shape { .. })), "{form:?}");
        assert!(burn.take_statistics().is_empty(), "{form:?}: statistics of a pass that failed");
    }
}

#[test]
fn linear_attention() {
    for heads in [1, 2, 4] {
        everywhere(Operator::LinearAttention(LinearAttention::mila(heads), Ratio::Equal));
    }
    let plain = LinearAttention::plain(2);
    everywhere(Operator::LinearAttention(plain, Ratio::Equal));
    everywhere(Operator::LinearAttention(LinearAttention::plain(1), Ratio::Half));
    everywhere(Operator::LinearAttention(LinearAttention::mila(2), Ratio::Half));
    for positions in [Positions::Absent, Positions::Rotary] {
        let form = LinearAttention { positions, normalisation: Normalisation::Absent, ..plain };
        everywhere(Operator::LinearAttention(form, Ratio::Half));
    }
}

#[test]
fn window_attention() {
    for windows in [Windows { side: 2, shift: 1 }, Windows { side: 3, shift: 0 }, Windows { side: 7, shift: 3 }] {
        everywhere(Operator::WindowAttention(windows));
    }
}

#[test]
fn elementwise() {
    for then in ACTIVATIONS {
        everywhere(Operator::Activate(then));
    }
    for operator in [
        Operator::Add,
        Operator::Mul,
        Operator::Square,
        Operator::Exchange,
        Operator::Scale,
        Operator::ScaleAll,
        Operator::DropPath,
    ] {
        everywhere(operator);
    }
}

/// Where their two halves meet; that of ReLU is PyTorch's.
#[test]
fn derivatives_at_zero() {
    let dims = Dims::new(1, 1, 3, 8);
    for form in forms() {
        let burn = Burn::train(Burn::declare().into_store(), SEED, STEP).with_form(form);
        for (then, wanted) in ACTIVATIONS.into_iter().zip([1.0, 0.0, 0.5, 0.5, 0.5, 1.0]) {
            let x = burn.map(dims, &[0.0; 24]).expect("a map").autodiff().require_grad();
            let gradients = burn.activate(x.clone(), then).expect("a map").sum().backward();
            let found = burn.read(&x.grad(&gradients).expect("a gradient")).expect("its values").values;
            assert!(found.iter().all(|&g| (g - wanted).abs() < 1e-6), "{form:?}, {then:?}: {found:?}");
        }
    }
}

#[test]
fn zeros_among_the_inputs() {
    let dims = Dims::new(2, 2, 3, 24);
    for then in [Activation::Silu, Activation::Gelu, Activation::Softplus, Activation::EluPlusOne] {
        check_with_zeros(Operator::Activate(then), dims);
    }
    check_with_zeros(Operator::LinearAttention(LinearAttention::mila(2), Ratio::Equal), dims);
    check_with_zeros(Operator::LinearAttention(LinearAttention::plain(1), Ratio::Half), dims);
}

#[test]
fn tokens() {
    everywhere(Operator::MeanTokens);
    for multiple in [1, 2, 4] {
        everywhere(Operator::Pad(multiple));
    }
    for dims in EXTENTS.into_iter().filter(|dims| (dims.height, dims.width) == GRID) {
        check(Operator::AddPositions, dims);
    }
    for order in [PatchOrder::Tokens, PatchOrder::Channels] {
        check(Operator::Patches(order), Dims::new(2, 4, 6, 8));
    }
}

#[test]
fn sequences() {
    let windows = ScanOrder::along(Path::Windows { side: 2 });
    let atrous = ScanOrder::along(Path::Atrous { phase: 0 });
    for order in CROSS_SCAN.into_iter().chain([windows, windows.reversed(), atrous]) {
        everywhere(Operator::CausalConv(order, Activation::Silu));
    }
    // Not zero at zero, which is what tokens that an order leaves out get.
    for then in [Activation::Softplus, Activation::EluPlusOne] {
        for order in [windows, atrous] {
            everywhere(Operator::CausalConv(order, then));
        }
    }
    for place in [TokenPlace::First, TokenPlace::Middle] {
        everywhere(Operator::ClassToken(place));
    }
    everywhere(Operator::LinearRows);
}

#[test]
fn composites() {
    everywhere(Operator::ConvResidual { scaled: false });
    everywhere(Operator::ConvResidual { scaled: true });
    everywhere(Operator::Shared);
    everywhere(Operator::GatedInput);
    everywhere(Operator::GatedOutput);
    everywhere(Operator::GatedConv);
    everywhere(Operator::LinearResidual);
    everywhere(Operator::Mlp);
}

/// Otherwise drop path would be checked only where it does nothing, or where nothing is left.
#[test]
fn the_seed_keeps_some_branches_and_drops_some() {
    for site in ["branch", "conv", "attn", "mlp"] {
        let drop = mila_ops::DropPath { rate: 0.4, site: mila_ops::random::site(site) };
        let kept = (0..3).filter(|&sample| drop.factor(Mode::Train { seed: SEED, step: STEP }, sample) > 0.0).count();
        assert!((1..3).contains(&kept), "{site}: {kept} of 3 are kept");
    }
}

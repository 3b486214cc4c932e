//! Operators that there are no goldens of, and options that those have not, against the f64 reference.

use mila_ops::recurrence::Path;
use mila_ops::reference::{Array, Reference};
use mila_ops::{
    Activation, Builder, CROSS_SCAN, Dims, Executor, Init, LAYER_NORM_EPS, LinearAttention, Normalisation, Numeric,
    PatchOrder, Positions, Result, ScanOrder, TokenPlace,
};

use crate::{Factory, Formula, Tolerance, assert_close, formula_input};

const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::Softplus,
    Activation::EluPlusOne,
];

/// Runs RMSNorm, rows of a linear map, causal convolutions, class tokens, positions, sums, products, scales, activations,
/// patches and linear attention at awkward extents.
///
/// # Panics
/// With the operator and extent that differ.
pub fn reference_operators<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    for (batch, height, width, channels) in
        [(1, 1, 1, 24), (3, 1, 1, 8), (2, 5, 7, 24), (1, 7, 9, 40), (2, 1, 6, 56), (0, 3, 2, 8)]
    {
        let dims = Dims::new(batch, height, width, channels);
        let wanted = outputs(Reference::<f64>::eval(), dims).unwrap_or_else(|error| panic!("{dims}: {error}"));
        let found = outputs(make(), dims).unwrap_or_else(|error| panic!("{dims}: {error}"));
        assert_eq!(found.len(), wanted.len(), "{dims}: number of outputs");
        for ((what, found), (_, wanted)) in found.iter().zip(&wanted) {
            assert_eq!(found.dims, wanted.dims, "{what} at {dims}: extent");
            assert_close(&format!("{what} at {dims}"), &found.values, &wanted.values, tolerance);
        }
    }
}

/// What an executor makes of maps of `dims`, by operator.
fn outputs<E: Numeric + 'static>(mut e: E, dims: Dims) -> Result<Vec<(String, Array<f32>)>> {
    let p = Parameters::build(&mut Builder::new(&mut e, &Formula), dims)?;
    let e = e.evaluating();
    let values = formula_input(3 * dims.volume());
    let map = |index: usize| e.map(dims, &values[index * dims.volume()..][..dims.volume()]);
    let (x, other) = (map(0)?, map(1)?);
    let mut all = Vec::new();
    let mut add = |what: String, map: E::Map| -> Result<()> {
        all.push((what, e.read(&map)?));
        Ok(())
    };

    add("RMSNorm".into(), e.layer_norm(&x, &p.norm)?)?;
    for then in ACTIVATIONS {
        add(format!("rows of a linear map, {then:?}"), e.linear(&x, &p.last_rows, then)?)?;
        add(format!("{then:?}"), e.activate(x.clone(), then)?)?;
        // Into both tails.
        add(format!("{then:?} of large numbers"), e.activate(e.scale_all(x.clone(), 30.0)?, then)?)?;
        for order in orders() {
            add(format!("causal convolution, {order:?}, {then:?}"), e.causal_conv(&x, &p.causal, order, then)?)?;
        }
    }
    add("first rows of a linear map".into(), e.linear(&x, &p.first_rows, Activation::None)?)?;
    add("causal convolution of one tap".into(), {
        e.causal_conv(&x, &p.one_tap, ScanOrder::COLUMNS, Activation::Silu)?
    })?;
    for place in [TokenPlace::First, TokenPlace::Middle] {
        let row = e.insert_token(&x, &p.token, place)?;
        add(format!("class token taken, {place:?}"), e.take_token(&row, place)?)?;
        add(format!("class token, {place:?}"), row)?;
    }
    add("positions of some channels".into(), e.add_positions(x.clone(), &p.positions)?)?;
    add("positions in a row".into(), e.add_positions(x.clone(), &p.row_positions)?)?;
    add("scale".into(), e.scale(x.clone(), &p.gamma)?)?;
    add("scale by one number".into(), e.scale_all(x.clone(), -0.3)?)?;
    add("sum".into(), e.add(x.clone(), &other)?)?;
    add("sum with itself".into(), e.add(x.clone(), &x)?)?;
    add("product".into(), e.mul(x.clone(), &other)?)?;
    add("square".into(), e.mul(x.clone(), &x)?)?;
    for order in [PatchOrder::Tokens, PatchOrder::Channels] {
        add(format!("patches, {order:?}"), e.patches(e.pad_to_multiple(x.clone(), 2)?, order)?)?;
    }
    // As many channels of queries and keys as of values, and half as many.
    let both = e.concat(&other, &map(2)?)?;
    for (what, qk) in [("equal", &both), ("half", &other)] {
        for form in forms() {
            add(format!("linear attention, {form:?}, {what}"), e.linear_attention(qk, &x, form)?)?;
        }
    }
    Ok(all)
}

/// By rows and columns from either end, with padding, with tokens left out, and with a new start in between.
fn orders() -> impl Iterator<Item = ScanOrder> {
    let windows = ScanOrder::along(Path::Windows { side: 2 });
    let separate = ScanOrder::along(Path::SeparateWindows { side: 3 });
    let atrous = [0, 3].map(|phase| ScanOrder::along(Path::Atrous { phase }));
    CROSS_SCAN.into_iter().chain([windows, windows.reversed(), separate]).chain(atrous)
}

fn forms() -> impl Iterator<Item = LinearAttention> {
    [1, 2].into_iter().flat_map(|heads| {
        [Positions::Absent, Positions::Rotary].into_iter().flat_map(move |positions| {
            [Normalisation::Absent, Normalisation::Weights].map(|normalisation| LinearAttention {
                heads,
                positions,
                normalisation,
            })
        })
    })
}

/// What the operators ask for.
struct Parameters<E: Executor> {
    norm: E::Norm,
    first_rows: E::Linear,
    last_rows: E::Linear,
    causal: mila_ops::CausalConv<E>,
    one_tap: mila_ops::CausalConv<E>,
    token: E::Parameter,
    positions: E::Parameter,
    row_positions: E::Parameter,
    gamma: E::Parameter,
}

impl<E: Executor> Parameters<E> {
    fn build(b: &mut Builder<E>, dims: Dims) -> Result<Self> {
        let Dims { height, width, channels, .. } = dims;
        let rows = |b: &mut Builder<E>, rows| b.linear_rows("in_proj.weight", &[3, 5, channels], rows, Init::Zeros);
        Ok(Self {
            norm: b.rms_norm("norm", channels, LAYER_NORM_EPS)?,
            first_rows: rows(b, 0..4)?,
            last_rows: rows(b, 4..15)?,
            causal: b.causal_conv("conv1d", channels, 4)?,
            one_tap: b.causal_conv("conv1d_b", channels, 1)?,
            token: b.undecayed_parameter("cls_token", &[1, 1, channels], Init::Zeros)?,
            positions: b.undecayed_parameter("ape", &[height, width, channels / 2], Init::Zeros)?,
            row_positions: b.undecayed_parameter("pos_embed", &[1, height * width, channels], Init::Zeros)?,
            gamma: b.parameter("gamma", &[channels], Init::Ones)?,
        })
    }
}

//! The kernels that a custom Burn operation can carry: outputs, and gradients for its inputs.

use std::sync::{Arc, OnceLock};

use mila_kernels::batch_norm::BatchStatistics;
use mila_kernels::linear_attention::{self, Attention, Rotations};
use mila_kernels::window_attention::{self, WindowAttention};
use mila_kernels::{
    Epilogue, Isa, Map, PackedMatrix, activation, batch_norm, causal_conv, conv, depthwise, elementwise, layer_norm,
    linear, pool, rms_norm,
};
use mila_ops::{Activation, Dims, LinearAttention, Normalisation, Positions, Window, Windows, rope2d};

use crate::recurrence::Packed;

/// An operator with its sizes. Inputs are a map `x` and up to two others, `a` and `b`.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// `a`: weight `[outputs, inputs]`; `b`: bias.
    Linear { inputs: usize, outputs: usize },
    /// `a`: weight `[outputs, inputs, kernel, kernel]`; `b`: bias. The map is at least as large as one window.
    Conv { inputs: usize, outputs: usize, window: Window },
    /// `a`: weight `[channels, 1, kernel, kernel]`; `b`: bias. The map is at least as large as one window.
    Depthwise { channels: usize, window: Window },
    /// `a`: weight; `b`: bias.
    LayerNorm { eps: f64 },
    /// `a`: weight.
    RmsNorm { eps: f64 },
    /// Along an order, whose sources and readers the tables are. `a`: weight `[channels, 1, taps]`; `b`: bias.
    CausalConv { taps: usize, tables: Arc<[Vec<u32>; 2]> },
    /// With the statistics of the batch, which the forward pass leaves behind. `a`: weight; `b`: bias.
    BatchNorm { eps: f64, statistics: Arc<OnceLock<BatchStatistics>> },
    /// No other input.
    Activate(Activation),
    /// `a`: a factor per channel.
    Scale,
    /// No other input.
    MeanTokens,
    /// `x`: q, k and v; `a`: table of biases.
    WindowAttention { heads: usize, windows: Windows },
    /// `x`: q and k; `a`: v.
    LinearAttention { dims: Dims, form: LinearAttention },
    /// `x`: its maps; `a`: its parameters; `b`: its start. The output is one row.
    Recurrence(Arc<Packed>),
}

/// An operation, and what it runs on.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Instruction set of the kernels.
    pub(crate) isa: Isa,
    /// What is computed.
    pub(crate) operation: Operation,
    /// Whether `b` is an input, or a dummy in its place.
    pub(crate) bias: bool,
}

fn kernel_window(window: Window) -> mila_kernels::Window {
    mila_kernels::Window { kernel: window.kernel, stride: window.stride, padding: window.padding }
}

fn kernel_activation(then: Activation) -> mila_kernels::Activation {
    match then {
        Activation::None => mila_kernels::Activation::None,
        Activation::Relu => mila_kernels::Activation::Relu,
        Activation::Silu => mila_kernels::Activation::Silu,
        Activation::Gelu => mila_kernels::Activation::Gelu,
        Activation::Softplus => mila_kernels::Activation::Softplus,
        Activation::EluPlusOne => mila_kernels::Activation::EluPlusOne,
    }
}

/// Where a gradient goes, if it is wanted.
fn part(gradient: &mut [f32], wanted: bool) -> Option<&mut [f32]> {
    wanted.then_some(gradient)
}

/// The shape for values of `dims` and queries and keys of `qk` channels together.
fn attention(dims: Dims, qk: usize, form: LinearAttention) -> Attention {
    let normalisation = match form.normalisation {
        Normalisation::Absent => linear_attention::Normalisation::Absent,
        Normalisation::Weights => linear_attention::Normalisation::Weights,
    };
    let Dims { batch, channels, .. } = dims;
    Attention { batch, tokens: dims.tokens(), keys: qk / 2, channels, heads: form.heads, normalisation }
}

fn windowed(qkv: Map, heads: usize, Windows { side, shift }: Windows) -> WindowAttention {
    WindowAttention { map: Map { channels: qkv.channels / 3, ..qkv }, heads, side, shift }
}

impl Call {
    /// Values and extent of the output; `extent` is that of `x`.
    pub(crate) fn forward(&self, extent: [usize; 4], x: &[f32], a: &[f32], b: &[f32]) -> (Vec<f32>, [usize; 4]) {
        let isa = self.isa;
        let [batch, height, width, channels] = extent;
        let map = Map { batch, height, width, channels };
        let bias = self.bias.then_some(b);
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        let strided = |window: Window, outputs| [batch, window.output(height), window.output(width), outputs];
        let out = |extent: [usize; 4], run: &mut dyn FnMut(&mut [f32])| {
            let mut y = vec![0.0; extent.iter().product()];
            run(&mut y);
            (y, extent)
        };
        match &self.operation {
            &Operation::Linear { inputs, outputs } => {
                let weight = PackedMatrix::from_columns(isa, a, outputs, inputs);
                out([batch, height, width, outputs], &mut |y| linear::forward(isa, x, &weight, epilogue, y))
            }
            &Operation::Conv { inputs, outputs, window } => {
                let weight = conv::pack_weight(isa, a, inputs, outputs, window.kernel);
                let window = (window, kernel_window(window));
                out(strided(window.0, outputs), &mut |y| conv::forward(isa, x, map, window.1, &weight, epilogue, y))
            }
            &Operation::Depthwise { channels, window } => {
                let weight = depthwise::pack_weight(a, channels, window.kernel * window.kernel);
                let window = (window, kernel_window(window));
                out(strided(window.0, channels), &mut |y| {
                    depthwise::forward(isa, x, map, window.1, &weight, epilogue, y);
                })
            }
            &Operation::LayerNorm { eps } => {
                out(extent, &mut |y| layer_norm::forward(isa, x, a, Some(b), eps as f32, y))
            }
            &Operation::RmsNorm { eps } => out(extent, &mut |y| rms_norm::forward(isa, x, a, eps as f32, y)),
            Operation::CausalConv { taps, tables } => {
                let weight = depthwise::pack_weight(a, channels, *taps);
                let (weight, none) = ((weight.as_slice(), *taps), mila_kernels::Activation::None);
                out(extent, &mut |y| causal_conv::forward(isa, x, &tables[0], weight, bias, none, y))
            }
            Operation::BatchNorm { eps, statistics } => {
                let found = statistics.get_or_init(|| batch_norm::statistics(isa, x, channels));
                out(extent, &mut |y| batch_norm::forward(isa, x, found.with_eps(*eps as f32), a, b, y))
            }
            &Operation::Activate(then) => out(extent, &mut |y| activation::forward(isa, kernel_activation(then), x, y)),
            Operation::Scale => out(extent, &mut |y| elementwise::scale_channels(isa, x, a, y)),
            Operation::MeanTokens => {
                let shape = (batch, height * width, channels);
                out([batch, 1, 1, channels], &mut |y| pool::mean_tokens(x, shape, y))
            }
            &Operation::WindowAttention { heads, windows } => {
                let shape = windowed(map, heads, windows);
                let extent = [batch, height, width, shape.map.channels];
                out(extent, &mut |y| window_attention::forward(isa, x, a, shape, y))
            }
            Operation::LinearAttention { dims, form } => {
                let shape = attention(*dims, channels, *form);
                let rotations = (form.positions == Positions::Rotary).then(|| {
                    let [rows, columns] = [dims.height, dims.width].map(|extent| rope2d::axis(extent, shape.keys));
                    Rotations::new(&rows, &columns, shape.keys)
                });
                let extent = [batch, height, width, dims.channels];
                out(extent, &mut |y| linear_attention::forward(isa, x, a, shape, rotations.as_ref(), y))
            }
            Operation::Recurrence(packed) => {
                let both = packed.forward(isa, x, a, bias);
                let len = both.len();
                (both, [1, 1, 1, len])
            }
        }
    }

    /// Gradients for `x`, `a` and `b`, each as long as its input. What is not wanted may be left out: then it is zero.
    pub(crate) fn backward(
        &self,
        extent: [usize; 4],
        [x, a, b]: [&[f32]; 3],
        dy: &[f32],
        wanted: [bool; 3],
    ) -> [Vec<f32>; 3] {
        let isa = self.isa;
        let [batch, height, width, channels] = extent;
        let map = Map { batch, height, width, channels };
        let [mut dx, mut da, mut db] = [x, a, b].map(|input| vec![0.0; input.len()]);
        let bias = (self.bias && wanted[2]).then_some(db.as_mut_slice());
        let [dx_wanted, da_wanted, _] = wanted;
        match &self.operation {
            &Operation::Linear { inputs, outputs } => {
                let gradients =
                    linear::Gradients { x: part(&mut dx, dx_wanted), weight: part(&mut da, da_wanted), bias };
                linear::backward(isa, x, a, (inputs, outputs), dy, gradients);
            }
            &Operation::Conv { window, .. } => {
                let gradients = conv::Gradients { x: part(&mut dx, dx_wanted), weight: part(&mut da, da_wanted), bias };
                conv::backward(isa, x, map, kernel_window(window), a, dy, gradients);
            }
            &Operation::Depthwise { channels, window } => {
                let taps = window.kernel * window.kernel;
                let weight = depthwise::pack_weight(a, channels, taps);
                let mut packed = vec![0.0; weight.len()];
                let gradients =
                    depthwise::Gradients { x: part(&mut dx, dx_wanted), weight: part(&mut packed, da_wanted), bias };
                depthwise::backward(isa, x, map, kernel_window(window), &weight, dy, gradients);
                da = depthwise::unpack_weight(&packed, channels, taps);
            }
            &Operation::LayerNorm { eps } => {
                let gradients = layer_norm::Gradients { x: &mut dx, weight: &mut da, bias: &mut db };
                layer_norm::backward(isa, x, a, eps as f32, dy, gradients);
            }
            &Operation::RmsNorm { eps } => rms_norm::backward(isa, x, a, eps as f32, dy, &mut dx, &mut da),
            Operation::CausalConv { taps, tables } => {
                let weight = depthwise::pack_weight(a, channels, *taps);
                if dx_wanted {
                    let (weight, none) = ((weight.as_slice(), *taps), mila_kernels::Activation::None);
                    causal_conv::forward(isa, dy, &tables[1], weight, None, none, &mut dx);
                }
                let (mut packed, mut sums) = (vec![0.0; weight.len()], vec![0.0; channels]);
                causal_conv::backward_weight(isa, x, &tables[0], dy, (&mut packed, *taps), &mut sums);
                da = depthwise::unpack_weight(&packed, channels, *taps);
                if let Some(bias) = bias {
                    bias.copy_from_slice(&sums);
                }
            }
            Operation::BatchNorm { eps, statistics } => {
                let found = statistics.get_or_init(|| batch_norm::statistics(isa, x, channels));
                let gradients = batch_norm::Gradients { x: &mut dx, weight: &mut da, bias: &mut db };
                let statistics = found.with_eps(*eps as f32);
                batch_norm::backward(isa, batch_norm::Mode::Train, x, statistics, a, dy, gradients);
            }
            &Operation::Activate(then) => activation::backward(isa, kernel_activation(then), x, dy, &mut dx),
            Operation::Scale => {
                elementwise::scale_channels(isa, dy, a, &mut dx);
                elementwise::scale_channels_backward(isa, x, dy, &mut da);
            }
            Operation::MeanTokens => pool::mean_tokens_backward(dy, (batch, height * width, channels), &mut dx),
            &Operation::WindowAttention { heads, windows } => {
                let gradients = window_attention::Gradients { qkv: &mut dx, table: &mut da };
                window_attention::backward(isa, x, a, windowed(map, heads, windows), dy, gradients);
            }
            Operation::LinearAttention { dims, form } => {
                let shape = attention(*dims, channels, *form);
                let rotations = (form.positions == Positions::Rotary)
                    .then(|| rope2d::rotations(dims.height, dims.width, shape.keys));
                let gradients = linear_attention::Gradients { qk: &mut dx, v: &mut da };
                linear_attention::backward(isa, x, a, shape, rotations.as_deref(), dy, gradients);
            }
            Operation::Recurrence(packed) => {
                packed.backward(isa, (x, a, self.bias.then_some(b)), dy, [&mut dx, &mut da, &mut db]);
            }
        }
        [dx, da, db]
    }
}

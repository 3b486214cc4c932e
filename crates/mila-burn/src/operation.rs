//! The kernels that a custom Burn operation can carry: outputs, and gradients for its inputs.

use mila_kernels::linear_attention::{self, Attention};
use mila_kernels::{Epilogue, Isa, Map, PackedMatrix, activation, batch_norm, conv, depthwise, layer_norm, linear};
use mila_ops::{Activation, Dims, Window, rope2d};

/// An operator with its sizes. Inputs are a map `x` and up to two others, `a` and `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    /// `a`: weight `[outputs, inputs]`; `b`: bias.
    Linear { inputs: usize, outputs: usize },
    /// `a`: weight `[outputs, inputs, kernel, kernel]`; `b`: bias. The map is at least as large as one window.
    Conv { inputs: usize, outputs: usize, window: Window },
    /// `a`: weight `[channels, 1, kernel, kernel]`; `b`: bias. The map is at least as large as one window.
    Depthwise { channels: usize, window: Window },
    /// `a`: weight; `b`: bias.
    LayerNorm { eps: f64 },
    /// With the statistics of the batch. `a`: weight; `b`: bias.
    BatchNorm { eps: f64 },
    /// No other input.
    Activate(Activation),
    /// `x`: q and k; `a`: v.
    LinearAttention { dims: Dims, heads: usize },
}

/// An operation, and what it runs on.
#[derive(Clone, Copy, Debug)]
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
    }
}

fn attention(dims: Dims, heads: usize) -> (Attention, Vec<f32>) {
    let shape = Attention { batch: dims.batch, tokens: dims.tokens(), channels: dims.channels, heads };
    (shape, rope2d::rotations(dims.height, dims.width, dims.channels))
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
        match self.operation {
            Operation::Linear { inputs, outputs } => {
                let weight = PackedMatrix::from_columns(a, outputs, inputs);
                out([batch, height, width, outputs], &mut |y| linear::forward(isa, x, &weight, epilogue, y))
            }
            Operation::Conv { inputs, outputs, window } => {
                let weight = conv::pack_weight(a, inputs, outputs, window.kernel);
                let window = (window, kernel_window(window));
                out(strided(window.0, outputs), &mut |y| conv::forward(isa, x, map, window.1, &weight, epilogue, y))
            }
            Operation::Depthwise { channels, window } => {
                let weight = depthwise::pack_weight(a, channels, window.kernel * window.kernel);
                let window = (window, kernel_window(window));
                out(strided(window.0, channels), &mut |y| {
                    depthwise::forward(isa, x, map, window.1, &weight, epilogue, y);
                })
            }
            Operation::LayerNorm { eps } => {
                out(extent, &mut |y| layer_norm::forward(isa, x, a, Some(b), eps as f32, y))
            }
            Operation::BatchNorm { eps } => {
                let statistics = batch_norm::statistics(isa, x, channels);
                out(extent, &mut |y| batch_norm::forward(isa, x, statistics.with_eps(eps as f32), a, b, y))
            }
            Operation::Activate(then) => out(extent, &mut |y| activation::forward(isa, kernel_activation(then), x, y)),
            Operation::LinearAttention { dims, heads } => {
                let (shape, rotations) = attention(dims, heads);
                let extent = [batch, height, width, dims.channels];
                out(extent, &mut |y| linear_attention::forward(isa, x, a, shape, &rotations, y))
            }
        }
    }

    /// Gradients for `x`, `a` and `b`, each as long as its input; zero for a dummy.
    pub(crate) fn backward(&self, extent: [usize; 4], x: &[f32], a: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let isa = self.isa;
        let [batch, height, width, channels] = extent;
        let map = Map { batch, height, width, channels };
        let [mut dx, mut da, mut db] = [x, a, b].map(|input| vec![0.0; input.len()]);
        let bias = self.bias.then_some(db.as_mut_slice());
        match self.operation {
            Operation::Linear { inputs, outputs } => {
                let gradients = linear::Gradients { x: Some(&mut dx), weight: Some(&mut da), bias };
                linear::backward(isa, x, a, (inputs, outputs), dy, gradients);
            }
            Operation::Conv { window, .. } => {
                let gradients = conv::Gradients { x: Some(&mut dx), weight: Some(&mut da), bias };
                conv::backward(isa, x, map, kernel_window(window), a, dy, gradients);
            }
            Operation::Depthwise { channels, window } => {
                let taps = window.kernel * window.kernel;
                let weight = depthwise::pack_weight(a, channels, taps);
                let mut packed = vec![0.0; weight.len()];
                let gradients = depthwise::Gradients { x: Some(&mut dx), weight: Some(&mut packed), bias };
                depthwise::backward(isa, x, map, kernel_window(window), &weight, dy, gradients);
                da = depthwise::unpack_weight(&packed, channels, taps);
            }
            Operation::LayerNorm { eps } => {
                let gradients = layer_norm::Gradients { x: &mut dx, weight: &mut da, bias: &mut db };
                layer_norm::backward(isa, x, a, eps as f32, dy, gradients);
            }
            Operation::BatchNorm { eps } => {
                let statistics = batch_norm::statistics(isa, x, channels);
                let gradients = batch_norm::Gradients { x: &mut dx, weight: &mut da, bias: &mut db };
                let statistics = statistics.with_eps(eps as f32);
                batch_norm::backward(isa, batch_norm::Mode::Train, x, statistics, a, dy, gradients);
            }
            Operation::Activate(then) => activation::backward(isa, kernel_activation(then), x, dy, &mut dx),
            Operation::LinearAttention { dims, heads } => {
                let (shape, rotations) = attention(dims, heads);
                let gradients = linear_attention::Gradients { qk: &mut dx, v: &mut da };
                linear_attention::backward(isa, x, a, shape, &rotations, dy, gradients);
            }
        }
        [dx, da, db]
    }
}

//! Prints the speed of every kernel at the shapes of MILA-T on a 224-pixel image, on one thread and on two.
//!
//! `cargo run --release -p mila-kernels --example kernel_speed [avx512|avx2|portable] [kernel]`
//!
//! A number is the fastest of many calls, which a busy machine disturbs least. GFLOP/s count a multiply-add as two; GB/s count every operand once.

use std::time::Instant;

use mila_kernels::{
    Activation, Attention, Epilogue, Isa, Level, Map, Mlp, Norm, PackedMatrix, Window, WindowAttention, batch_norm,
    conv, depthwise, layer_norm, linear,
    linear_attention::{self, Normalisation, Rotations},
    mlp, window_attention,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// (side of the map, channels, heads) of MILA-T's stages.
const STAGES: [(usize, usize, usize); 4] = [(56, 64, 2), (28, 128, 4), (14, 256, 8), (7, 512, 16)];

/// (images, side of the map, channels) of the MLPs of MILA-T and MILA-B.
const MLPS: [(usize, usize, usize); 12] = [
    (1, 56, 64),
    (1, 28, 128),
    (1, 14, 256),
    (1, 7, 512),
    (8, 56, 64),
    (8, 28, 128),
    (8, 14, 256),
    (8, 7, 512),
    (8, 56, 96),
    (8, 28, 192),
    (8, 14, 384),
    (8, 7, 768),
];

struct Bench {
    isa: Isa,
    filter: String,
    pools: [ThreadPool; 2],
}

/// What a rate counts.
enum Work {
    Flops(usize),
    Bytes(usize),
}

impl Bench {
    /// Prints a line for `body`, of the kernel called `name`.
    fn line(&self, name: &str, shape: &str, work: Work, mut body: impl FnMut() + Send) {
        if !name.contains(&self.filter) {
            return;
        }
        print!("{name:<22} {shape:<22}");
        for pool in &self.pools {
            let seconds = pool.install(|| fastest(&mut body));
            let (rate, unit) = match work {
                Work::Flops(flops) => (flops as f64 / seconds / 1e9, "GFLOP/s"),
                Work::Bytes(bytes) => (bytes as f64 / seconds / 1e9, "GB/s"),
            };
            print!("{:9.4} ms {rate:7.1} {unit:<8}", seconds * 1e3);
        }
        println!();
    }
}

/// The time of the fastest call, in seconds.
fn fastest(body: &mut impl FnMut()) -> f64 {
    body();
    let (mut best, mut calls, start) = (f64::INFINITY, 0, Instant::now());
    while calls < 10 || start.elapsed().as_secs_f64() < 0.15 {
        let start = Instant::now();
        body();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let level = arguments.first().and_then(|name| Level::from_name(name));
    let isa = level.and_then(Isa::new).unwrap_or(Isa::detect());
    let filter = arguments.last().filter(|name| Level::from_name(name).is_none()).cloned().unwrap_or_default();
    let pools = [1, 2].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool starts"));
    let bench = Bench { isa, filter, pools };
    println!("{isa}; columns: one thread, two threads");
    linears(&bench);
    mlps(&bench);
    convolutions(&bench);
    for (side, channels, heads) in [(56, 96, 3), (28, 192, 6), (14, 384, 12), (7, 768, 24)] {
        for shift in [0, 3] {
            let map = Map { batch: 1, height: side, width: side, channels };
            windows(&bench, WindowAttention { map, heads, side: 7, shift });
        }
    }
    for (side, channels, heads) in STAGES {
        maps(&bench, Map { batch: 1, height: side, width: side, channels });
        attention(
            &bench,
            Attention {
                batch: 1,
                tokens: side * side,
                keys: channels,
                channels,
                heads,
                normalisation: Normalisation::Weights,
            },
        );
    }
}

fn linears(bench: &Bench) {
    let isa = bench.isa;
    for (side, c, _) in STAGES {
        let rows = side * side;
        for (inputs, outputs) in [(c, c), (c, 2 * c), (c, 4 * c), (4 * c, c)] {
            let (x, weight, bias) = (numbers(rows * inputs), numbers(inputs * outputs), numbers(outputs));
            let packed = PackedMatrix::from_columns(bench.isa, &weight, outputs, inputs);
            let mut y = vec![0.0; rows * outputs];
            let shape = format!("{rows} x {inputs} -> {outputs}");
            let flops = 2 * rows * inputs * outputs;
            for activation in [Activation::None, Activation::Silu, Activation::Gelu] {
                let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
                let name = format!("linear {activation:?}").to_lowercase();
                bench.line(&name, &shape, Work::Flops(flops), || linear::forward(isa, &x, &packed, epilogue, &mut y));
            }
            let (mut dx, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; outputs]);
            bench.line("linear backward", &shape, Work::Flops(2 * flops), || {
                let gradients =
                    linear::Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: Some(&mut dbias) };
                linear::backward(isa, &x, &weight, (inputs, outputs), &y, gradients);
            });
            bench.line("gemm crate", &shape, Work::Flops(flops), || gemm(rows, inputs, outputs, &x, &weight, &mut y));
        }
    }
}

/// The product without epilogue by the `gemm` crate, on one thread, in the storage that it reads fastest.
fn gemm(rows: usize, inputs: usize, outputs: usize, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let (y, x, weight) = (y.as_mut_ptr(), x.as_ptr(), weight.as_ptr());
    // SAFETY: the three matrices are row-major and as long as their extents say.
    unsafe {
        gemm::gemm(
            rows,
            outputs,
            inputs,
            y,
            1,
            outputs as isize,
            false,
            x,
            1,
            inputs as isize,
            weight,
            1,
            outputs as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn mlps(bench: &Bench) {
    for (images, side, channels) in MLPS {
        let (rows, hidden) = (images * side * side, 4 * channels);
        let (x, weight, bias) = (numbers(rows * channels), numbers(channels), numbers(channels));
        let fc1 = PackedMatrix::from_columns(bench.isa, &numbers(hidden * channels), hidden, channels);
        let fc2 = PackedMatrix::from_columns(bench.isa, &numbers(hidden * channels), channels, hidden);
        let mut y = vec![0.0; rows * channels];
        let norm = Norm { weight: &weight, bias: &bias, eps: 1e-5, centre: mila_kernels::Centre::Mean };
        let mlp = Mlp {
            fc1: &fc1,
            bias: None,
            activation: Activation::Gelu,
            fc2: &fc2,
            epilogue: Epilogue { residual: Some(&x), ..Epilogue::default() },
        };
        let shape = format!("{rows} x {channels} -> {hidden}");
        bench.line("mlp gelu", &shape, Work::Flops(4 * rows * channels * hidden), || {
            mlp::forward(bench.isa, &x, norm, mlp, &mut y);
        });
    }
}

fn convolutions(bench: &Bench) {
    let isa = bench.isa;
    for (side, inputs, outputs, stride) in [(224, 3, 32, 2), (112, 32, 32, 1), (112, 32, 256, 2)] {
        let shape = Map { batch: 1, height: side, width: side, channels: inputs };
        let window = Window { kernel: 3, stride, padding: 1 };
        let (x, weight, bias) = (numbers(shape.len()), numbers(9 * inputs * outputs), numbers(outputs));
        let packed = conv::pack_weight(bench.isa, &weight, inputs, outputs, 3);
        let mut y = vec![0.0; window.map(shape, outputs).len()];
        let flops = 2 * y.len() * 9 * inputs;
        let name = format!("{side}² {inputs} -> {outputs} s{stride}");
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu, residual: None };
        bench.line("conv 3x3 relu", &name, Work::Flops(flops), || {
            conv::forward(isa, &x, shape, window, &packed, epilogue, &mut y);
        });
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        bench.line("conv backward", &name, Work::Flops(2 * flops), || {
            let gradients = conv::Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: None };
            conv::backward(isa, &x, shape, window, &weight, &y, gradients);
        });
    }
}

fn maps(bench: &Bench, shape: Map) {
    let isa = bench.isa;
    let channels = shape.channels;
    let name = format!("{}² x {channels}", shape.height);
    let bytes = 4 * shape.len();
    let (x, dy) = (numbers(shape.len()), numbers(shape.len()));
    let (weight, bias) = (numbers(49 * channels), numbers(channels));
    let (mut y, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; 49 * channels], vec![0.0; channels]);
    for kernel in [3, 7] {
        let window = Window { kernel, stride: 1, padding: kernel / 2 };
        let weight = &weight[..kernel * kernel * channels];
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::None, residual: Some(&x) };
        bench.line(&format!("depthwise {kernel}x{kernel} + x"), &name, Work::Bytes(2 * bytes), || {
            depthwise::forward(isa, &x, shape, window, weight, epilogue, &mut y);
        });
        let dweight = &mut dweight[..weight.len()];
        bench.line(&format!("depthwise backward {kernel}"), &name, Work::Bytes(3 * bytes), || {
            let gradients = depthwise::Gradients { x: Some(&mut y), weight: Some(dweight), bias: Some(&mut dbias) };
            depthwise::backward(isa, &x, shape, window, weight, &dy, gradients);
        });
    }
    let (scale, dscale) = (&weight[..channels], &mut dweight[..channels]);
    bench.line("layer norm", &name, Work::Bytes(2 * bytes), || {
        layer_norm::forward(isa, &x, scale, Some(&bias), 1e-5, &mut y);
    });
    bench.line("layer norm backward", &name, Work::Bytes(3 * bytes), || {
        let gradients = layer_norm::Gradients { x: &mut y, weight: dscale, bias: &mut dbias };
        layer_norm::backward(isa, &x, scale, 1e-5, &dy, gradients);
    });
    bench.line("batch norm train", &name, Work::Bytes(2 * bytes), || {
        let batch = batch_norm::statistics(isa, &x, channels);
        batch_norm::forward(isa, &x, batch.with_eps(1e-5), scale, &bias, &mut y);
    });
}

/// Swin-T's windows.
fn windows(bench: &Bench, shape: WindowAttention) {
    let (isa, WindowAttention { map, heads, side, shift }) = (bench.isa, shape);
    let name = format!("{}² x {}, shift {shift}", map.height, map.channels);
    let (qkv, table) = (numbers(3 * map.len()), numbers((2 * side - 1) * (2 * side - 1) * heads));
    let (mut y, mut dqkv, mut dtable) = (vec![0.0; map.len()], vec![0.0; qkv.len()], vec![0.0; table.len()]);
    let flops = 4 * map.len() * side * side;
    bench.line("window attention", &name, Work::Flops(flops), || {
        window_attention::forward(isa, &qkv, &table, shape, &mut y);
    });
    bench.line("window backward", &name, Work::Flops(5 * flops / 2), || {
        let gradients = window_attention::Gradients { qkv: &mut dqkv, table: &mut dtable };
        window_attention::backward(isa, &qkv, &table, shape, &y, gradients);
    });
}

fn attention(bench: &Bench, shape: Attention) {
    let isa = bench.isa;
    let Attention { tokens, channels, heads, .. } = shape;
    let name = format!("{tokens} x {channels}, {heads} heads");
    let (qk, v) = (numbers(2 * tokens * channels), numbers(tokens * channels));
    let rotation: Vec<f32> = (0..tokens * channels / 2).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    let side = tokens.isqrt();
    let axis = &rotation[..side * channels / 2];
    let rotations = Rotations::new(axis, axis, channels);
    let (mut y, mut dqk) = (vec![0.0; v.len()], vec![0.0; qk.len()]);
    let flops = 4 * tokens * channels * channels / heads;
    bench.line("linear attention", &name, Work::Flops(flops), || {
        linear_attention::forward(isa, &qk, &v, shape, Some(&rotations), &mut y);
    });
    bench.line("attention backward", &name, Work::Flops(3 * flops), || {
        let gradients = linear_attention::Gradients { qk: &mut dqk, v: &mut y };
        linear_attention::backward(isa, &qk, &v, shape, Some(&rotation), &v, gradients);
    });
}

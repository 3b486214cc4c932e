use super::*;
use crate::{
    Activation, Centre, Epilogue, Isa, Map, Mlp, Norm, PackedMatrix, Window,
    arithmetic::{Arithmetic, LANES},
    conv,
    isa::Kernel,
    layer_norm, linear, mlp, rms_norm,
    testing::{assert_close, numbers, unwritten, wide},
};

/// f32 sums of up to a few hundred products, in units of the largest result, against f64 sums of the same products.
const TOLERANCE: f64 = 3e-6;

/// Numbers that differ by a float's last bits may round to neighbours, 2⁻⁸ apart: a few of the many products are off by that.
const NEIGHBOURS: f64 = 2e-3;

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| Bf16::new(x).wide()).collect()
}

/// Runs `work` on every unit of the processor and on pools of one, two and three threads, whose results must have equal bits.
fn everywhere(work: impl Fn(Bf16Unit) -> Vec<f32> + Sync, check: impl Fn(Bf16Unit, Vec<f32>)) {
    let units = Bf16Unit::available(Isa::detect());
    if units.is_empty() {
        eprintln!("SKIPPED: this processor has no unit for bf16");
    }
    for unit in units {
        let [first, second, third] = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool starts");
            pool.install(|| work(unit))
        });
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        assert!(bits(&first) == bits(&second), "{unit}: two threads change the result");
        assert!(bits(&first) == bits(&third), "{unit}: three threads change the result");
        check(unit, first);
    }
}

/// x Wᵀ for W `[outputs, inputs]`, both rounded first.
fn product(x: &[f32], weight: &[f32], inputs: usize) -> Vec<f64> {
    let (x, weight) = (wide(&rounded(x)), wide(&rounded(weight)));
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
}

/// `product` with a bias, then ReLU, then a residual.
fn finished(product: &[f64], bias: &[f32], residual: &[f32]) -> Vec<f64> {
    let biased = product.iter().enumerate().map(|(i, x)| x + f64::from(bias[i % bias.len()]));
    biased.zip(residual).map(|(x, &residual)| x.max(0.0) + f64::from(residual)).collect()
}

#[test]
fn rounding_is_to_the_nearest_and_even() {
    let cases = [
        (1.0, 0x3f80),
        (f32::from_bits(0x3f80_7fff), 0x3f80),
        (f32::from_bits(0x3f80_8000), 0x3f80),
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (f32::from_bits(0x3f81_8000), 0x3f82),
        (-0.0, 0x8000),
        (f32::MAX, 0x7f80),
        (f32::NEG_INFINITY, 0xff80),
        (f32::from_bits(0x7f80_0001), 0x7fc0),
        (f32::from_bits(0xffff_ffff), 0xffff),
    ];
    for (x, bits) in cases {
        assert_eq!(Bf16::new(x), Bf16(bits), "{x:e}, {:#x}", x.to_bits());
    }
}

/// Thirty-two floats to thirty-two numbers.
struct Narrow<'a>(&'a [f32; 32]);

impl Kernel for Narrow<'_> {
    type Output = [u32; LANES];

    #[inline(always)]
    fn run<A: Arithmetic>(self) -> [u32; LANES] {
        let mut pairs = [0.0; LANES];
        let (low, high) = self.0.split_at(LANES);
        A::store(A::narrow(A::load_part(low), A::load_part(high)), &mut pairs);
        pairs.map(f32::to_bits)
    }
}

#[test]
fn every_set_and_unit_rounds_alike() {
    let mut floats = [0.0; 32];
    for seed in 0..200 {
        floats.copy_from_slice(&numbers(seed, 32));
        floats[seed as usize % 32] = [f32::INFINITY, f32::NAN, -0.0, f32::MAX][seed as usize % 4];
        let wanted: [u32; LANES] =
            std::array::from_fn(|l| Bf16::pair(Bf16::new(floats[2 * l]), Bf16::new(floats[2 * l + 1])).to_bits());
        for isa in Isa::available() {
            assert_eq!(isa.run(Narrow(&floats)), wanted, "{isa}");
            for unit in Bf16Unit::available(isa) {
                assert_eq!(unit.run(Narrow(&floats)), wanted, "{unit}");
            }
        }
    }
}

#[test]
fn the_fastest_unit_is_taken_and_only_beside_avx512() {
    for isa in Isa::available() {
        assert_eq!(isa.bf16(), Bf16Unit::available(isa).last().copied());
        assert!(isa.level() == crate::Level::Avx512 || isa.bf16().is_none());
    }
}

#[test]
fn layers_are_the_definition() {
    let shapes = [
        (0, 8, 8),
        (1, 1, 1),
        (1, 64, 1000),
        (7, 3, 24),
        (15, 32, 32),
        (16, 33, 33),
        (49, 27, 64),
        (49, 512, 128),
        (63, 33, 33),
        (197, 96, 24),
        (500, 64, 64),
        (784, 40, 130),
    ];
    for (rows, inputs, outputs) in shapes {
        let (x, gate) = (numbers(1, rows * inputs), numbers(2, rows * inputs));
        let (weight, bias) = (numbers(3, outputs * inputs), numbers(4, outputs));
        let residual = numbers(5, rows * outputs);
        let gated: Vec<f32> = x.iter().zip(&gate).map(|(x, gate)| x * gate).collect();
        let packed = |unit| PackedMatrix::from_columns(Isa::detect(), &weight, outputs, inputs).into_bf16(unit);
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu, residual: Some(&residual) };
        for (gate, wanted) in [(None, product(&x, &weight, inputs)), (Some(&gate), product(&gated, &weight, inputs))] {
            let wanted = finished(&wanted, &bias, &residual);
            everywhere(
                |unit| {
                    let mut y = unwritten(rows * outputs);
                    match gate {
                        None => linear::forward(Isa::detect(), &x, &packed(unit), epilogue, &mut y),
                        Some(gate) => {
                            linear::forward_gated(Isa::detect(), &x, gate, &packed(unit), epilogue, &mut y);
                        }
                    }
                    y
                },
                |unit, y| assert_close(format!("{unit} {rows}x{inputs}x{outputs}"), &y, &wanted, TOLERANCE),
            );
        }
    }
}

#[test]
fn a_layer_without_inputs_is_its_bias() {
    let bias = numbers(1, 40);
    everywhere(
        |unit| {
            let weight = PackedMatrix::from_columns(Isa::detect(), &[], 40, 0).into_bf16(unit);
            let mut y = unwritten(80);
            let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
            linear::forward(Isa::detect(), &[], &weight, epilogue, &mut y);
            y
        },
        |unit, y| assert_eq!(y, bias.repeat(2), "{unit}"),
    );
}

#[test]
fn a_normed_pair_is_norm_and_layers() {
    for (rows, inputs, outputs) in [(1, 1, 3), (7, 24, 96), (63, 33, 40), (197, 64, 64), (700, 100, 96)] {
        let x: Vec<f32> = numbers(1, rows * inputs).iter().map(|x| 3.0 * x + 20.0).collect();
        let (scale, shift, zero) = (numbers(2, inputs), numbers(3, inputs), vec![0.0; inputs]);
        let weights = [numbers(4, outputs * inputs), numbers(5, 2 * outputs * inputs)];
        for (centre, bias) in [(Centre::Mean, &shift), (Centre::Zero, &zero)] {
            let norm = Norm { weight: &scale, bias, eps: 1e-5, centre };
            let mut normed = unwritten(x.len());
            match centre {
                Centre::Mean => layer_norm::forward(Isa::detect(), &x, &scale, Some(bias), 1e-5, &mut normed),
                Centre::Zero => rms_norm::forward(Isa::detect(), &x, &scale, 1e-5, &mut normed),
            }
            let wanted = weights.each_ref().map(|weight| product(&normed, weight, inputs)).concat();
            everywhere(
                |unit| {
                    let [first, second] =
                        [(&weights[0], outputs), (&weights[1], 2 * outputs)].map(|(weight, columns)| {
                            PackedMatrix::from_columns(Isa::detect(), weight, columns, inputs).into_bf16(unit)
                        });
                    let mut y = unwritten(3 * rows * outputs);
                    let (y_1, y_2) = y.split_at_mut(rows * outputs);
                    let layers = [(&first, Epilogue::default(), y_1), (&second, Epilogue::default(), y_2)];
                    linear::forward_normed_pair(Isa::detect(), &x, norm, layers);
                    y
                },
                |unit, y| {
                    assert_close(format!("{unit} {centre:?} {rows}x{inputs}x{outputs}"), &y, &wanted, NEIGHBOURS);
                },
            );
        }
    }
}

#[test]
fn convolutions_are_products_of_windows() {
    let cases = [
        ([2, 7, 9, 3], 32, [3, 2, 1]),
        ([1, 14, 15, 32], 24, [3, 1, 1]),
        ([1, 16, 12, 3], 96, [4, 4, 0]),
        ([1, 5, 5, 4], 3, [1, 2, 1]),
        ([1, 40, 40, 8], 64, [3, 1, 1]),
    ];
    for ([batch, height, width, channels], outputs, [kernel, stride, padding]) in cases {
        let (shape, window) = (Map { batch, height, width, channels }, Window { kernel, stride, padding });
        let x = numbers(1, shape.len());
        let weight = numbers(2, outputs * channels * window.taps());
        let [small_x, small_weight] = [&x, &weight].map(|x| rounded(x));
        let mut exact = unwritten(window.map(shape, outputs).len());
        let packed = conv::pack_weight(Isa::detect(), &small_weight, channels, outputs, kernel);
        conv::forward(Isa::detect(), &small_x, shape, window, &packed, Epilogue::default(), &mut exact);
        everywhere(
            |unit| {
                let packed = conv::pack_weight(Isa::detect(), &weight, channels, outputs, kernel).into_bf16(unit);
                let mut y = unwritten(exact.len());
                conv::forward(Isa::detect(), &x, shape, window, &packed, Epilogue::default(), &mut y);
                y
            },
            |unit, y| assert_close(format!("{unit} {shape:?} {window:?}"), &y, &wide(&exact), TOLERANCE),
        );
    }
}

#[test]
fn the_mlp_is_its_composition() {
    let shapes = [(1, 3, 5, 2), (7, 24, 96, 24), (49, 64, 256, 60), (197, 32, 130, 33), (700, 16, 64, 16)];
    for (rows, inputs, hidden, outputs) in shapes {
        let x = numbers(1, rows * inputs);
        let (scale, shift) = (numbers(2, inputs), numbers(3, inputs));
        let weights = [numbers(4, hidden * inputs), numbers(5, outputs * hidden)];
        let (bias_1, bias_2, residual) = (numbers(6, hidden), numbers(7, outputs), numbers(8, rows * outputs));
        let mut normed = unwritten(x.len());
        layer_norm::forward(Isa::detect(), &x, &scale, Some(&shift), 1e-5, &mut normed);
        let middle = finished(&product(&normed, &weights[0], inputs), &bias_1, &vec![0.0; rows * hidden]);
        let middle: Vec<f32> = middle.iter().map(|&x| x as f32).collect();
        let wanted: Vec<f64> = product(&middle, &weights[1], hidden)
            .iter()
            .zip(&residual)
            .enumerate()
            .map(|(i, (x, &residual))| x + f64::from(bias_2[i % outputs]) + f64::from(residual))
            .collect();
        everywhere(
            |unit| {
                let fc1 = PackedMatrix::from_columns(Isa::detect(), &weights[0], hidden, inputs).into_bf16(unit);
                let fc2 = PackedMatrix::from_columns(Isa::detect(), &weights[1], outputs, hidden).into_bf16(unit);
                let layers = Mlp {
                    fc1: &fc1,
                    bias: Some(&bias_1),
                    activation: Activation::Relu,
                    fc2: &fc2,
                    epilogue: Epilogue { bias: Some(&bias_2), activation: Activation::None, residual: Some(&residual) },
                };
                let mut y = unwritten(rows * outputs);
                mlp::forward(
                    Isa::detect(),
                    &x,
                    Norm { weight: &scale, bias: &shift, eps: 1e-5, centre: Centre::Mean },
                    layers,
                    &mut y,
                );
                y
            },
            |unit, y| assert_close(format!("{unit} {rows}x{inputs}x{hidden}"), &y, &wanted, NEIGHBOURS),
        );
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_row() {
    let (mut x, weight) = (numbers(1, 40 * 33), numbers(2, 33 * 33));
    x[7 * 33 + 32] = f32::NAN;
    x[20 * 33] = f32::INFINITY;
    everywhere(
        |unit| {
            let weight = PackedMatrix::from_columns(Isa::detect(), &weight, 33, 33).into_bf16(unit);
            let mut y = unwritten(40 * 33);
            linear::forward(Isa::detect(), &x, &weight, Epilogue::default(), &mut y);
            y.iter().map(|y| f32::from(y.is_nan()) + 2.0 * f32::from(y.is_infinite())).collect()
        },
        |unit, kinds| {
            for (row, kinds) in kinds.chunks_exact(33).enumerate() {
                let wanted = [(7, 1.0), (20, 2.0)].into_iter().find(|(at, _)| *at == row).map_or(0.0, |(_, kind)| kind);
                assert!(kinds.iter().all(|&kind| kind == wanted), "{unit} row {row}");
            }
        },
    );
}

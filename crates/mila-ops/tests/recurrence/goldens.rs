//! Numbers that an independent computation gave, in seven digits.

use mila_ops::recurrence::{Course, Decay, Delta, Gate, InputGate, NonCausal, Normaliser, Part, Sequence, recurrent};
use mila_ops::reference::{Array, Reference, Table, recurrence_gradients};
use mila_ops::{Dims, Executor, Recurrence, RecurrenceOn, ScanOrder};

use crate::golden;

/// `ln(1 + eˣ)`.
fn softplus(x: f64) -> f64 {
    x.exp().ln_1p()
}

/// Half a unit of the last printed digit, and what rounding gives on top.
fn check(what: &str, found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (f, w) in found.iter().zip(wanted) {
        assert!((f - w).abs() < 6e-8, "{what}: {f} for {w}");
    }
}

/// The weights of the test loss.
fn weights() -> Vec<f64> {
    (0..4).flat_map(|t| [0, 1].map(|c| (0.3 * (t + 1) as f64 + (c + 1) as f64).cos())).collect()
}

/// Arguments of the softplus of the factored gate.
fn raw() -> Vec<f64> {
    (0..4).flat_map(|t| [0, 1].map(|c| (0.5 * ((t + 1) * (c + 1)) as f64).sin())).collect()
}

fn row(values: Vec<f64>, channels: usize) -> Array<f64> {
    Array::new(Dims::new(1, 1, values.len() / channels, channels), values)
}

fn factored(s: &mut Sequence<f64>) {
    let delta: Vec<f64> = raw().into_iter().map(softplus).collect();
    s.u.iter_mut().zip(&delta).for_each(|(u, d)| *u *= d);
    s.decay = Decay::Factored { delta, a: vec![-1.0, -2.0, -1.0, -2.0] };
}

fn logs(f: impl Fn(usize, usize) -> f64, width: usize) -> Vec<f64> {
    (0..4).flat_map(|t| (0..width).map(|n| f(t + 1, n + 1)).collect::<Vec<_>>()).map(|x| -0.1 * x).collect()
}

#[test]
fn plain_recurrences() {
    let scalar = Decay::Scalar(logs(|t, _| t as f64, 1));
    let keys = Decay::Keys(logs(|t, n| (t * n) as f64, 2));
    let cases: [(&str, Decay<f64>, [f64; 8], f64); 4] = [
        (
            "without decay",
            Decay::None,
            [
                -1.566_499_6,
                -5.016_143_2,
                -4.207_055_5,
                -6.965_565_4,
                -4.877_134_0,
                -4.314_064_2,
                -4.738_096_1,
                -2.002_850_7,
            ],
            19.567_970_369,
        ),
        (
            "a constant",
            Decay::Constant(vec![0.9_f64.ln()]),
            [
                -1.566_499_6,
                -5.016_143_2,
                -4.064_394_8,
                -6.508_746_5,
                -4.456_085_0,
                -3.493_863_6,
                -4.078_713_6,
                -1.096_433_3,
            ],
            16.946_941_484,
        ),
        (
            "a number per token",
            scalar,
            [
                -1.566_499_6,
                -5.016_143_2,
                -3.948_455_5,
                -6.137_493_2,
                -3.887_628_0,
                -2.514_155_1,
                -3.012_325_4,
                0.027_011_7,
            ],
            13.741_301_298,
        ),
        (
            "along the keys",
            keys,
            [
                -1.566_499_6,
                -5.016_143_2,
                -3.881_370_6,
                -5.922_678_6,
                -3.825_073_5,
                -2.378_734_1,
                -2.846_871_3,
                0.197_954_7,
            ],
            13.135_537_528,
        ),
    ];
    for (what, decay, wanted, loss) in cases {
        let (found, _) = recurrent::forward(&Sequence { decay, ..golden() }, 4);
        check(what, &found, &wanted);
        let found: f64 = found.iter().zip(weights()).map(|(y, w)| y * w).sum();
        assert!((found - loss).abs() < 1e-9, "{what}: {found} for {loss}");
    }
}

#[test]
fn gates_along_the_values() {
    let ones = vec![1.0; 4];
    let decay = Decay::Values(logs(|t, c| (t * c) as f64, 2));
    let s = Sequence { keys: 1, q: ones.clone(), k: ones, start: vec![0.0; 2], decay, ..golden() };
    let wanted =
        [-0.255_541_1, -0.818_277_1, -1.027_496_5, -1.254_047_9, -1.757_352_7, -0.109_796_3, -1.883_529_1, 0.852_837_2];
    check("gates along the values", &recurrent::forward(&s, 4).0, &wanted);
}

/// Real-gated linear recurrent unit (arXiv 2402.19427): `√(1 - a²)` of the input, all of it at the first step.
#[test]
fn rg_lru() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let wave = |t: usize, c: usize| 0.5 * ((t + 1) * (c + 1)) as f64;
    let mut s = golden();
    let mut decays = Vec::new();
    for t in 0..4 {
        for (c, lambda) in [0.5, 1.5].into_iter().enumerate() {
            let log = -8.0 * softplus(lambda) * sigmoid(wave(t, c).sin());
            let share = if t == 0 { 1.0 } else { (-(2.0 * log).exp_m1()).sqrt() };
            s.u[2 * t + c] *= share * sigmoid(wave(t, c).cos());
            decays.push(log);
        }
    }
    let ones = vec![1.0; 4];
    let s = Sequence { keys: 1, q: ones.clone(), k: ones, start: vec![0.0; 2], decay: Decay::Values(decays), ..s };
    let wanted =
        [-0.180_494_1, -0.517_055_2, -0.517_829_5, -0.280_440_9, -0.517_433_3, 0.156_514_8, -0.282_408_7, 0.310_696_2];
    check("RG-LRU", &recurrent::forward(&s, 4).0, &wanted);
}

#[test]
fn factored_gates_and_their_gradients() {
    let mut s = golden();
    factored(&mut s);
    let (outputs, state) = recurrent::forward(&s, 4);
    let wanted =
        [-1.505_907_5, -6.018_858_0, -3.657_895_9, -4.209_814_7, -2.853_182_4, -0.843_912_6, -1.822_732_0, 0.120_844_0];
    check("S6", &outputs, &wanted);
    check("S6, last state", &state, &[-0.798_294_8, -0.181_064_5, -1.445_563_0, 0.598_777_9]);
    let plain = Sequence { u: golden().u, ..s };
    let wanted =
        [-1.566_499_6, -5.016_143_2, -3.115_032_8, -3.412_824_6, -2.244_294_9, -0.334_317_8, -1.453_194_4, 1.174_269_0];
    check("S6 without input gate", &recurrent::forward(&plain, 4).0, &wanted);

    // The operator, whose gradients are those of what stands before the softplus and the exponential.
    let (q, k, v, raw) = (row(golden().q, 2), row(golden().k, 2), row(golden().u, 2), row(raw(), 2));
    let a_log = Table::from(vec![0.0, 2.0_f64.ln(), 0.0, 2.0_f64.ln()]);
    let delta = Delta { raw: (&raw).into(), bias: None };
    let r: RecurrenceOn<'_, Reference<f64>> = Recurrence {
        gate: Gate::Factored { delta, a_log: (&a_log).into() },
        input_gate: InputGate::OfGate,
        ..Recurrence::causal((&q).into(), (&k).into(), (&v).into(), ScanOrder::ROWS)
    };
    let (y, last) = Reference::eval().recurrence(&r).unwrap();
    check("operator", &y.values, &outputs);
    check("operator, last state", &last.values, &state);
    let g = recurrence_gradients(&r, &row(weights(), 2), &Array::zeros(last.dims)).unwrap();
    let wanted_q =
        [1.123_563_0, 0.839_969_3, 1.583_069_5, 0.445_413_4, 0.938_200_5, 0.112_675_0, 0.650_553_1, 0.252_958_6];
    let wanted_k =
        [1.853_758_7, 1.273_947_7, 2.837_217_5, 1.106_168_9, -0.114_056_2, -0.084_827_7, 0.212_681_6, 0.098_949_0];
    let wanted_v =
        [1.419_909_3, -6.991_065_9, -0.491_535_8, -5.861_616_1, -0.908_427_5, -1.789_591_7, -1.069_752_7, -0.559_466_9];
    let of_delta =
        [-0.377_444_7, 4.767_598_0, 0.293_707_8, 1.464_924_2, 0.349_345_5, -3.661_043_5, 0.267_961_3, -1.666_808_2];
    check("q", &g.q.values, &wanted_q);
    check("k", &g.k.values, &wanted_k);
    check("v", &g.v.values, &wanted_v);
    let sigmoids = raw.values.iter().map(|x| 1.0 / (1.0 + (-x).exp()));
    let found: Vec<f64> = g.gate.values.iter().zip(sigmoids).map(|(g, s)| g / s).collect();
    check("step sizes", &found, &of_delta);
    // Of A, with rows n and columns c, here by channel; A times that of A is that of a_log.
    let of_a = [0.852_031_8, 0.032_480_6, 3.780_348_6, 0.216_870_5];
    let found: Vec<f64> = g.a_log.iter().zip([-1.0, -2.0, -1.0, -2.0]).map(|(g, a)| g / a).collect();
    check("A", &found, &of_a);
}

#[test]
fn normalised_recurrences_and_their_gradients() {
    let (q, k, v) = (row(golden().q, 2), row(golden().k, 2), row(golden().u, 2));
    let keys = row(logs(|t, n| (t * n) as f64, 2), 2);
    let causal = || -> RecurrenceOn<'_, Reference<f64>> {
        Recurrence::causal((&q).into(), (&k).into(), (&v).into(), ScanOrder::ROWS)
    };
    let (gated, ungated) = (Normaliser::Gated { eps: 1e-6 }, Normaliser::Ungated { eps: 1e-6 });
    let along_keys = || Gate::Keys(Part::All(&keys));
    let cases = [
        (
            "without decay",
            Recurrence { normaliser: gated, ..causal() },
            [
                -0.255_541_1,
                -0.818_277_0,
                -0.468_459_2,
                -0.775_621_7,
                -0.581_988_0,
                -0.514_796_9,
                -0.598_725_8,
                -0.253_088_7,
            ],
        ),
        (
            "non-causal",
            Recurrence { course: Course::NonCausal(NonCausal::Sum), normaliser: ungated, ..causal() },
            [
                -0.596_577_8,
                -0.159_300_8,
                -0.598_102_2,
                -0.225_863_6,
                -0.599_990_7,
                -0.308_329_1,
                -0.598_725_5,
                -0.253_088_6,
            ],
        ),
        (
            "non-causal mean",
            Recurrence { course: Course::NonCausal(NonCausal::Mean), normaliser: gated, ..causal() },
            [
                -0.596_577_8,
                -0.159_300_8,
                -0.598_102_2,
                -0.225_863_6,
                -0.599_990_7,
                -0.308_329_1,
                -0.598_725_5,
                -0.253_088_6,
            ],
        ),
        (
            "a constant",
            Recurrence { gate: Gate::Constant(vec![0.9]), normaliser: gated, ..causal() },
            [
                -0.255_541_1,
                -0.818_277_0,
                -0.482_572_3,
                -0.772_794_3,
                -0.607_114_1,
                -0.476_017_4,
                -0.623_606_1,
                -0.167_636_8,
            ],
        ),
        (
            "along the keys",
            Recurrence { gate: along_keys(), normaliser: gated, ..causal() },
            [
                -0.255_541_1,
                -0.818_277_0,
                -0.503_673_0,
                -0.768_567_0,
                -0.647_017_9,
                -0.402_367_1,
                -0.667_143_8,
                0.046_389_2,
            ],
        ),
        (
            "along the keys, ungated",
            Recurrence { gate: along_keys(), normaliser: ungated, ..causal() },
            [
                -0.255_541_1,
                -0.818_277_0,
                -0.432_193_9,
                -0.659_495_3,
                -0.456_445_7,
                -0.283_854_1,
                -0.359_742_6,
                0.025_014_4,
            ],
        ),
    ];
    for (what, r, wanted) in cases {
        let (y, _) = Reference::eval().recurrence(&r).unwrap();
        // The gate of 0.9 is an f32.
        y.values.iter().zip(wanted).for_each(|(y, w)| assert!((y - w).abs() < 1.5e-7, "{what}: {y} for {w}"));
    }

    let r = Recurrence { gate: along_keys(), normaliser: gated, ..causal() };
    let state = Array::zeros(Dims::new(1, 1, 2, 3));
    let g = recurrence_gradients(&r, &row(weights(), 2), &state).unwrap();
    let wanted_q = [0.0, 0.0, -0.001_131_0, 0.001_823_1, 0.006_895_2, -0.031_170_7, 0.125_366_4, -0.269_463_1];
    let wanted_k =
        [0.132_266_3, 0.024_581_6, 0.188_720_1, 0.033_754_1, -0.322_498_4, -0.077_295_0, -0.241_541_1, -0.112_375_8];
    let wanted_v = [
        -0.026_269_9,
        -1.780_674_7,
        -0.252_541_1,
        -0.927_998_4,
        -0.193_771_1,
        -0.442_935_0,
        -0.200_909_0,
        -0.340_808_9,
    ];
    let wanted_log = [0.0, 0.0, 0.252_535_6, 0.035_087_2, 0.524_170_0, 0.047_719_9, 0.261_926_0, 0.022_018_2];
    check("q", &g.q.values, &wanted_q);
    check("k", &g.k.values, &wanted_k);
    check("v", &g.v.values, &wanted_v);
    check("logarithms", &g.gate.values, &wanted_log);
}

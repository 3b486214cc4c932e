//! bf16 products in whole models, on every unit of the processor, against f32.

use mila_cpu::{Bf16Unit, Cpu, Isa, Precision, Recycling};
use mila_models::{Preset, Task};
use mila_ops::{Dims, NoTap, Numeric, Result, Seeded, Source, Values, Wanted};

/// max|difference| / std of the logits; docs/numerics.md has the reason.
const BOUND: f64 = 3e-2;

/// Logits of a model with the weights of `source`, of a batch of random images.
fn logits(mut cpu: Cpu, preset: &Preset, (source, seed): (&dyn Source, u64), [batch, size]: [usize; 2]) -> Vec<f32> {
    let task = Task::Classify { classes: 1000 };
    let model = preset.build(&mut cpu, source, task).expect("a registered model is built");
    let dims = Dims::new(batch, size, size, 3);
    let mut state = seed;
    let mut pixel = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    let values: Vec<f32> = (0..dims.volume()).map(|_| pixel()).collect();
    let image = cpu.map(dims, &values).expect("the image has the values of its dims");
    let output = model.forward(&cpu, image, &mut NoTap).expect("a model takes an image");
    let logits = output.logits().expect("a classifier gives logits");
    cpu.read(&logits).expect("a map can be read").values
}

/// max|difference| / std and the root mean square of the difference / std.
fn distance(found: &[f32], wanted: &[f32]) -> (f64, f64) {
    assert_eq!(found.len(), wanted.len());
    let count = wanted.len() as f64;
    let mean = wanted.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let std = (wanted.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count).sqrt();
    let differences = found.iter().zip(wanted).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
    // NaN is larger than all.
    let largest = differences.clone().fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most });
    (largest / std, (differences.map(|x| x * x).sum::<f64>() / count).sqrt() / std)
}

fn check(name: &str, extents: [usize; 2], seeds: std::ops::Range<u64>) {
    let preset = Preset::find(name).expect("the model is registered");
    let units = Bf16Unit::available(Isa::detect());
    if units.is_empty() {
        return eprintln!("SKIPPED: this processor has no unit for bf16");
    }
    for seed in seeds {
        let source = Seeded::new(seed);
        let wanted = logits(Cpu::default(), preset, (&source, seed), extents);
        for &unit in &units {
            let cpu = Cpu::with_recycling(Isa::detect(), Recycling::Poisoned).with_precision(Precision::Bf16(unit));
            let (largest, typical) = distance(&logits(cpu, preset, (&source, seed), extents), &wanted);
            eprintln!("{name} {extents:?} seed {seed} {unit}: max {largest:.2e}, rms {typical:.2e} of std");
            assert!(largest <= BOUND, "{name}, {unit}: expected at most {BOUND} of std, found {largest}");
        }
    }
}

#[test]
fn mila_t_in_bf16_is_near_f32() {
    check("mila-t", [1, 224], 0..1);
}

#[test]
fn a_small_model_in_bf16_is_near_f32() {
    check("mila-nano", [3, 40], 0..3);
}

#[test]
fn a_recurrence_in_bf16_is_near_f32() {
    check("ablation-forget-gate-32", [3, 32], 0..2);
}

/// Its norms have no mean. It takes images of 224 pixels only.
#[test]
fn root_mean_square_norms_in_bf16_are_near_f32() {
    check("vim-ti", [1, 224], 0..1);
}

/// Random weights, but for the biases of step sizes.
struct Biased {
    seeded: Seeded,
    bias: f32,
}

impl Source for Biased {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        if wanted.name.ends_with("dt_projs_bias") || wanted.name.ends_with("dt_proj.bias") {
            return Ok(Values::F32(vec![self.bias; wanted.volume()].into()));
        }
        self.seeded.load(wanted)
    }
}

/// Steps of 50 and of 2e-22.
#[test]
fn step_sizes_far_in_both_tails_stay_finite() {
    let units = Bf16Unit::available(Isa::detect());
    for precision in [Precision::F32].into_iter().chain(units.into_iter().map(Precision::Bf16)) {
        for name in ["vmamba-t", "ablation-forget-gate-32"] {
            let preset = Preset::find(name).expect("the model is registered");
            let found = |source: &dyn Source| {
                let cpu = Cpu::with_recycling(Isa::detect(), Recycling::Poisoned).with_precision(precision);
                logits(cpu, preset, (source, 0), [2, 32])
            };
            let seeded = Seeded::new(1);
            let plain = found(&seeded);
            for bias in [-50.0, 50.0] {
                let biased = found(&Biased { seeded, bias });
                assert!(biased.iter().all(|x| x.is_finite()), "{name}, bias {bias}, {precision:?}");
                assert_ne!(biased, plain, "{name}, {precision:?}: the bias {bias} changes nothing");
            }
        }
    }
}

//! The numbers behind the pictures against their definition, in f64, from what a model taps and from its parameters by name; and
//! what there is to see in every family.

use std::collections::HashMap;

use mila_cpu::Cpu;
use mila_inspect::{Layer, Spread, TokenMap, layers};
use mila_models::{Architecture, Model, Task, mila, vmamba};
use mila_ops::reference::{Array, Reference};
use mila_ops::{Builder, Dims, Executor, Numeric, Result, Tap};
use mila_parity::{
    CONVNEXT_REDUCED, Formula, MAMBA_ND_REDUCED, MAMBAOUT_REDUCED, MILA_REDUCED, SWIN_REDUCED, VIM_REDUCED,
    VMAMBA_REDUCED, VMAMBA_V0_REDUCED, ablation_reduced, formula, formula_input,
};

const CLASSES: Task = Task::Classify { classes: 10 };

fn built<E: Executor + 'static>(e: &mut E, architecture: Architecture) -> Box<dyn Model<E>> {
    architecture.build(&mut Builder::new(e, &Formula), CLASSES).expect("a model")
}

fn image(height: usize, width: usize) -> Array<f32> {
    Array::new(Dims::new(1, height, width, 3), formula_input(height * width * 3))
}

/// What the layers do on the fast executor.
fn seen(architecture: Architecture, image: &Array<f32>) -> Vec<Layer> {
    let mut cpu = Cpu::default();
    let model = built(&mut cpu, architecture);
    layers(&cpu, model.as_ref(), image, Some([0.5, 0.5])).expect("a pass")
}

/// Every map of a pass of the reference in f64.
fn tapped(architecture: Architecture, image: &Array<f32>) -> HashMap<String, Array<f64>> {
    struct All(HashMap<String, Array<f64>>);
    impl Tap<Reference<f64>> for All {
        fn wants(&self, _: &str) -> bool {
            true
        }
        fn see(&mut self, name: &str, map: Array<f64>) -> Result<Array<f64>> {
            self.0.insert(name.to_owned(), map.clone());
            Ok(map)
        }
    }
    let mut reference = Reference::<f64>::eval();
    let model = built(&mut reference, architecture);
    let mut all = All(HashMap::new());
    let map = reference.map(image.dims, &image.values).expect("a map");
    model.forward(&reference, map, &mut all).expect("a pass");
    all.0
}

fn parameter(name: &str, shape: &[usize]) -> Vec<f64> {
    formula(name, shape).expect("a rule").into_iter().map(f64::from).collect()
}

fn softplus(x: f64) -> f64 {
    (1.0 + x.exp()).ln()
}

/// Within what f32 makes of sums of some hundred products.
fn check(what: &str, found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-3), "{what}: {found} for {wanted}");
}

fn check_map(what: &str, found: &TokenMap, (height, width): (usize, usize), wanted: &[f64]) {
    assert_eq!((found.height, found.width, found.values.len()), (height, width, wanted.len()), "{what}");
    for (n, (&found, &wanted)) in found.values.iter().zip(wanted).enumerate() {
        check(&format!("{what}, token {n}"), found, wanted);
    }
}

/// Figure 4b of the MILA paper: the mean of `exp(Δ A)`, `Δ = softplus(W2 W1 x + b)`, over tokens, channels and keys.
#[test]
fn forget_gates_of_the_ablation() {
    let (architecture, image) = (ablation_reduced("forget-gate"), image(16, 12));
    let (found, maps) = (seen(architecture, &image), tapped(architecture, &image));
    assert_eq!(found.len(), 4);
    for layer in &found {
        let raw = &maps[&format!("{}.forget_gate", layer.name)];
        let channels = raw.dims.channels;
        let bias = parameter(&format!("{}.dt_proj.bias", layer.name), &[channels]);
        let a_log = parameter(&format!("{}.A_log", layer.name), &[channels, 8]);
        let gate = |i: usize, key: usize| {
            let delta = softplus(raw.values[i] + bias[i % channels]);
            (-a_log[i % channels * 8 + key].exp() * delta).exp()
        };
        let sum: f64 = (0..raw.values.len()).map(|i| (0..8).map(|key| gate(i, key)).sum::<f64>()).sum();
        assert_eq!((layer.forget_gates.len(), layer.input_gate.is_none()), (1, true));
        check(&layer.name, layer.forget_gates[0], sum / (raw.values.len() * 8) as f64);
    }
}

/// Figure 4a: the input gate of every token, the mean over channels; and Figure 5: the spread of the lengths of tokens.
#[test]
fn input_gates_and_token_norms_of_the_ablation() {
    let (architecture, image) = (ablation_reduced("input-gate"), image(13, 16));
    let (found, maps) = (seen(architecture, &image), tapped(architecture, &image));
    assert_eq!(found.len(), 4);
    for layer in &found {
        let gate = &maps[&format!("{}.input_gate", layer.name)];
        let channels = gate.dims.channels;
        let means: Vec<f64> =
            gate.values.chunks(channels).map(|token| token.iter().sum::<f64>() / channels as f64).collect();
        let map = layer.input_gate.as_ref().expect("an input gate");
        check_map(&layer.name, map, (gate.dims.height, gate.dims.width), &means);
        assert!(layer.forget_gates.is_empty());

        let tokens = &maps[&layer.name];
        let lengths: Vec<f64> =
            tokens.values.chunks(channels).map(|token| token.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
        let (mean, norms) = (lengths.iter().sum::<f64>() / lengths.len() as f64, layer.token_norms.expect("norms"));
        check(&layer.name, norms.mean, mean);
        let square: f64 = lengths.iter().map(|length| (length - mean) * (length - mean)).sum();
        check(&layer.name, norms.std, (square / lengths.len() as f64).sqrt());
    }
}

/// One direction of a selective scan: its projection `[delta | B | C]`, where that begins, and its parameters.
struct Direction<'a> {
    projected: &'a Array<f64>,
    first: usize,
    rank: usize,
    /// `[channels, rank]`, `[channels]` and `[channels, states]`.
    weight: &'a [f64],
    bias: &'a [f64],
    a_log: &'a [f64],
}

impl Direction<'_> {
    /// Step sizes per token and channel.
    fn steps(&self) -> Vec<f64> {
        let tokens = self.projected.values.chunks(self.projected.dims.channels);
        let of_token = |token: &[f64]| -> Vec<f64> {
            let delta = &token[self.first..self.first + self.rank];
            let rows = self.weight.chunks(self.rank).zip(self.bias);
            rows.map(|(row, b)| softplus(b + row.iter().zip(delta).map(|(w, d)| w * d).sum::<f64>())).collect()
        };
        tokens.flat_map(of_token).collect()
    }

    /// The mean step size of every token.
    fn input_gate(&self) -> Vec<f64> {
        let channels = self.bias.len();
        self.steps().chunks(channels).map(|token| token.iter().sum::<f64>() / channels as f64).collect()
    }

    /// The mean over channels of `Σ_n C_in B_jn exp(A_n Σ_{j < r ≤ i} Δ_r) Δ_j` for the token i and every token j before it along
    /// `order`.
    fn attention(&self, order: &[usize], i: usize) -> Vec<f64> {
        let (steps, channels) = (self.steps(), self.bias.len());
        let states = self.a_log.len() / channels;
        let part = |token: usize, part: usize, n: usize| {
            let row = &self.projected.values[token * self.projected.dims.channels..];
            row[self.first + self.rank + part * states + n]
        };
        let end = order.iter().position(|&token| token == i).expect("a token of the order");
        let mut weights = vec![0.0; order.len()];
        for (from, &j) in order[..=end].iter().enumerate() {
            for c in 0..channels {
                let waited: f64 = order[from + 1..=end].iter().map(|&r| steps[r * channels + c]).sum();
                let of_state = |n: usize| {
                    let a = -self.a_log[c * states + n].exp();
                    part(i, 1, n) * part(j, 0, n) * (a * waited).exp() * steps[j * channels + c]
                };
                weights[j] += (0..states).map(of_state).sum::<f64>() / channels as f64;
            }
        }
        weights
    }

    fn forget_gate(&self) -> f64 {
        let (steps, channels) = (self.steps(), self.bias.len());
        let states = self.a_log.len() / channels;
        let gate = |i: usize, n: usize| (-self.a_log[i % channels * states + n].exp() * steps[i]).exp();
        let sum: f64 = (0..steps.len()).map(|i| (0..states).map(|n| gate(i, n)).sum::<f64>()).sum();
        sum / (steps.len() * states) as f64
    }
}

fn mean_of(all: &[Vec<f64>]) -> Vec<f64> {
    (0..all[0].len()).map(|n| all.iter().map(|one| one[n]).sum::<f64>() / all.len() as f64).collect()
}

/// Four directions that share their tensors.
#[test]
fn gates_of_vmamba() {
    let config = vmamba::Config { states: 3, ..VMAMBA_REDUCED };
    let (architecture, image) = (Architecture::VMamba(config), image(32, 24));
    let (found, maps) = (seen(architecture, &image), tapped(architecture, &image));
    let (layer, name) = (&found[0], "layers.0.blocks.0.op");
    assert_eq!((layer.name.as_str(), layer.forget_gates.len()), (name, 4));
    let (channels, rank, states) = (config.ratio * 16, 1, 3);
    let projected = &maps[&format!("{name}.x_proj_weight")];
    let weight = parameter(&format!("{name}.dt_projs_weight"), &[4, channels, rank]);
    let bias = parameter(&format!("{name}.dt_projs_bias"), &[4, channels]);
    let a_log = parameter(&format!("{name}.A_logs"), &[4 * channels, states]);
    let direction = |d: usize| Direction {
        projected,
        first: d * (rank + 2 * states),
        rank,
        weight: &weight[d * channels * rank..][..channels * rank],
        bias: &bias[d * channels..][..channels],
        a_log: &a_log[d * channels * states..][..channels * states],
    };
    let directions = [0, 1, 2, 3].map(direction);
    for (found, direction) in layer.forget_gates.iter().zip(&directions) {
        check(name, *found, direction.forget_gate());
    }
    let map = layer.input_gate.as_ref().expect("an input gate");
    check_map(name, map, (8, 6), &mean_of(&directions.map(|direction| direction.input_gate())));
}

/// Two directions with tensors of their own, over a row with a class token behind its seventh patch. The eighth looks, which is
/// in the middle of the grid.
#[test]
fn gates_and_attention_of_vim_are_on_its_grid() {
    let (architecture, image) = (Architecture::Vim(VIM_REDUCED), image(48, 80));
    let (found, maps) = (seen(architecture, &image), tapped(architecture, &image));
    assert_eq!(found.len(), 3);
    let (channels, rank, states) = (64, 2, 16);
    for layer in &found {
        let name = &layer.name;
        let of = |part: &str, shape: &[usize]| parameter(&format!("{name}.{part}"), shape);
        let mut gates = Vec::new();
        let mut attention = vec![0.0; 16];
        let rows: Vec<usize> = (0..16).collect();
        let back: Vec<usize> = (0..16).rev().collect();
        for (suffix, a_log, forget_gate, order) in
            [("", "A_log", layer.forget_gates[0], &rows), ("_b", "A_b_log", layer.forget_gates[1], &back)]
        {
            let direction = Direction {
                projected: &maps[&format!("{name}.x_proj{suffix}")],
                first: 0,
                rank,
                weight: &of(&format!("dt_proj{suffix}.weight"), &[channels, rank]),
                bias: &of(&format!("dt_proj{suffix}.bias"), &[channels]),
                a_log: &of(a_log, &[channels, states]),
            };
            check(name, forget_gate, direction.forget_gate());
            gates.push(direction.input_gate());
            attention.iter_mut().zip(direction.attention(order, 8)).for_each(|(sum, weight)| *sum += weight);
        }
        attention.remove(7);
        let found = layer.attention.as_ref().expect("attention");
        let largest = attention.iter().fold(0.0_f64, |largest, weight| largest.max(weight.abs()));
        assert_eq!((found.height, found.width, found.values.len()), (3, 5, 15));
        for (n, (found, wanted)) in found.values.iter().zip(&attention).enumerate() {
            assert!((found - wanted).abs() <= 1e-4 * largest, "{name}, token {n}: {found} for {wanted}");
        }
        let mut wanted = mean_of(&gates);
        assert_eq!(wanted.len(), 16);
        wanted.remove(7);
        check_map(name, layer.input_gate.as_ref().expect("an input gate"), (3, 5), &wanted);
    }
}

/// Every layer of every family tells what it is, under the name of its output's tap.
#[test]
fn every_family_shows_its_layers() {
    let small = image(64, 64);
    // Layers, and whether they have an input gate, a forget gate, attention.
    let cases = [
        ("mila", Architecture::Mila(MILA_REDUCED), &small, 5, [false, false, true]),
        ("convnext", Architecture::ConvNext(CONVNEXT_REDUCED), &small, 5, [false; 3]),
        ("mambaout", Architecture::MambaOut(MAMBAOUT_REDUCED), &small, 5, [false; 3]),
        ("swin", Architecture::Swin(SWIN_REDUCED), &small, 6, [false; 3]),
        ("vmamba", Architecture::VMamba(VMAMBA_REDUCED), &small, 5, [true; 3]),
        ("vmamba v0", Architecture::VMamba(VMAMBA_V0_REDUCED), &small, 5, [true; 3]),
        ("vim", Architecture::Vim(VIM_REDUCED), &image(48, 80), 3, [true; 3]),
        ("mamba-nd", Architecture::MambaNd(MAMBA_ND_REDUCED), &image(48, 32), 6, [true; 3]),
        ("baseline", ablation_reduced("baseline"), &small, 4, [false, false, true]),
        ("no norm", ablation_reduced("no-norm"), &small, 4, [false, false, true]),
        ("input gate", ablation_reduced("input-gate"), &small, 4, [true, false, true]),
        ("forget gate", ablation_reduced("forget-gate"), &small, 4, [false, true, true]),
        ("block all", ablation_reduced("block-all"), &small, 4, [false, false, true]),
    ];
    for (name, architecture, image, count, has) in cases {
        let layers = seen(architecture, image);
        assert_eq!(layers.len(), count, "{name}: {:?}", layers.iter().map(|layer| &layer.name).collect::<Vec<_>>());
        for layer in &layers {
            let found = [layer.input_gate.is_some(), layer.forget_gate().is_some(), layer.attention.is_some()];
            assert_eq!(found, has, "{name}: {}", layer.name);
            assert!(layer.token_norms.is_some_and(|norms| norms.std > 0.0), "{name}: {} has no norms", layer.name);
            let gates = layer.input_gate.iter().flat_map(|map| &map.values);
            assert!(gates.clone().all(|&gate| gate > 0.0), "{name}: {}", layer.name);
            assert!(layer.forget_gates.iter().all(|&gate| 0.0 < gate && gate < 1.0), "{name}: {}", layer.name);
        }
    }
}

/// Normalised weights without a rotation add up to one.
#[test]
fn attention_of_the_ablation_adds_up() {
    for layer in seen(ablation_reduced("baseline"), &image(16, 16)) {
        let map = layer.attention.expect("attention");
        check(&layer.name, map.values.iter().sum(), 1.0);
        assert!(map.values.iter().all(|&weight| weight > 0.0));
    }
}

#[test]
fn what_cannot_be_looked_at_is_refused() {
    let mut cpu = Cpu::default();
    let model = built(&mut cpu, Architecture::Mila(mila::Config::NANO));
    let two = Array::new(Dims::new(2, 8, 8, 3), vec![0.0; 2 * 64 * 3]);
    let error = layers(&cpu, model.as_ref(), &two, None).expect_err("two images");
    assert!(error.to_string().contains("one image"), "{error}");
    let one = Array::new(Dims::new(1, 8, 8, 3), vec![0.0; 64 * 3]);
    for place in [[1.5, 0.5], [0.5, -0.1], [f64::NAN, 0.0]] {
        assert!(layers(&cpu, model.as_ref(), &one, Some(place)).is_err(), "{place:?}");
    }
    // One token has no spread.
    let one = Array::new(Dims::new(1, 1, 1, 3), vec![0.5; 3]);
    let layers = layers(&cpu, model.as_ref(), &one, Some([1.0, 1.0])).expect("a pass");
    assert!(layers.iter().all(|layer| layer.token_norms.is_some_and(|norms| norms.std == 0.0)));
    assert_eq!(Spread::of(&[1.0, 3.0]), Spread { mean: 2.0, std: 1.0 });
}

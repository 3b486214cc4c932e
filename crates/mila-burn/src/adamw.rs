//! AdamW with decoupled weight decay ("Decoupled Weight Decay Regularization", arXiv 1711.05101), as PyTorch computes it.

use mila_kernels::{Isa, adamw as kernel};
use mila_ops::{Error, Kind, Result};

use crate::{Handle, Store};

/// Constants of the optimiser. Burn's own defaults differ from PyTorch's, so every one is set here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of parameters that are not exempt ([`mila_ops::Wanted::decay`]).
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.05 }
    }
}

/// Running moments of every parameter, and how many steps they have seen.
///
/// Parameters, gradients and moments are moved on the host, by a kernel that reads and writes each of them once.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    step: u64,
    handles: Vec<Handle>,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
}

impl Moments {
    pub(crate) fn zeros(store: &Store) -> Self {
        let handles: Vec<Handle> = store.handles(Kind::Parameter).collect();
        let zeros = |handle: &Handle| vec![0.0; store.manifest()[handle.0].volume()];
        let first: Vec<_> = handles.iter().map(zeros).collect();
        Self { step: 0, second: first.clone(), handles, first }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// One step with learning rate `lr`; `gradients` are those of [`handles`](Self::handles), in that order, and are
    /// multiplied by `scale` first.
    pub(crate) fn step(
        &mut self,
        isa: Isa,
        adamw: &AdamW,
        lr: f64,
        store: &mut Store,
        (gradients, scale): (&[Vec<f32>], f64),
    ) -> Result<()> {
        self.step += 1;
        let [beta1, beta2] = adamw.betas;
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        for (i, gradient) in gradients.iter().enumerate() {
            let handle = self.handles[i];
            let decay = if store.manifest()[handle.0].decay { 1.0 - lr * adamw.weight_decay } else { 1.0 };
            let step = kernel::Step {
                gradient_scale: scale as f32,
                decay: decay as f32,
                betas: adamw.betas.map(|beta| beta as f32),
                step_size: (lr / (1.0 - beta1.powi(power))) as f32,
                root: (1.0 - beta2.powi(power)).sqrt() as f32,
                eps: adamw.eps as f32,
            };
            let mut values = store.take(handle)?;
            kernel::step(isa, step, gradient, &mut values, &mut self.first[i], &mut self.second[i]);
            store.put(handle, values);
        }
        Ok(())
    }

    /// The moments by parameter name: `first/NAME` and `second/NAME`.
    pub(crate) fn tensors(&self, store: &Store) -> Vec<(String, Vec<f32>)> {
        let named = |kind: &'static str, moments: &[Vec<f32>]| {
            let name = move |handle: &Handle| format!("{kind}/{}", store.manifest()[handle.0].name);
            self.handles.iter().map(name).zip(moments.to_vec()).collect::<Vec<_>>()
        };
        [named("first", &self.first), named("second", &self.second)].concat()
    }

    /// The moments that [`tensors`](Self::tensors) gave after `step` steps.
    pub(crate) fn restore(store: &Store, step: u64, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<Self> {
        let mut moments = Self::zeros(store);
        moments.step = step;
        for (i, &handle) in moments.handles.iter().enumerate() {
            let wanted = &store.manifest()[handle.0];
            let mut load = |kind: &str| {
                let name = format!("{kind}/{}", wanted.name);
                let values = find(&name).filter(|values| values.len() == wanted.volume());
                values.ok_or_else(|| Error::parameter(name, "missing or of another size in the saved state"))
            };
            (moments.first[i], moments.second[i]) = (load("first")?, load("second")?);
        }
        Ok(moments)
    }
}

#[cfg(test)]
mod tests {
    use mila_models::{Task, mila};
    use mila_ops::Builder;
    use mila_parity::{Formula, Golden, MILA_REDUCED};

    use super::*;
    use crate::Burn;
    use crate::trainer::clipping;

    /// PyTorch's step from the stored gradients and their norm: gradients of our own would differ in the last bits, and
    /// the first step moves every element by about `lr * sign(gradient)`.
    #[test]
    fn a_clipped_step_is_that_of_pytorch() {
        let golden = Golden::open("gradients");
        for case in &golden.cases {
            let mut declared = Burn::declare();
            let task = Task::Classify { classes: 10 };
            mila::build(&mut Builder::new(&mut declared, &Formula), &MILA_REDUCED, task).expect("a model");
            let mut store = declared.into_store();
            let mut moments = Moments::zeros(&store);
            let gradient = |&handle: &Handle| {
                let name = format!("{}/gradients/{}", case.name, store.manifest()[handle.0].name);
                let zeros = || vec![0.0; store.manifest()[handle.0].volume()];
                if golden.has(&name) { golden.tensor(&name).1.to_vec() } else { zeros() }
            };
            let gradients: Vec<Vec<f32>> = moments.handles().iter().map(gradient).collect();
            let adamw = AdamW { eps: case.eps, weight_decay: case.weight_decay, ..AdamW::default() };
            let scale = clipping(case.gradient_norm, case.clip);
            moments.step(Isa::detect(), &adamw, case.lr, &mut store, (&gradients, scale)).expect("a step");
            let (mut compared, mut worst) = (0, 0.0_f32);
            for &handle in moments.handles() {
                let name = &store.manifest()[handle.0].name;
                if !golden.has(&format!("{}/gradients/{name}", case.name)) {
                    continue;
                }
                let wanted = golden.tensor(&format!("{}/updated/{name}", case.name)).1;
                let found = store.read(handle).expect("values");
                let largest = wanted.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
                for (&f, &w) in found.iter().zip(wanted) {
                    let difference = (f - w).abs();
                    assert!(difference <= 1e-6 * largest, "{} {name}: {f}, expected {w}", case.name);
                    worst = worst.max(difference / largest);
                }
                compared += 1;
            }
            assert_eq!(compared, 19, "{}: stored parameters", case.name);
            eprintln!("{}: worst {worst:.1e}", case.name);
        }
    }
}

//! AdamW with decoupled weight decay ("Decoupled Weight Decay Regularization", arXiv 1711.05101), as PyTorch computes it.

use burn::tensor::Tensor;
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
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    step: u64,
    handles: Vec<Handle>,
    first: Vec<Tensor<1>>,
    second: Vec<Tensor<1>>,
}

impl Moments {
    pub(crate) fn zeros(store: &Store) -> Self {
        let handles: Vec<Handle> = store.handles(Kind::Parameter).collect();
        let zeros = |&handle: &Handle| store.value(handle).zeros_like();
        let first: Vec<_> = handles.iter().map(zeros).collect();
        Self { step: 0, second: handles.iter().map(zeros).collect(), handles, first }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// One step with learning rate `lr`; `gradients` are those of [`handles`](Self::handles), in that order.
    pub(crate) fn step(&mut self, adamw: &AdamW, lr: f64, store: &mut Store, gradients: Vec<Tensor<1>>) {
        self.step += 1;
        let [beta1, beta2] = adamw.betas;
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let step_size = lr / (1.0 - beta1.powi(power));
        let root = (1.0 - beta2.powi(power)).sqrt();
        for (i, gradient) in gradients.into_iter().enumerate() {
            let handle = self.handles[i];
            let first = self.first[i].clone() * beta1 + gradient.clone() * (1.0 - beta1);
            let second = self.second[i].clone() * beta2 + gradient.powi_scalar(2) * (1.0 - beta2);
            let decay = if store.manifest()[handle.0].decay { 1.0 - lr * adamw.weight_decay } else { 1.0 };
            let update = first.clone() * step_size / (second.clone().sqrt() / root + adamw.eps);
            store.replace(handle, store.value(handle) * decay - update);
            self.first[i] = first;
            self.second[i] = second;
        }
    }

    /// The moments by parameter name: `first/NAME` and `second/NAME`.
    pub(crate) fn tensors(&self, store: &Store) -> Result<Vec<(String, Vec<f32>)>> {
        let mut tensors = Vec::with_capacity(2 * self.handles.len());
        for (kind, moments) in [("first", &self.first), ("second", &self.second)] {
            for (handle, moment) in self.handles.iter().zip(moments) {
                let name = format!("{kind}/{}", store.manifest()[handle.0].name);
                tensors.push((name, crate::executor::values(moment.clone())?));
            }
        }
        Ok(tensors)
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
                let values =
                    values.ok_or_else(|| Error::parameter(name, "missing or of another size in the saved state"));
                Ok::<_, Error>(Tensor::from_floats(values?.as_slice(), store.device()))
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
    use crate::trainer::clipped;

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
                let stored = golden.has(&name).then(|| golden.tensor(&name).1);
                stored.map_or_else(|| store.value(handle).zeros_like(), |v| Tensor::from_floats(v, store.device()))
            };
            let gradients = moments.handles().iter().map(gradient).collect();
            let adamw = AdamW { eps: case.eps, weight_decay: case.weight_decay, ..AdamW::default() };
            moments.step(&adamw, case.lr, &mut store, clipped(gradients, case.gradient_norm, case.clip));
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

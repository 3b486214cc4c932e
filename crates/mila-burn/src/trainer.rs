//! Training without a Burn type in sight: steps, parameters, and a state that resumes bit for bit.

use burn::tensor::{Int, Tensor, activation};
use mila_kernels::Isa;
use mila_kernels::adamw::sum_of_squares;
use mila_models::{Model, Output};
use mila_ops::{Error, Kind, NoTap, Numeric, Result, Wanted};

use crate::adamw::Moments;
use crate::{AdamW, Burn, Form, Handle, ImageBatch, Store};

/// Weight of a new batch in the running statistics (PyTorch's default).
const MOMENTUM: f32 = 0.1;

/// Trains a classifier: cross entropy, global gradient clipping, AdamW, running statistics.
pub struct Trainer {
    model: Box<dyn Model<Burn>>,
    store: Store,
    moments: Moments,
    adamw: AdamW,
    clip: Option<f64>,
    seed: u64,
    form: Form,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Mean cross entropy of the batch before the step.
    pub loss: f64,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Images of the batch whose best class was right.
    pub correct: usize,
}

/// What a run needs, beside parameters and running statistics, to go on as if it had never stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerState {
    /// Optimiser steps done.
    pub step: u64,
    /// Moments of the optimiser by name, in the order of the parameters.
    pub tensors: Vec<(String, Vec<f32>)>,
}

impl Trainer {
    /// A trainer of the model that `build` makes; `clip` bounds the global gradient norm.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn new(
        adamw: AdamW,
        clip: Option<f64>,
        seed: u64,
        build: impl FnOnce(&mut Burn) -> Result<Box<dyn Model<Burn>>>,
    ) -> Result<Self> {
        let mut declared = Burn::declare();
        let model = build(&mut declared)?;
        let store = declared.into_store();
        let form = Form::Kernels(Isa::detect());
        Ok(Self { model, moments: Moments::zeros(&store), store, adamw, clip, seed, form })
    }

    /// The same trainer with its operators carried out in another form.
    #[must_use]
    pub fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.moments.steps()
    }

    /// One optimiser step on a batch with learning rate `lr`.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty batch and for labels that do not fit; [`Error::NotFinite`] for a loss, a gradient
    /// or a running statistic that is not finite. After any error nothing has changed.
    pub fn step(&mut self, batch: ImageBatch, labels: &[u32], lr: f64) -> Result<Progress> {
        let burn = Burn::train(self.store.clone(), self.seed, self.steps()).with_form(self.form);
        let logits = self.run(&burn, batch)?;
        let [count, _, _, classes] = logits.dims();
        check_labels(labels, count, classes)?;
        let (loss, correct) = cross_entropy(&burn.read(&logits)?.values, labels, classes);
        if !loss.is_finite() {
            return Err(Error::NotFinite { name: "loss".into(), count: 1, image: 0 });
        }
        let (gradients, gradient_norm) = self.gradients(&burn, logits, labels)?;
        let scale = self.clip.map_or(1.0, |clip| clipping(gradient_norm, clip));
        self.update_statistics(&burn)?;
        // The pass holds the parameters; without it the step moves them in place.
        drop(burn);
        self.moments.step(self.form.isa(), &self.adamw, lr, &mut self.store, (&gradients, scale))?;
        Ok(Progress { loss, gradient_norm, correct })
    }

    /// Gradients of the mean cross entropy for every parameter, and their norm.
    fn gradients(&self, burn: &Burn, logits: Tensor<4>, labels: &[u32]) -> Result<(Vec<Vec<f32>>, f64)> {
        let [count, _, _, classes] = logits.dims();
        let targets: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
        let targets = Tensor::<1, Int>::from_ints(targets.as_slice(), self.store.device()).reshape([count, 1]);
        let log = activation::log_softmax(logits.reshape([count, classes]), 1);
        let loss = log.gather(1, targets).mean().neg();
        let mut all = loss.backward();
        let mut gradients = Vec::with_capacity(self.moments.handles().len());
        let mut square = 0.0;
        for &handle in self.moments.handles() {
            let wanted = &self.store.manifest()[handle.0];
            let gradient = match burn.leaf(handle).grad_remove(&mut all) {
                Some(gradient) => crate::executor::values(gradient)?,
                None => vec![0.0; wanted.volume()],
            };
            // Summed here, in a fixed order: a device's own sum may change with its threads.
            let sum = sum_of_squares(self.form.isa(), &gradient);
            if !sum.is_finite() {
                let count = gradient.iter().filter(|v| !v.is_finite()).count();
                return Err(Error::NotFinite { name: format!("gradient of {}", wanted.name), count, image: 0 });
            }
            square += sum;
            gradients.push(gradient);
        }
        Ok((gradients, square.sqrt()))
    }

    /// Mixes the batch statistics of a pass into the running ones; all of them or, where one is not finite, none.
    fn update_statistics(&mut self, burn: &Burn) -> Result<()> {
        let mut updates = Vec::new();
        for batch in burn.take_statistics() {
            for (part, new) in [("running_mean", batch.mean), ("running_var", batch.variance)] {
                let name = format!("{}.{part}", batch.name);
                let handle = self.store.handle(&name).ok_or_else(|| Error::parameter(&name, "not in the store"))?;
                let old = self.store.read(handle)?;
                let mixed: Vec<f32> = old.iter().zip(&new).map(|(o, n)| o + MOMENTUM * (n - o)).collect();
                let count = mixed.iter().filter(|v| !v.is_finite()).count();
                if count > 0 {
                    // A variance can overflow although the normed map, and so the loss, is finite.
                    return Err(Error::NotFinite { name, count, image: 0 });
                }
                updates.push((handle, mixed));
            }
        }
        updates.into_iter().try_for_each(|(handle, mixed)| self.store.write(handle, &mixed))
    }

    /// Logits of a batch with the running statistics, `[batch, classes]`.
    ///
    /// # Errors
    /// Those of the model.
    pub fn evaluate(&self, batch: ImageBatch) -> Result<Vec<f32>> {
        let burn = Burn::eval(self.store.clone()).with_form(self.form);
        let logits = self.run(&burn, batch)?;
        Ok(burn.read(&logits)?.values)
    }

    fn run(&self, burn: &Burn, batch: ImageBatch) -> Result<Tensor<4>> {
        match self.model.forward(burn, burn.map(batch.dims, batch.values)?, &mut NoTap)? {
            Output::Logits(logits) => Ok(logits),
            Output::Pyramid(_) => Err(Error::Unsupported {
                what: "training a pyramid".into(),
                why: "the trainer's loss is that of a classifier".into(),
            }),
        }
    }

    /// Parameters and running statistics, in the order of the released checkpoints.
    ///
    /// # Errors
    /// [`Error::Backend`] if the device cannot be read.
    pub fn tensors(&self) -> Result<Vec<(Wanted, Vec<f32>)>> {
        let read = |(i, wanted): (usize, &Wanted)| Ok((wanted.clone(), self.store.read(Handle(i))?));
        self.store.manifest().iter().enumerate().map(read).collect()
    }

    /// How many values are trained.
    pub fn parameters(&self) -> usize {
        self.store.handles(Kind::Parameter).map(|handle| self.store.manifest()[handle.0].volume()).sum()
    }

    /// The optimiser's state.
    ///
    /// # Errors
    /// None today; a device that keeps the moments may fail.
    pub fn state(&self) -> Result<TrainerState> {
        Ok(TrainerState { step: self.steps(), tensors: self.moments.tensors(&self.store) })
    }

    /// Goes on from a saved state; parameters and statistics come from the source that the model was built with.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a moment is missing or of another size.
    pub fn restore(&mut self, state: TrainerState) -> Result<()> {
        let mut tensors: std::collections::HashMap<_, _> = state.tensors.into_iter().collect();
        self.moments = Moments::restore(&self.store, state.step, |name| tensors.remove(name))?;
        Ok(())
    }
}

/// What gradients of the given norm are multiplied by so that theirs is at most `clip`.
///
/// This is PyTorch's `clip_grad_norm_`, with its 1e-6 against a norm of zero.
pub(crate) fn clipping(norm: f64, clip: f64) -> f64 {
    (clip / (norm + 1e-6)).min(1.0)
}

fn check_labels(labels: &[u32], count: usize, classes: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::shape("loss", "at least one image", 0));
    }
    if labels.len() != count {
        return Err(Error::shape("loss", format_args!("{count} labels"), labels.len()));
    }
    match labels.iter().find(|&&label| label as usize >= classes) {
        Some(label) => Err(Error::shape("loss", format_args!("labels below {classes}"), label)),
        None => Ok(()),
    }
}

/// Mean cross entropy, summed in f64 in the order of the batch, and how many best classes are right.
fn cross_entropy(logits: &[f32], labels: &[u32], classes: usize) -> (f64, usize) {
    let (mut loss, mut correct) = (0.0, 0);
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
        loss += sum.ln() - f64::from(row[label as usize] - largest);
        let own = row[label as usize];
        // As `mila_data::Scores` ranks: of equal logits the first is the best.
        correct += usize::from(row.iter().enumerate().all(|(i, &v)| v < own || v == own && i >= label as usize));
    }
    (loss / labels.len().max(1) as f64, correct)
}

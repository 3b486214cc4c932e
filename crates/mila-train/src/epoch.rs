//! The training loop.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use mila_burn::{ImageBatch, Progress};
use mila_data::{Batch, EvalTransform, Scores};
use mila_ops::{Dims, Values, Wanted};
use mila_weights::{ModelDirectory, write_whole};
use serde_json::json;

use crate::{Ended, EpochRecord, Error, Observer, Outcome, Result, Run, StepRecord, plots, records, state};

impl Run {
    /// Trains to the end, or until the observer stops it.
    ///
    /// The state is saved after each epoch and when stopped, so a killed run loses at most the running epoch.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a loss that is not finite; [`Error::Io`] for a disk that takes no more.
    pub fn train(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        while self.position.epoch < self.config.epochs {
            let scores = if self.train_epoch(observer)? { self.validate(observer)? } else { None };
            let Some(scores) = scores else {
                self.save_state()?;
                self.directory.log_event(&json!({ "event": "stopped", "step": self.position.step }))?;
                return Ok(self.outcome(Ended::Stopped));
            };
            let record = self.finish_epoch(&scores)?;
            observer.epoch(&record);
        }
        Ok(self.outcome(Ended::Finished))
    }

    fn outcome(self, ended: Ended) -> Outcome {
        let validates = self.validates();
        let history = self.position.history;
        let best = if validates { records::best(&history) } else { history.last() };
        Outcome { ended, best: best.cloned(), history, skipped: self.skipped }
    }

    /// Runs what is left of the epoch; false if the observer stopped it.
    fn train_epoch(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let done = self.position.running.steps as usize;
        let mut epoch = self.train.epoch(self.position.epoch);
        epoch.by_ref().take(done).for_each(drop);
        let mut started = Instant::now();
        let mut go_on = true;
        while go_on {
            let Some(batch) = epoch.next() else { break };
            let progress = self.step(&batch)?;
            let running = &mut self.position.running;
            running.steps += 1;
            running.images += batch.n;
            running.correct += progress.correct;
            running.loss += progress.loss * batch.n as f64;
            running.seconds += started.elapsed().as_secs_f64();
            self.position.step += 1;
            observer.step(&StepRecord {
                epoch: self.position.epoch + 1,
                step: self.position.step,
                steps: self.schedule.steps,
                images: batch.n,
                loss: running.loss / running.images as f64,
                step_loss: progress.loss,
            });
            go_on = !observer.stop();
            // What the observer does is no training.
            started = Instant::now();
        }
        note_skipped(&mut self.skipped, epoch.skipped());
        Ok(go_on)
    }

    fn step(&mut self, batch: &Batch) -> Result<Progress> {
        let lr = self.schedule.at(self.position.step);
        let images = image_batch(batch, &self.transform);
        self.trainer.step(images, &batch.labels, lr).map_err(|source| match source {
            mila_ops::Error::NotFinite { .. } => self.diverged(self.position.step + 1, source),
            other => other.into(),
        })
    }

    /// Scores the validation set; none if the observer stopped it.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<Option<Scores>> {
        let mut scores = Scores::new(self.model.num_classes);
        let mut epoch = self.validation.epoch(0);
        for batch in epoch.by_ref() {
            scores.add(&self.trainer.evaluate(image_batch(&batch, &self.transform))?, &batch.labels);
            // The whole validation is done again then: it changes nothing.
            if observer.stop() {
                return Ok(None);
            }
        }
        note_skipped(&mut self.skipped, epoch.skipped());
        if !scores.loss().is_finite() {
            // Before anything of this epoch is written: the last saved state is one to go on from.
            let source = mila_ops::Error::NotFinite { name: "validation loss".into(), count: 1, image: 0 };
            return Err(self.diverged(self.position.step, source));
        }
        Ok(Some(scores))
    }

    fn diverged(&self, step: u64, source: mila_ops::Error) -> Error {
        Error::Diverged { step, epoch: self.position.epoch + 1, source }
    }

    fn finish_epoch(&mut self, scores: &Scores) -> Result<EpochRecord> {
        let running = std::mem::take(&mut self.position.running);
        let images = running.images.max(1) as f64;
        self.position.epoch += 1;
        let record = EpochRecord {
            epoch: self.position.epoch,
            step: self.position.step,
            lr: self.schedule.at(self.position.step.saturating_sub(1)),
            train_loss: running.loss / images,
            train_top1: running.correct as f64 / images,
            val_loss: scores.loss(),
            val_top1: scores.top1(),
            val_top5: scores.top5(),
            images_per_s: images / running.seconds.max(1e-9),
            seconds: running.seconds,
        };
        let best = records::best(&self.position.history).is_none_or(|best| record.val_top1 > best.val_top1);
        self.position.history.push(record.clone());
        self.write_models(best || !self.validates())?;
        let metrics = records::csv(&self.position.history);
        write_whole(&self.directory.metrics(), |file| file.write_all(metrics.as_bytes()))?;
        let curves = plots::training_curves(&self.position.history);
        write_whole(&self.directory.plots().join("training.svg"), |file| file.write_all(curves.as_bytes()))?;
        self.directory.log_event(&json!({ "event": "epoch", "record": record }))?;
        self.save_state()?;
        Ok(record)
    }

    fn write_models(&self, best: bool) -> Result<()> {
        let tensors = self.trainer.tensors()?;
        let write = |path: PathBuf| ModelDirectory::write(&path, &self.model, entries(&tensors)).map(|_| ());
        write(self.directory.last())?;
        if best { Ok(write(self.directory.best())?) } else { Ok(()) }
    }

    fn save_state(&self) -> Result<()> {
        state::save(&self.directory.state(), &self.position, &self.trainer.tensors()?, &self.trainer.state()?)
    }
}

fn entries(tensors: &[(Wanted, Vec<f32>)]) -> impl Iterator<Item = (String, Vec<usize>, Values<'_>)> {
    tensors.iter().map(|(wanted, values)| (wanted.name.clone(), wanted.shape.clone(), Values::F32(values.into())))
}

fn image_batch<'a>(batch: &'a Batch, transform: &EvalTransform) -> ImageBatch<'a> {
    let (height, width) = transform.input_size;
    ImageBatch { dims: Dims::new(batch.n, height, width, 3), values: &batch.images }
}

/// Adds the skipped pictures that are not known yet: a broken one is met anew in every epoch.
fn note_skipped(known: &mut Vec<(PathBuf, String)>, new: &[(PathBuf, mila_data::Error)]) {
    for (path, error) in new {
        if !known.iter().any(|(k, _)| k == path) {
            known.push((path.clone(), error.to_string()));
        }
    }
}

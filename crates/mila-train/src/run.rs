//! The training loop.

use std::path::PathBuf;
use std::time::Instant;

use mila_burn::{AdamW, Form, ImageBatch, Progress, Trainer};
use mila_data::{Augment, Batch, Dataset, EvalTransform, Fill, ImageSource, Loader, LoaderOptions, Scores};
use mila_models::Task;
use mila_ops::{Builder, Dims, Source, Values, Wanted};
use mila_weights::{ModelDirectory, PretrainedConfig};
use serde_json::json;

use crate::run_directory::write_whole;
use crate::state::{self, Position};
use crate::{Config, EpochRecord, Error, Result, RunDirectory, Schedule, plots, records};

/// What a run trains and validates on.
#[derive(Clone, Debug)]
pub struct Data {
    /// Pictures to train on.
    pub train: ImageSource,
    /// Pictures to validate on after each epoch.
    pub validation: ImageSource,
    /// A name for each class.
    pub classes: Vec<String>,
}

impl Data {
    /// The dataset that the configuration names.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn open(config: &Config) -> Result<Self> {
        let Dataset { train, validation } = Dataset::open(&config.data, config.val_fraction, config.seed)?;
        let classes = train.classes.clone();
        Ok(Self { train: ImageSource::Folder(train), validation: ImageSource::Folder(validation), classes })
    }
}

/// One optimiser step, as told to an [`Observer`].
#[derive(Clone, Copy, Debug)]
pub struct StepRecord {
    /// Epoch, from one.
    pub epoch: u64,
    /// Optimiser steps so far.
    pub step: u64,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Images of this step.
    pub images: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
}

/// Watches a run and may end it.
pub trait Observer {
    /// After every optimiser step.
    fn step(&mut self, record: &StepRecord);
    /// After every epoch and its validation.
    fn epoch(&mut self, record: &EpochRecord);
    /// Asked after every step: whether to save and stop.
    fn stop(&mut self) -> bool;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After its last epoch.
    Finished,
    /// Because the observer asked for it; the state is saved.
    Stopped,
}

/// What a run leaves to say.
#[derive(Debug)]
pub struct Outcome {
    /// Why it is over.
    pub ended: Ended,
    /// Finished epochs, those before a resume included.
    pub history: Vec<EpochRecord>,
    /// Pictures that could not be read, each once, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A run, ready to start or to go on.
pub struct Run {
    config: Config,
    directory: RunDirectory,
    trainer: Trainer,
    train: Loader,
    validation: Loader,
    transform: EvalTransform,
    classes: Vec<String>,
    schedule: Schedule,
    position: Position,
    skipped: Vec<(PathBuf, String)>,
}

impl Run {
    /// A new run with parameters from `source`; `environment` is kept in `env.json`.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Occupied`], and those of model and data.
    pub fn create(config: Config, data: Data, source: &dyn Source, environment: &serde_json::Value) -> Result<Self> {
        let directory = RunDirectory::create(&config.out)?;
        let run = Self::prepare(config, directory, data, source)?;
        let environment = serde_json::to_vec_pretty(environment).map_err(|e| Error::Config(e.to_string()))?;
        write_whole(&run.directory.environment(), &environment)?;
        // Last: a directory with a configuration is a run.
        write_whole(&run.directory.config(), run.config.to_toml()?.as_bytes())?;
        Ok(run)
    }

    /// Goes on with the run in `config.out`, from its last saved state or else from `source`.
    ///
    /// # Errors
    /// [`Error::State`] if the state does not fit the configuration or the data.
    pub fn resume(config: Config, data: Data, source: &dyn Source) -> Result<Self> {
        let directory = RunDirectory::open(&config.out)?;
        let folder = directory.state();
        if !folder.exists() && !folder.with_extension("old").exists() {
            return Self::prepare(config, directory, data, source);
        }
        let (position, parameters, state) = state::load(&folder)?;
        let mut run = Self::prepare(config, directory, data, &parameters)?;
        if position.images != run.train.source().len() {
            let problem = format!("made with {} training images, found {}", position.images, run.train.source().len());
            return Err(Error::State { path: folder, problem });
        }
        run.trainer.restore(state)?;
        run.position = position;
        Ok(run)
    }

    fn prepare(config: Config, directory: RunDirectory, data: Data, source: &dyn Source) -> Result<Self> {
        config.check()?;
        let transform = config.transform()?;
        let augment = Augment { shift: config.shift, fill: Fill::Edge, flip: config.flip };
        let common = LoaderOptions {
            batch: config.batch,
            threads: config.loader_threads,
            cache: config.cache,
            seed: config.seed,
            ..LoaderOptions::default()
        };
        let drop_last = data.train.len() >= config.batch;
        let options = LoaderOptions { shuffle: true, drop_last, augment: Some(augment), ..common.clone() };
        let images = data.train.len();
        let train = Loader::new(data.train, transform.clone(), options)?;
        let validation = Loader::new(data.validation, transform.clone(), common)?;
        let architecture = config.architecture()?;
        let task = Task::Classify { classes: data.classes.len() };
        let adamw = AdamW { weight_decay: config.weight_decay, ..AdamW::default() };
        let clip = (config.clip > 0.0).then_some(config.clip);
        let trainer =
            Trainer::new(adamw, clip, config.seed, |burn| architecture.build(&mut Builder::new(burn, source), task))?;
        Ok(Self {
            schedule: config.schedule(train.batches() as u64),
            position: Position { images, ..Position::default() },
            classes: data.classes,
            skipped: Vec::new(),
            config,
            directory,
            trainer,
            train,
            validation,
            transform,
        })
    }

    /// The same run with its operators carried out in another form.
    #[must_use]
    pub fn with_form(self, form: Form) -> Self {
        Self { trainer: self.trainer.with_form(form), ..self }
    }

    /// The run's files.
    pub fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Epochs that are done already.
    pub fn epochs_done(&self) -> u64 {
        self.position.epoch
    }

    /// Optimiser steps that are done already, and those of the whole run.
    pub fn steps(&self) -> (u64, u64) {
        (self.position.step, self.schedule.steps)
    }

    /// How many values are trained.
    pub fn parameters(&self) -> usize {
        self.trainer.parameters()
    }

    /// Trains to the end, or until the observer stops it.
    ///
    /// The state is saved after each epoch and when stopped, so a killed run loses at most the running epoch.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a loss that is not finite; [`Error::Io`] for a disk that takes no more.
    pub fn train(mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        while self.position.epoch < self.config.epochs {
            if !self.train_epoch(observer)? {
                self.save_state()?;
                self.directory.log_event(&json!({ "event": "stopped", "step": self.position.step }))?;
                return Ok(self.outcome(Ended::Stopped));
            }
            let record = self.finish_epoch()?;
            observer.epoch(&record);
        }
        Ok(self.outcome(Ended::Finished))
    }

    fn outcome(self, ended: Ended) -> Outcome {
        Outcome { ended, history: self.position.history, skipped: self.skipped }
    }

    /// Runs what is left of the epoch; false if the observer stopped it.
    fn train_epoch(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let done = self.position.running.steps as usize;
        let mut epoch = self.train.epoch(self.position.epoch);
        for _ in 0..done {
            epoch.next();
        }
        let mut started = Instant::now();
        let mut go_on = true;
        while go_on {
            let Some(batch) = epoch.next() else { break };
            if batch.n == 0 {
                continue;
            }
            let progress = self.step(&batch)?;
            let running = &mut self.position.running;
            running.steps += 1;
            running.images += batch.n;
            running.correct += progress.correct;
            running.loss += progress.loss * batch.n as f64;
            running.seconds += started.elapsed().as_secs_f64();
            started = Instant::now();
            self.position.step += 1;
            observer.step(&StepRecord {
                epoch: self.position.epoch + 1,
                step: self.position.step,
                steps: self.schedule.steps,
                images: batch.n,
                loss: running.loss / running.images as f64,
            });
            go_on = !observer.stop();
        }
        note_skipped(&mut self.skipped, epoch.skipped());
        Ok(go_on)
    }

    fn step(&mut self, batch: &Batch) -> Result<Progress> {
        let lr = self.schedule.at(self.position.step);
        let images = image_batch(batch, &self.transform);
        self.trainer.step(images, &batch.labels, lr).map_err(|source| match source {
            mila_ops::Error::NotFinite { .. } => {
                Error::Diverged { step: self.position.step, epoch: self.position.epoch, source }
            }
            other => other.into(),
        })
    }

    fn finish_epoch(&mut self) -> Result<EpochRecord> {
        let scores = self.validate()?;
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
        let best = self.position.best().is_none_or(|best| record.val_top1 > best);
        self.position.history.push(record.clone());
        self.write_models(best)?;
        write_whole(&self.directory.metrics(), records::csv(&self.position.history).as_bytes())?;
        let curves = plots::training_curves(&self.position.history);
        write_whole(&self.directory.plots().join("training.svg"), curves.as_bytes())?;
        self.directory.log_event(&json!({ "event": "epoch", "record": record }))?;
        self.save_state()?;
        Ok(record)
    }

    fn validate(&mut self) -> Result<Scores> {
        let mut scores = Scores::new(self.classes.len());
        let mut epoch = self.validation.epoch(0);
        for batch in epoch.by_ref().filter(|batch| batch.n > 0) {
            scores.add(&self.trainer.evaluate(image_batch(&batch, &self.transform))?, &batch.labels);
        }
        note_skipped(&mut self.skipped, epoch.skipped());
        Ok(scores)
    }

    fn write_models(&self, best: bool) -> Result<()> {
        let config = self.model_config()?;
        let tensors = self.trainer.tensors()?;
        let write = |path: PathBuf| ModelDirectory::write(&path, &config, entries(&tensors)).map(|_| ());
        write(self.directory.last())?;
        if best { Ok(write(self.directory.best())?) } else { Ok(()) }
    }

    fn save_state(&self) -> Result<()> {
        state::save(&self.directory.state(), &self.position, &self.trainer.tensors()?, &self.trainer.state()?)
    }

    fn model_config(&self) -> Result<mila_weights::Config> {
        let t = &self.transform;
        Ok(mila_weights::Config {
            architecture: self.config.preset()?.name.to_owned(),
            num_classes: self.classes.len(),
            num_features: Some(self.config.architecture()?.features()),
            label_names: Some(self.classes.clone()),
            model_args: serde_json::Map::new(),
            pretrained_cfg: PretrainedConfig {
                input_size: [3, t.input_size.0, t.input_size.1],
                mean: t.mean.map(f64::from),
                std: t.std.map(f64::from),
                interpolation: t.interpolation.to_string(),
                crop_pct: t.crop_pct,
                crop_mode: t.crop_mode.to_string(),
                license: None,
                origin_url: None,
            },
        })
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

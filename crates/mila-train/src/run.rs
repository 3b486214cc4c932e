//! A run: made, or found again.

use std::io::Write;
use std::path::{Path, PathBuf};

use mila_burn::{AdamW, Form, Trainer};
use mila_data::{Augment, EvalTransform, Fill, Loader, LoaderOptions};
use mila_models::Task;
use mila_ops::{Builder, Source};
use mila_weights::{PretrainedConfig, write_whole};
use serde_json::json;

use crate::data::fingerprint;
use crate::records::Running;
use crate::state::{self, Order, Position};
use crate::{Config, Data, Error, Result, RunDirectory, Schedule};

/// Bytes that resized pictures may take in memory.
const CACHE_BYTES: u128 = 2 << 30;

/// A run, ready to start or to go on.
pub struct Run {
    pub(crate) config: Config,
    pub(crate) directory: RunDirectory,
    pub(crate) trainer: Trainer,
    pub(crate) train: Loader,
    pub(crate) validation: Loader,
    pub(crate) transform: EvalTransform,
    /// What the model directories say of the model.
    pub(crate) model: mila_weights::Config,
    pub(crate) schedule: Schedule,
    pub(crate) position: Position,
    pub(crate) skipped: Vec<(PathBuf, String)>,
    cache_refused: Option<u128>,
}

impl Run {
    /// A new run with parameters from `source`; `environment` is kept in `env.json`.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Occupied`], and those of model and data.
    pub fn create(config: Config, data: Data, source: &dyn Source, environment: &serde_json::Value) -> Result<Self> {
        config.check()?;
        check_outside(&config.out, &config.data)?;
        let settings = config.to_toml()?;
        let directory = RunDirectory::create(&config.out)?;
        let order = order(&config, &data);
        let run = Self::prepare(config, directory, data, order, source)?;
        let environment = serde_json::to_vec_pretty(environment).map_err(|e| Error::Config(e.to_string()))?;
        write_whole(&run.directory.environment(), |file| file.write_all(&environment))?;
        // Last: a directory with a configuration is a run.
        write_whole(&run.directory.config(), |file| file.write_all(settings.as_bytes()))?;
        Ok(run)
    }

    /// Goes on with the run in `config.out`, from its last saved state or else, where [`RunDirectory::has_state`] is
    /// false, from `source`. The configuration becomes the run's.
    ///
    /// # Errors
    /// [`Error::State`] if the state does not fit the configuration or the data.
    pub fn resume(config: Config, data: Data, source: &dyn Source) -> Result<Self> {
        config.check()?;
        let settings = config.to_toml()?;
        let directory = RunDirectory::open(&config.out)?;
        let order = order(&config, &data);
        let run = match state::find(&directory.state()) {
            None => Self::prepare(config, directory, data, order, source)?,
            Some(folder) => {
                let (position, parameters, state) = state::load(&folder)?;
                if let Some(problem) = position.order.difference(&order) {
                    return Err(Error::State { path: folder, problem });
                }
                let mut run = Self::prepare(config, directory, data, order, &parameters)?;
                run.trainer.restore(state)?;
                run.position = position;
                run
            }
        };
        write_whole(&run.directory.config(), |file| file.write_all(settings.as_bytes()))?;
        run.directory.log_event(&json!({ "event": "resumed", "step": run.position.step }))?;
        Ok(run)
    }

    fn prepare(config: Config, directory: RunDirectory, data: Data, order: Order, source: &dyn Source) -> Result<Self> {
        let transform = config.transform()?;
        let model = model_config(&config, &transform, &data.classes)?;
        let augment = Augment { shift: config.shift, fill: Fill::Edge, flip: config.flip };
        let (height, width) = transform.input_size;
        let pixels = height as u128 * width as u128 * 3;
        let cache_bytes = pixels.saturating_mul((data.train.len() + data.validation.len()) as u128);
        let cache_refused = (config.cache && cache_bytes > CACHE_BYTES).then_some(cache_bytes);
        let common = LoaderOptions {
            batch: config.batch,
            threads: config.loader_threads,
            cache: config.cache && cache_refused.is_none(),
            seed: config.seed,
            ..LoaderOptions::default()
        };
        let samples = config.epoch_images;
        let drop_last = samples.unwrap_or(usize::MAX).min(data.train.len()) >= config.batch;
        let options = LoaderOptions { shuffle: true, samples, drop_last, augment: Some(augment), ..common.clone() };
        let train = Loader::new(data.train, transform.clone(), options)?;
        let validation = Loader::new(data.validation, transform.clone(), common)?;
        let schedule = config.schedule(train.batches() as u64)?;
        let architecture = config.architecture()?;
        let task = Task::Classify { classes: order.classes.len() };
        let adamw = AdamW { weight_decay: config.weight_decay, ..AdamW::default() };
        let clip = (config.clip > 0.0).then_some(config.clip);
        let trainer =
            Trainer::new(adamw, clip, config.seed, |burn| architecture.build(&mut Builder::new(burn, source), task))?;
        let position = Position { step: 0, epoch: 0, running: Running::default(), history: Vec::new(), order };
        let skipped = Vec::new();
        Ok(Self {
            config,
            directory,
            trainer,
            train,
            validation,
            transform,
            model,
            schedule,
            position,
            skipped,
            cache_refused,
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

    /// Whether there is anything to validate on.
    pub fn validates(&self) -> bool {
        !self.validation.source().is_empty()
    }

    /// The bytes that resized pictures would take, where they are not kept although the configuration asks for it
    /// because that is more than 2 GiB.
    pub fn cache_refused(&self) -> Option<u128> {
        self.cache_refused
    }
}

fn order(config: &Config, data: &Data) -> Order {
    Order {
        seed: config.seed,
        batch: config.batch,
        epoch_images: config.epoch_images,
        classes: data.classes.clone(),
        images: data.train.len(),
        fingerprint: fingerprint(&data.train, &config.data),
    }
}

/// Refuses a folder for results within the data, where it would be taken for a class of them.
///
/// # Errors
/// `Config`, with both folders; `Io` where the current folder is gone.
pub fn check_outside(out: &Path, data: &Path) -> Result<()> {
    let out = std::path::absolute(out).map_err(Error::io(out))?;
    // Data that are no folder contain nothing.
    let Ok(data) = data.canonicalize() else { return Ok(()) };
    match out.ancestors().find_map(|folder| folder.canonicalize().ok()) {
        Some(existing) if existing.starts_with(&data) => Err(Error::Config(format!(
            "out: expected a folder outside the data in {}, found {}",
            data.display(),
            out.display()
        ))),
        _ => Ok(()),
    }
}

fn model_config(config: &Config, transform: &EvalTransform, classes: &[String]) -> Result<mila_weights::Config> {
    let model = mila_weights::Config {
        architecture: config.preset()?.name.to_owned(),
        num_classes: classes.len(),
        num_features: Some(config.architecture()?.features()),
        label_names: Some(classes.to_vec()),
        model_args: serde_json::Map::new(),
        pretrained_cfg: PretrainedConfig {
            input_size: [3, transform.input_size.0, transform.input_size.1],
            mean: transform.mean.map(f64::from),
            std: transform.std.map(f64::from),
            interpolation: transform.interpolation.to_string(),
            crop_pct: transform.crop_pct,
            crop_mode: transform.crop_mode.to_string(),
            license: None,
            origin_url: None,
        },
    };
    // Better told now than after the first epoch, when the model is written.
    model.validate().map_err(|error| Error::Config(error.to_string()))?;
    Ok(model)
}

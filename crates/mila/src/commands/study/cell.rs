//! One variant with one seed: trained, measured, and written down.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mila::burn::Form;
use mila::classify::Classifier;
use mila::cpu::Cpu;
use mila::graph::{Sizes, Trace};
use mila::model::{self, Request};
use mila::models::{Preset, Task};
use mila::ops::Seeded;
use mila::ops::random::{Stream, site};
use mila::train::{self, Config, Data, EpochRecord, Error, Observer, Run, RunDirectory, StepRecord};
use mila::weights::write_whole;
use serde::{Deserialize, Serialize};

use super::jobs::{Job, Told, Turn};
use super::settings::Shared;
use super::{Study, Variant};
use crate::cli::Machine;
use crate::commands::{doctor, train as verb};
use crate::failure::Failure;
use crate::times::Times;

/// Points of a loss curve.
const POINTS: u64 = 20;
/// Images of a timed pass.
const TIMED_BATCH: usize = 64;
/// A rate is the median of at least so many passes, for at least this time.
const LEAST_PASSES: usize = 5;
const LEAST_TIME: Duration = Duration::from_secs(1);

/// One variant with one seed.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) variant: &'static Variant,
    pub(crate) seed: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-seed-{}", self.variant.name, self.seed)
    }
}

/// Where cells are, and what they are made of.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The folder of the study.
    pub(crate) out: &'a Path,
    pub(crate) shared: &'a Shared,
    pub(crate) data: &'a Data,
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its record is written.
    Done,
    /// By Ctrl-C; its state is saved.
    Interrupted,
}

/// A finished cell: `cells/CELL.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) study: String,
    pub(crate) variant: String,
    pub(crate) arch: String,
    pub(crate) seed: u64,
    /// Of the settings in `study.json`.
    pub(crate) settings: String,
    pub(crate) params: usize,
    /// Multiply-accumulates of one image, recurrences included.
    pub(crate) macs: u64,
    /// Optimiser steps.
    pub(crate) steps: u64,
    /// Training images a second, loading included.
    pub(crate) train_images_per_s: f64,
    /// Images a second of the fast executor, in batches of 64.
    pub(crate) inference_images_per_s: f64,
    /// Of the last epoch's model on the validation set, a fraction; none if the training diverged.
    pub(crate) top1: Option<f64>,
    pub(crate) validation_loss: Option<f64>,
    /// Why the training ended early.
    pub(crate) diverged: Option<String>,
    /// Mean training loss between two points of the run.
    pub(crate) curve: Vec<Point>,
    /// Pictures that could not be read.
    pub(crate) skipped: usize,
    /// What it ran on.
    pub(crate) mila: String,
    pub(crate) processor: String,
    pub(crate) isa: String,
    /// Cells that were trained at a time; while an inference was timed, the others waited.
    pub(crate) jobs: usize,
    /// Threads of this one, in training and in inference.
    pub(crate) threads: usize,
}

/// A point of a loss curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Optimiser steps so far.
    pub(crate) step: u64,
    /// Mean loss of the images since the point before.
    pub(crate) loss: f64,
}

/// Every finished cell of the study in `out`, by variant and then by seed.
///
/// # Errors
/// For a record that cannot be read, or that was made with other settings.
pub(crate) fn finished(study: &'static Study, out: &Path, shared: &Shared) -> Result<Vec<Record>, Failure> {
    let folder = out.join("cells");
    let unread = |error: &dyn fmt::Display| Failure::run(format_args!("{}: {error}", folder.display()));
    let mut records = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| unread(&error))? {
        let path = entry.map_err(|error| unread(&error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            records.push(read(&path, shared)?);
        }
    }
    let place = |record: &Record| study.variants.iter().position(|variant| variant.name == record.variant);
    records.retain(|record| place(record).is_some());
    records.sort_by_key(|record| (place(record), record.seed));
    Ok(records)
}

fn read(path: &Path, shared: &Shared) -> Result<Record, Failure> {
    let at = |problem: &dyn fmt::Display| Failure::data(format_args!("{}: {problem}", path.display()));
    let text = std::fs::read(path).map_err(|error| at(&error))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| at(&error))?;
    if record.settings == shared.hash() {
        return Ok(record);
    }
    Err(at(&format_args!(
        "expected settings {}, found {}; remove the file to run the cell anew",
        shared.hash(),
        record.settings
    )))
}

impl Cell {
    /// The run directory of its training.
    pub(crate) fn directory(&self, out: &Path) -> PathBuf {
        out.join("cells").join(self.to_string())
    }

    /// Where its record is, once it is finished.
    fn record_path(&self, out: &Path) -> PathBuf {
        out.join("cells").join(format!("{self}.json"))
    }

    /// Its record, if it is finished.
    ///
    /// # Errors
    /// Those of [`finished`].
    pub(crate) fn record(&self, out: &Path, shared: &Shared) -> Result<Option<Record>, Failure> {
        let path = self.record_path(out);
        if path.exists() { read(&path, shared).map(Some) } else { Ok(None) }
    }

    /// Trains and measures the cell, from its saved state where it has one, and writes its record.
    ///
    /// # Errors
    /// For a disk that takes no more, for data that cannot be read, for a state that does not fit.
    pub(crate) fn run(&self, place: &Place, job: &Job, machine: &Machine) -> Result<Ended, Failure> {
        let Place { out, shared, data } = *place;
        let config = shared.cell(*self, out);
        let directory = self.directory(out);
        let source = Seeded::new(self.seed);
        let run = match RunDirectory::open(&directory) {
            Ok(_) => Run::resume(config.clone(), data.clone(), &source)?,
            Err(_) => Run::create(config.clone(), data.clone(), &source, &verb::environment(machine))?,
        }
        .with_form(Form::Kernels(machine.isa));
        let (params, (done, steps)) = (run.parameters(), run.steps());
        job.tell(Told::Steps { done, of: steps });
        let curve = Curve::open(&directory.join("loss.csv"), steps, done)?;
        let mut watcher = Watcher { job, turn: Some(job.quiet.shared()), curve, failed: None };
        let outcome = run.train(&mut watcher);
        watcher.turn = None;
        if let Some(failure) = watcher.failed {
            return Err(failure);
        }
        let (history, skipped, diverged) = match outcome {
            Ok(outcome) if outcome.ended == train::Ended::Stopped => return Ok(Ended::Interrupted),
            Ok(outcome) => {
                for (path, reason) in &outcome.skipped {
                    job.tell(Told::Problem(format!("{}: {reason}", path.display())));
                }
                (outcome.history, outcome.skipped.len(), None)
            }
            Err(error @ Error::Diverged { .. }) => (Vec::new(), 0, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let inference_images_per_s = match diverged {
            None => job.quiet.alone(|| inference_rate(&directory.join("last"), machine))?,
            Some(_) => 0.0,
        };
        let last = history.last();
        let record = Record {
            study: shared.study().to_owned(),
            variant: self.variant.name.into(),
            arch: self.variant.arch.into(),
            seed: self.seed,
            settings: shared.hash(),
            params,
            macs: macs(&config, data)?,
            steps,
            train_images_per_s: rate(&history),
            inference_images_per_s,
            top1: last.map(|epoch| epoch.val_top1),
            validation_loss: last.map(|epoch| epoch.val_loss),
            diverged,
            curve: watcher.curve.points,
            skipped,
            mila: env!("CARGO_PKG_VERSION").into(),
            processor: doctor::processor(),
            isa: machine.isa.to_string(),
            jobs: job.jobs,
            threads: job.threads,
        };
        let text = serde_json::to_vec_pretty(&record).map_err(Failure::run)?;
        write_whole(&self.record_path(out), |file| file.write_all(&text))?;
        job.tell(Told::Note(line(&record)));
        Ok(if job.interrupt.pressed() { Ended::Interrupted } else { Ended::Done })
    }
}

fn line(record: &Record) -> String {
    match (&record.diverged, record.top1) {
        (None, Some(top1)) => format!(
            "{} seed {}: top-1 {:.2} %, {:.0} images/s in training, {:.0} in inference",
            record.variant,
            record.seed,
            100.0 * top1,
            record.train_images_per_s,
            record.inference_images_per_s
        ),
        (reason, _) => format!("{} seed {}: {}", record.variant, record.seed, reason.as_deref().unwrap_or("no epoch")),
    }
}

/// Multiply-accumulates of one image, recurrences included: a model that has one lacks the products that it stands for.
fn macs(config: &Config, data: &Data) -> Result<u64, Failure> {
    let preset = Preset::find(&config.arch).map_err(Failure::usage)?;
    let (height, width) = config.transform()?.input_size;
    let trace = Trace::of(preset, Task::Classify { classes: data.classes.len() })?;
    Ok(trace.cost(Sizes { batch: 1, height, width }).macs_with_scan)
}

/// Training images a second over all epochs.
fn rate(history: &[EpochRecord]) -> f64 {
    let seconds: f64 = history.iter().map(|epoch| epoch.seconds).sum();
    let images: f64 = history.iter().map(|epoch| epoch.images_per_s * epoch.seconds).sum();
    images / seconds.max(1e-9)
}

/// Images a second of the model in `directory` on the fast executor.
fn inference_rate(directory: &Path, machine: &Machine) -> Result<f64, Failure> {
    let request = Request { model: directory.display().to_string(), ..Request::default() };
    let classifier = Classifier::new(&model::resolve(&request)?, Cpu::new(machine.isa), None)?;
    let (height, width) = classifier.transform().input_size;
    let mut stream = Stream::new(&[site("study")]);
    let images: Vec<f32> = (0..TIMED_BATCH * height * width * 3).map(|_| stream.normal() as f32).collect();
    classifier.logits(&images, TIMED_BATCH)?;
    let (mut times, began) = (Vec::new(), Instant::now());
    while times.len() < LEAST_PASSES || began.elapsed() < LEAST_TIME {
        let started = Instant::now();
        classifier.logits(&images, TIMED_BATCH)?;
        times.push(started.elapsed());
    }
    let times = Times::new(times).ok_or_else(|| Failure::run("no pass was timed"))?;
    Ok(1e3 * TIMED_BATCH as f64 / times.percentile_ms(50))
}

/// A loss curve, written point by point so that an interrupted cell keeps it.
struct Curve {
    path: PathBuf,
    /// Steps between two points.
    every: u64,
    points: Vec<Point>,
    /// Images and sum of their losses since the last point.
    since: (usize, f64),
}

impl Curve {
    /// The points up to step `done` of a run of `steps` steps.
    fn open(path: &Path, steps: u64, done: u64) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::run(format_args!("{}: {error}", path.display()))),
        };
        let point = |line: &str| {
            let (step, loss) = line.split_once(',')?;
            Some(Point { step: step.parse().ok()?, loss: loss.parse().ok()? })
        };
        let points = text.lines().filter_map(point).filter(|point| point.step <= done).collect();
        Ok(Self { path: path.to_owned(), every: (steps / POINTS).max(1), points, since: (0, 0.0) })
    }

    fn add(&mut self, record: &StepRecord) -> Result<(), Failure> {
        self.since.0 += record.images;
        self.since.1 += record.step_loss * record.images as f64;
        if !record.step.is_multiple_of(self.every) && record.step != record.steps {
            return Ok(());
        }
        let (images, loss) = std::mem::take(&mut self.since);
        self.points.push(Point { step: record.step, loss: loss / images.max(1) as f64 });
        let rows: String = self.points.iter().map(|point| format!("{},{}\n", point.step, point.loss)).collect();
        Ok(write_whole(&self.path, |file| write!(file, "step,loss\n{rows}"))?)
    }
}

struct Watcher<'a> {
    job: &'a Job<'a>,
    /// Held while it trains; given back after every step to who wants to be alone.
    turn: Option<Turn<'a>>,
    curve: Curve,
    /// A curve that could not be written ends the run.
    failed: Option<Failure>,
}

impl Observer for Watcher<'_> {
    fn step(&mut self, record: &StepRecord) {
        self.job.tell(Told::Step);
        if let Err(failure) = self.curve.add(record) {
            self.failed = Some(failure);
        }
    }

    fn epoch(&mut self, _: &EpochRecord) {}

    fn stop(&mut self) -> bool {
        self.turn = None;
        self.turn = Some(self.job.quiet.shared());
        self.failed.is_some() || self.job.interrupt.pressed()
    }
}

//! `mila train`: a run on a folder of class folders.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use mila::burn::Form;
use mila::digits::{self, Digits};
use mila::model::{self, Request};
use mila::train::{Config, Data, Ended, EpochRecord, Observer, Outcome, Run, RunDirectory, StepRecord};
use serde_json::json;

use crate::cli::{Machine, Train};
use crate::commands::doctor;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

pub(crate) fn run(args: Train, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let config = configuration(&args)?;
    config.check()?;
    let data = open(&config)?;
    terminal.note(format_args!(
        "{} classes, {} images to train on, {} to validate on",
        data.classes.len(),
        data.train.len(),
        data.validation.len()
    ));
    if data.validation.is_empty() {
        terminal.warning("no image to validate on: every epoch will score 0, and best/ is the last epoch's model");
    }
    let goes_on = args.resume && RunDirectory::open(&config.out)?.has_state();
    if args.resume && !goes_on {
        terminal.warning("the run has no saved state: it starts from the beginning");
    }
    let resolved = model::resolve_preset(
        config.preset()?,
        &Request {
            // A saved state holds the weights.
            weights: config.weights.clone().filter(|_| !goes_on),
            reset_head: config.reset_head,
            seed: config.seed,
            classes: Some(data.classes.len()),
            ..Request::default()
        },
    )?;
    if config.weights.is_some() && !goes_on {
        resolved.notes.iter().for_each(|note| terminal.note(note));
    }
    let run = if args.resume {
        Run::resume(config, data, &resolved.parameters)?
    } else {
        Run::create(config, data, &resolved.parameters, &environment(machine))?
    };
    train(run.with_form(Form::Kernels(machine.isa)), terminal).map(|_| ())
}

/// The data that the configuration names: a folder, or the digits of `mila demo`.
fn open(config: &Config) -> Result<Data, Failure> {
    if config.data != Path::new(digits::NAME) {
        return Ok(Data::open(config)?);
    }
    let Digits { train, test, classes } = digits::load(config.val_fraction, digits::SPLIT_SEED);
    Ok(Data { train, validation: test, classes })
}

/// The settings: the file, or those of the run that goes on, then options, then `--set`.
fn configuration(args: &Train) -> Result<Config, Failure> {
    let mut overrides = Vec::new();
    for (key, path) in [("data", &args.data), ("out", &args.out)] {
        if let Some(path) = path {
            overrides.push(format!("{key}={}", toml_string(&path.to_string_lossy())));
        }
    }
    if let Some(arch) = &args.arch {
        overrides.push(format!("arch={}", toml_string(arch)));
    }
    overrides.extend(args.set.iter().cloned());
    let mut file = args.config.clone();
    if args.resume {
        let given = Config::read(file.as_deref(), &overrides)?.out;
        if given.as_os_str().is_empty() {
            return Err(Failure::usage("--resume: say which run, with --out DIR"));
        }
        file = Some(RunDirectory::open(&given)?.config());
    }
    let mut config = Config::read(file.as_deref(), &overrides)?;
    if config.out.as_os_str().is_empty() {
        return Err(Failure::usage("no run directory: give --out DIR, or `out` in the configuration"));
    }
    if config.data.as_os_str().is_empty() {
        return Err(Failure::usage("no data: give --data DIR, or `data` in the configuration"));
    }
    // A run is resumed from anywhere.
    config.out = absolute(&config.out)?;
    if config.data != Path::new(digits::NAME) {
        config.data = absolute(&config.data)?;
    }
    config.weights = config.weights.as_deref().map(absolute).transpose()?;
    Ok(config)
}

/// The path from the root of the file system.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::run(format_args!("{}: {e}", path.display())))
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What `env.json` says of where a run was made.
pub(crate) fn environment(machine: &Machine) -> serde_json::Value {
    json!({
        "mila": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "processor": doctor::processor(),
        "isa": machine.isa.to_string(),
        "threads": machine.threads,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
    })
}

/// Trains with a bar on a terminal and lines elsewhere; Ctrl-C saves and stops after the running batch.
pub(crate) fn train(run: Run, terminal: &Terminal) -> Result<(Outcome, PathBuf), Failure> {
    let interrupt = Interrupt::listen()?;
    let directory = run.directory().clone();
    let validates = run.validates();
    if let Some(bytes) = run.cache_refused() {
        terminal.note(format_args!(
            "pictures are decoded anew in every epoch: kept, they would take {:.1} GiB, and at most 2 are used",
            bytes as f64 / (1_u64 << 30) as f64
        ));
    }
    let (done, steps) = run.steps();
    terminal.note(format_args!("{} parameters, {steps} steps, in {}", run.parameters(), directory.root().display()));
    if done > 0 {
        terminal.note(format_args!("going on at step {done} of {steps}"));
    }
    let bar = terminal.bar(steps, "steps");
    bar.set_position(done);
    bar.reset_eta();
    let mut watcher = Watcher { bar, terminal, interrupt, images: 0, since: std::time::Instant::now() };
    let outcome = run.train(&mut watcher);
    watcher.bar.finish_and_clear();
    let outcome = outcome?;
    for (path, reason) in &outcome.skipped {
        terminal.error(format_args!("{}: {reason}", path.display()));
    }
    if outcome.ended == Ended::Stopped {
        let place = directory.root().display();
        return Err(Failure::interrupted(format!(
            "interrupted; the state is saved, `mila train --out {place} --resume` goes on"
        )));
    }
    if let Some(best) = &outcome.best {
        let place = directory.best();
        let (epoch, place) = (best.epoch, place.display());
        match validates {
            true => terminal.result(format_args!(
                "best validation top-1 {:.2} % in epoch {epoch}, model in {place}",
                100.0 * best.val_top1
            ))?,
            false => terminal.result(format_args!("not validated; model of epoch {epoch} in {place}"))?,
        }
    }
    if outcome.skipped.is_empty() {
        return Ok((outcome, directory.root().to_owned()));
    }
    Err(Failure::data(format!(
        "{} images could not be read; the model was trained without them",
        outcome.skipped.len()
    )))
}

struct Watcher<'a> {
    bar: ProgressBar,
    terminal: &'a Terminal,
    interrupt: Interrupt,
    images: usize,
    since: std::time::Instant,
}

impl Observer for Watcher<'_> {
    fn step(&mut self, record: &StepRecord) {
        self.images += record.images;
        let rate = self.images as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!("epoch {}  loss {:.4}  {rate:.0} images/s", record.epoch, record.loss));
        self.bar.set_position(record.step);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let line = format!(
            "epoch {:>3}  loss {:.4}  top-1 {:.2} %  validation: loss {:.4}  top-1 {:.2} %  {:.0} images/s",
            record.epoch,
            record.train_loss,
            100.0 * record.train_top1,
            record.val_loss,
            100.0 * record.val_top1,
            record.images_per_s
        );
        self.bar.suspend(|| self.terminal.note(line));
    }

    fn stop(&mut self) -> bool {
        self.interrupt.pressed()
    }
}

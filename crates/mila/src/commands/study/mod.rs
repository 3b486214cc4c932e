//! `mila study`: a comparison of models under one budget, resumable cell by cell.
//!
//! A study is a list of variants, the first of which the others are compared with, and the settings that they share. A cell
//! is one variant with one seed. What is done is in files: `cells/CELL.json` for each finished cell, `cells/CELL/` with the
//! run directory of its training, `study.json` with the settings that all cells share. Another study is one file like
//! `ablation.rs` and one entry of [`STUDIES`].

mod ablation;
mod cell;
mod jobs;
mod settings;
mod table;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use mila::inspect::bars;
use mila::train::{Config, Data, check_outside};
use mila::weights::write_whole;

use crate::cli::{Machine, Study as Args};
use crate::commands::train;
use crate::failure::Failure;
use crate::terminal::Terminal;
use cell::{Cell, Ended, Place};
use settings::{Budget, Shared};
use table::Table;

/// A comparison of models under one budget.
pub(crate) struct Study {
    /// On the command line.
    pub(crate) name: &'static str,
    /// One line about it.
    pub(crate) about: &'static str,
    /// What the published columns are of.
    pub(crate) source: &'static str,
    /// The first is what the others are compared with.
    pub(crate) variants: &'static [Variant],
    /// What every cell may use, unless the command line says otherwise.
    pub(crate) budget: Budget,
}

/// One of the models that are compared.
pub(crate) struct Variant {
    /// On the command line, and in the names of files.
    pub(crate) name: &'static str,
    /// In tables.
    pub(crate) label: &'static str,
    /// The registered model that is trained.
    pub(crate) arch: &'static str,
    /// The registered model whose published numbers stand beside.
    pub(crate) published: &'static str,
}

/// Every study.
const STUDIES: [&Study; 1] = [&ablation::STUDY];

pub(crate) fn run(args: &Args, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let known = || STUDIES.map(|study| study.name).join(", ");
    let Some(name) = &args.name else { return list(terminal) };
    let study = STUDIES.into_iter().find(|study| study.name == name);
    let study = study.ok_or_else(|| Failure::usage(format_args!("unknown study `{name}`; known are {}", known())))?;
    let variants = study.chosen(&args.variants)?;
    let seeds = if args.seeds.is_empty() { study.budget.seeds } else { &args.seeds };
    if let Some(twice) = seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
        return Err(Failure::usage(format_args!("--seeds: {} is there twice", twice.1)));
    }
    let out = train::absolute(args.out.as_deref().ok_or_else(|| Failure::usage("no folder: give --out DIR"))?)?;
    let folder = args.data.as_deref().ok_or_else(|| Failure::usage("no data: give --data DIR"))?;
    let config = Config { data: train::absolute(folder)?, ..Config::default() }.with(&args.set)?;
    check_outside(&out, &config.data)?;
    let data = Data::open(&config)?;
    let shared = Shared::of(study, args, &data)?;
    std::fs::create_dir_all(out.join("cells"))
        .map_err(|error| Failure::run(format_args!("{}: {error}", out.join("cells").display())))?;
    let _lock = locked(&out)?;
    shared.settle(&out)?;
    terminal.note(format_args!(
        "{}, {}, {} classes, {} images to train on, {} to validate on",
        counted(variants.len(), "variant"),
        counted(seeds.len(), "seed"),
        data.classes.len(),
        data.train.len(),
        data.validation.len()
    ));

    let mut open = Vec::new();
    for cell in seeds.iter().flat_map(|&seed| variants.iter().map(move |&variant| Cell { variant, seed })) {
        if cell.record(&out, &shared)?.is_none() {
            open.push(cell);
        }
    }
    open.truncate(args.cells.unwrap_or(usize::MAX));
    if !open.is_empty() {
        // Not fewer for the last cells: all are timed on the same number of threads.
        let jobs = args.jobs.map_or(machine.threads, |jobs| jobs as usize).max(1);
        terminal.note(format_args!("{} to run, {jobs} at a time", counted(open.len(), "cell")));
        let place = Place { out: &out, shared: &shared, data: &data };
        let ended =
            jobs::run(&open, jobs, &place, (machine, terminal), &mut || write(study, &out, &shared).map(|_| ()))?;
        if ended == Ended::Interrupted {
            return Err(Failure::interrupted(format_args!(
                "interrupted; what is done is kept, the same command goes on with it in {}",
                out.display()
            )));
        }
    }
    let table = write(study, &out, &shared)?;
    terminal.result(table.markdown().trim_end())?;
    terminal.note(format_args!("table and picture in {}", out.display()));
    match table.skipped() {
        0 => Ok(()),
        skipped => Err(Failure::data(format_args!("{} could not be read", counted(skipped, "picture")))),
    }
}

/// `1 seed`, `2 seeds`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The lock of the folder, which two processes must not work in at once; it is gone with the process.
fn locked(out: &Path) -> Result<File, Failure> {
    let path = out.join("study.lock");
    let at = |error: std::io::Error| Failure::run(format_args!("{}: {error}", path.display()));
    let file = File::create(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::usage(format_args!("another process works in {}", out.display())))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(at(error)),
    }
}

fn list(terminal: &Terminal) -> Result<(), Failure> {
    for study in STUDIES {
        terminal.result(format_args!("{}: {}", study.name, study.about))?;
        for variant in study.variants {
            terminal.result(format_args!("  {:<14} {:<28} {}", variant.name, variant.label, variant.arch))?;
        }
    }
    Ok(())
}

impl Study {
    /// The variants of these names, in the study's order; all where none is named.
    fn chosen(&self, names: &[String]) -> Result<Vec<&'static Variant>, Failure> {
        if let Some(unknown) = names.iter().find(|name| self.variants.iter().all(|variant| variant.name != **name)) {
            let known: Vec<&str> = self.variants.iter().map(|variant| variant.name).collect();
            return Err(Failure::usage(format_args!("unknown variant `{unknown}`; known are {}", known.join(", "))));
        }
        if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return Err(Failure::usage(format_args!("--variants: {} is there twice", twice.1)));
        }
        let wanted = |variant: &&Variant| names.is_empty() || names.iter().any(|name| name == variant.name);
        Ok(self.variants.iter().filter(wanted).collect())
    }
}

/// The table of all finished cells in every form, and its picture.
fn write(study: &'static Study, out: &Path, shared: &Shared) -> Result<Table, Failure> {
    let table = Table::of(study, cell::finished(study, out, shared)?);
    let chart = table.chart();
    for (name, content) in [
        ("table.md", table.markdown().into_bytes()),
        ("table.csv", table.csv().into_bytes()),
        ("table.json", table.json(shared)?),
        ("differences.svg", bars::to_svg(&chart).into_bytes()),
        ("differences.png", bars::to_png(&chart)),
    ] {
        write_whole(&out.join(name), |file| file.write_all(&content))?;
    }
    Ok(table)
}

//! `mila run`: a raw tensor through a model on any executor.

use std::path::{Path, PathBuf};
use std::time::Instant;

#[cfg(feature = "train")]
use mila::burn::{Burn, Form};
use mila::data::Limits;
use mila::model::{self, Resolved};
use mila::models::Output;
use mila::npy;
use mila::ops::reference::{Array, Reference};
use mila::ops::{Dims, Error, Numeric, Result as OpsResult, Tap};

use crate::cli::{ExecutorName, Machine, PrecisionName, Run, TaskName};
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) fn run(args: Run, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let ([batch, channels, height, width], planes) = npy::read4(&args.input)?;
    if channels != 3 {
        let input = args.input.display();
        return Err(Failure::data(format!("{input}: expected [batch, 3, height, width], found {channels} channels")));
    }
    // There may be no image, but none without pixels: of those there can be any number in an empty file.
    if height == 0 || width == 0 {
        let input = args.input.display();
        return Err(Failure::data(format!("{input}: expected at least one pixel an image, found {height}x{width}")));
    }
    let most = Limits::default().max_pixels;
    if height.checked_mul(width).is_none_or(|pixels| pixels as u64 > most) {
        let input = args.input.display();
        return Err(Failure::data(format!("{input}: expected at most {most} pixels an image, found {height}x{width}")));
    }
    let opened = Instant::now();
    let resolved = model::resolve(&args.model.request(args.task == TaskName::Pyramid))?;
    resolved.notes.iter().for_each(|note| terminal.note(note));
    let mapped = opened.elapsed();
    let image = Array::checked(Dims::new(batch, height, width, 3), npy::interleaved(&planes, batch, height * width))?;
    let job = Job { args: &args, resolved: &resolved, image: &image, terminal, mapped: mapped.as_secs_f64() };
    if args.executor != ExecutorName::Cpu && args.precision.precision != PrecisionName::F32 {
        return Err(Failure::usage("--precision: only the executor cpu has another one than its own"));
    }
    match args.executor {
        ExecutorName::Cpu => job.on(machine.cpu(args.precision, terminal)),
        ExecutorName::Reference => job.on(Reference::<f64>::eval()),
        #[cfg(feature = "train")]
        ExecutorName::Burn => job.on(Burn::declare().with_form(Form::Kernels(machine.isa))),
    }
}

struct Job<'a> {
    args: &'a Run,
    resolved: &'a Resolved,
    image: &'a Array<f32>,
    terminal: &'a Terminal,
    mapped: f64,
}

impl Job<'_> {
    fn on<E: Numeric + 'static>(&self, mut e: E) -> Result<(), Failure> {
        let prepared = Instant::now();
        let model = self.resolved.preset.build(&mut e, &self.resolved.parameters, self.resolved.task)?;
        let e = e.evaluating();
        let prepared = prepared.elapsed().as_secs_f64();
        self.terminal.note(format_args!(
            "weights: {:.1} ms to map and check, {:.1} ms to unpack and prepare",
            1e3 * self.mapped,
            1e3 * prepared
        ));
        let mut tap = Taps::new(&e, &self.args.tap, self.args.check_finite);
        let image = e.map(self.image.dims, &self.image.values)?;
        let started = Instant::now();
        let output = model.forward(&e, image, &mut tap)?;
        let maps = match output {
            Output::Logits(logits) => vec![e.read(&logits)?],
            Output::Pyramid(maps) => maps.iter().map(|map| e.read(map)).collect::<OpsResult<_>>()?,
        };
        if self.args.check_finite {
            for (level, map) in maps.iter().enumerate() {
                let pyramid = self.args.task == TaskName::Pyramid;
                check_finite(&if pyramid { format!("norm{level}") } else { "head".to_owned() }, map)?;
            }
        }
        self.terminal.note(format_args!("forward: {:.1} ms", 1e3 * started.elapsed().as_secs_f64()));
        tap.complete()?;
        for (path, map) in tap.seen.iter().map(|(path, map)| (path, map)) {
            let d = map.dims;
            npy::write(path, &[d.batch, d.height, d.width, d.channels], &map.values)?;
        }
        if self.args.task == TaskName::Classify {
            let d = maps[0].dims;
            return Ok(npy::write(&self.args.output, &[d.batch, d.channels], &maps[0].values)?);
        }
        for (level, map) in maps.iter().enumerate() {
            let d = map.dims;
            let values = planar(&map.values, d);
            let path = level_path(&self.args.output, level);
            npy::write(&path, &[d.batch, d.channels, d.height, d.width], &values)?;
        }
        Ok(())
    }
}

/// `y.npy` as `y.0.npy`.
fn level_path(output: &Path, level: usize) -> PathBuf {
    match output.extension() {
        Some(extension) => output.with_extension(format!("{level}.{}", extension.to_string_lossy())),
        None => output.with_extension(format!("{level}.npy")),
    }
}

/// `[batch, height, width, channels]` as `[batch, channels, height, width]`.
fn planar(values: &[f32], d: Dims) -> Vec<f32> {
    let tokens = d.tokens();
    let at = |b: usize, c: usize, n: usize| values[(b * tokens + n) * d.channels + c];
    (0..d.batch).flat_map(|b| (0..d.channels).flat_map(move |c| (0..tokens).map(move |n| at(b, c, n)))).collect()
}

/// Fails if the map `name` holds a NaN or an infinity.
fn check_finite(name: &str, map: &Array<f32>) -> OpsResult<()> {
    let broken = || map.values.iter().enumerate().filter(|(_, v)| !v.is_finite());
    match broken().next() {
        None => Ok(()),
        Some((first, _)) => {
            let image = first / (map.dims.tokens() * map.dims.channels).max(1);
            Err(Error::NotFinite { name: name.to_owned(), count: broken().count(), image })
        }
    }
}

/// Keeps the wanted maps, and checks every named one for values that are not finite when asked to.
struct Taps<'a, E> {
    e: &'a E,
    wanted: &'a [(String, PathBuf)],
    check_finite: bool,
    seen: Vec<(PathBuf, Array<f32>)>,
    /// Every name that the model offered, to help with one that it did not.
    offered: std::cell::RefCell<Vec<String>>,
}

impl<'a, E: Numeric> Taps<'a, E> {
    fn new(e: &'a E, wanted: &'a [(String, PathBuf)], check_finite: bool) -> Self {
        Self { e, wanted, check_finite, seen: Vec::new(), offered: Default::default() }
    }

    /// Fails if a wanted map was never offered.
    fn complete(&self) -> Result<(), Failure> {
        let offered = self.offered.borrow();
        match self.wanted.iter().find(|(name, _)| !offered.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let names = offered.join("\n  ");
                Err(Failure::usage(format!("--tap {name}: the model has no map of this name; it has\n  {names}")))
            }
        }
    }
}

impl<E: Numeric> Tap<E> for Taps<'_, E> {
    fn wants(&self, name: &str) -> bool {
        if !self.wanted.is_empty() {
            let mut offered = self.offered.borrow_mut();
            if !offered.iter().any(|n| n == name) {
                offered.push(name.to_owned());
            }
        }
        self.check_finite || self.wanted.iter().any(|(wanted, _)| wanted == name)
    }

    fn see(&mut self, name: &str, map: E::Map) -> OpsResult<E::Map> {
        let array = self.e.read(&map)?;
        if self.check_finite {
            check_finite(name, &array)?;
        }
        for (_, path) in self.wanted.iter().filter(|(wanted, _)| wanted == name) {
            self.seen.push((path.clone(), array.clone()));
        }
        Ok(map)
    }
}

//! What the command line calls a MODEL: a model directory, or an architecture's name with weights or random values.

use std::path::{Path, PathBuf};

use mila_data::EvalTransform;
use mila_graph::Trace;
use mila_models::{Interpolation, Preset, Task, Unknown};
use mila_ops::{Result as OpsResult, Seeded, Source, Values, Wanted};
use mila_weights::{Allow, Checkpoint, Mismatch, ModelDirectory, Which};

/// What is asked of a MODEL.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// A model directory, or an architecture's name.
    pub model: String,
    /// Weights for it.
    pub weights: Option<PathBuf>,
    /// Take averaged weights where a checkpoint holds both.
    pub ema: bool,
    /// Initialise the head although the weights have one of another class count.
    pub reset_head: bool,
    /// Seed of random values.
    pub seed: u64,
    /// Classes; otherwise those of the weights, else the architecture's.
    pub classes: Option<usize>,
    /// Build the pyramid and not the classifier.
    pub pyramid: bool,
}

/// A model that is ready to be built on any executor.
pub struct Resolved {
    /// The registered architecture.
    pub preset: &'static Preset,
    /// Classifier or pyramid.
    pub task: Task,
    /// How a picture becomes an input.
    pub transform: EvalTransform,
    /// A name for each class.
    pub labels: Option<Vec<String>>,
    /// Where its values come from.
    pub parameters: Parameters,
    /// What a user should know about that; one sentence each.
    pub notes: Vec<String>,
}

/// Where the values of a model come from.
pub enum Parameters {
    /// An initialiser.
    Random(Seeded),
    /// A checkpoint, but for the names in `fresh`.
    Loaded {
        /// The checkpoint.
        checkpoint: Box<Checkpoint>,
        /// Taken from the initialiser.
        fresh: Vec<String>,
        /// The initialiser.
        seeded: Seeded,
    },
}

impl Source for Parameters {
    fn load(&self, wanted: &Wanted) -> OpsResult<Values<'_>> {
        match self {
            Self::Random(seeded) => seeded.load(wanted),
            Self::Loaded { fresh, seeded, .. } if fresh.contains(&wanted.name) => seeded.load(wanted),
            Self::Loaded { checkpoint, .. } => checkpoint.load(wanted),
        }
    }
}

/// Why a MODEL cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a directory nor a name.
    #[error("{0}; a MODEL is a model directory or one of these names")]
    Unknown(#[from] Unknown),
    /// A weights file where a MODEL belongs.
    #[error("{0} is a file; say which architecture it is for: `MODEL --weights {0}`")]
    File(String),
    /// Weights that cannot be read.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        source: mila_weights::Error,
    },
    /// Weights of another model.
    #[error("{path} does not hold the weights of {model}\n{mismatch}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The architecture.
        model: String,
        /// All differences.
        mismatch: Box<Mismatch>,
    },
    /// The configuration of a model directory is unusable.
    #[error("{path}: {source}")]
    Config {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: mila_data::Error,
    },
    /// The architecture cannot be built.
    #[error(transparent)]
    Model(#[from] mila_ops::Error),
}

/// Finds a model and checks its weights against what the architecture asks for; no value is read.
///
/// # Errors
/// [`Error`], with every mismatch of names and shapes at once.
pub fn resolve(request: &Request) -> Result<Resolved, Error> {
    let path = Path::new(&request.model);
    if path.is_dir() {
        return directory(path, request);
    }
    if path.is_file() {
        return Err(Error::File(request.model.clone()));
    }
    let preset = Preset::find(&request.model)?;
    let transform = transform(preset);
    match &request.weights {
        None => {
            let task = task(request, request.classes.unwrap_or(preset.classes));
            let notes = vec![format!("random weights by seed {}: the outputs mean nothing", request.seed)];
            let parameters = Parameters::Random(Seeded::new(request.seed));
            Ok(Resolved { preset, task, transform, labels: None, parameters, notes })
        }
        Some(weights) => {
            let checkpoint = open(weights, request)?;
            let classes = request.classes.or_else(|| stored_classes(preset, &checkpoint));
            let task = task(request, classes.unwrap_or(preset.classes));
            loaded(preset, task, transform, None, weights, checkpoint, request)
        }
    }
}

fn directory(path: &Path, request: &Request) -> Result<Resolved, Error> {
    let weights_error = |source| Error::Weights { path: path.to_owned(), source };
    let directory = ModelDirectory::open(path).map_err(weights_error)?;
    let config = directory.config();
    let preset = Preset::find(&config.architecture)?;
    let p = &config.pretrained_cfg;
    let named = |source| Error::Config { path: path.to_owned(), source };
    let transform = EvalTransform {
        input_size: (p.input_size[1], p.input_size[2]),
        crop_pct: p.crop_pct,
        crop_mode: p.crop_mode.parse().map_err(named)?,
        interpolation: p.interpolation.parse().map_err(named)?,
        mean: p.mean.map(|v| v as f32),
        std: p.std.map(|v| v as f32),
    };
    let checkpoint = match &request.weights {
        Some(weights) => open(weights, request)?,
        None => directory.weights().map_err(weights_error)?,
    };
    let labels = config.label_names.clone();
    let task = task(request, request.classes.unwrap_or(config.num_classes));
    loaded(preset, task, transform, labels, path, checkpoint, request)
}

fn loaded(
    preset: &'static Preset,
    task: Task,
    transform: EvalTransform,
    labels: Option<Vec<String>>,
    path: &Path,
    checkpoint: Checkpoint,
    request: &Request,
) -> Result<Resolved, Error> {
    let mut notes = origin_notes(&checkpoint, request);
    let manifest = Trace::of(preset, task)?.manifest().to_vec();
    let names = |manifest: &[Wanted]| manifest.iter().map(|w| w.name.clone()).collect::<Vec<_>>();
    let others = match task {
        Task::Classify { .. } => Trace::of(preset, Task::Pyramid)?.manifest().to_vec(),
        Task::Pyramid => Trace::of(preset, Task::Classify { classes: preset.classes })?.manifest().to_vec(),
    };
    let (wanted, other) = (names(&manifest), names(&others));
    // What only this task has, and what only the other one has: heads.
    let own: Vec<&String> = wanted.iter().filter(|name| !other.contains(name)).collect();
    let foreign: Vec<&String> = other.iter().filter(|name| !wanted.contains(name)).collect();
    let may_be_fresh = |name: &str| {
        let stored = checkpoint.get(name).is_some();
        own.iter().any(|n| *n == name) && if request.pyramid { !stored } else { request.reset_head }
    };
    let may_be_unused = |name: &str| request.pyramid && foreign.iter().any(|n| *n == name);
    let allow = Allow { fresh: &may_be_fresh, unused: &may_be_unused };
    let allowed = checkpoint.check(&manifest, &allow).map_err(|mismatch| Error::Mismatch {
        path: path.to_owned(),
        model: preset.name.to_owned(),
        mismatch: Box::new(mismatch),
    })?;
    if !allowed.fresh.is_empty() {
        notes.push(format!("initialised by seed {}: {}", request.seed, allowed.fresh.join(", ")));
    }
    if !allowed.unused.is_empty() {
        notes.push(format!("not used: {}", allowed.unused.join(", ")));
    }
    // A head is a whole: were its bias kept while its weight is new, neither would mean anything.
    let fresh = if allowed.fresh.is_empty() { Vec::new() } else { own.into_iter().cloned().collect() };
    let seeded = Seeded::new(request.seed);
    let parameters = Parameters::Loaded { checkpoint: Box::new(checkpoint), fresh, seeded };
    Ok(Resolved { preset, task, transform, labels, parameters, notes })
}

fn open(path: &Path, request: &Request) -> Result<Checkpoint, Error> {
    let which = if request.ema { Which::Ema } else { Which::Raw };
    Checkpoint::open(path, which).map_err(|source| Error::Weights { path: path.to_owned(), source })
}

fn task(request: &Request, classes: usize) -> Task {
    if request.pyramid { Task::Pyramid } else { Task::Classify { classes } }
}

/// What a user should know of where in a file the weights were.
pub fn origin_notes(checkpoint: &Checkpoint, request: &Request) -> Vec<String> {
    let origin = checkpoint.origin();
    let mut notes = Vec::new();
    match (origin.has_raw && origin.has_ema, origin.which) {
        (true, Which::Raw) => {
            notes.push("the checkpoint holds raw and averaged weights; took the raw ones (--ema)".into())
        }
        (true, Which::Ema) => notes.push("took the averaged weights of the checkpoint".into()),
        (false, Which::Ema) if !request.ema => {
            notes.push("the checkpoint holds averaged weights only; took them".into())
        }
        _ => {}
    }
    for skipped in checkpoint.skipped() {
        notes.push(format!("left out `{}`: {}", skipped.name, skipped.found));
    }
    notes
}

/// The class count of a checkpoint, from the bias of the head.
fn stored_classes(preset: &Preset, checkpoint: &Checkpoint) -> Option<usize> {
    let trace = Trace::of(preset, Task::Classify { classes: preset.classes }).ok()?;
    let bias = &trace.manifest().last()?.name;
    checkpoint.get(bias)?.shape().first().copied()
}

/// How the pictures of a preset are prepared.
pub fn transform(preset: &Preset) -> EvalTransform {
    let p = preset.preprocessing;
    EvalTransform {
        input_size: (p.size, p.size),
        crop_pct: p.crop_pct,
        crop_mode: mila_data::CropMode::Center,
        interpolation: match p.interpolation {
            Interpolation::Bilinear => mila_data::Interpolation::Bilinear,
            Interpolation::Bicubic => mila_data::Interpolation::Bicubic,
        },
        mean: p.mean,
        std: p.std,
    }
}

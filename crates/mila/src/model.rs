//! What the command line calls a MODEL: a model directory, or an architecture's name with weights or random values.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use mila_data::EvalTransform;
use mila_graph::Trace;
use mila_models::{Preset, Task, Unknown};
use mila_ops::{Result as OpsResult, Seeded, Source, Values, Wanted};
use mila_weights::{Allow, Checkpoint, Mismatch, ModelDirectory, Which};

use crate::preprocessing;

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
        /// Names of whole layers that are taken from the initialiser.
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
    /// What can only be a path, and leads nowhere.
    #[error("{0}: no such model directory")]
    Missing(String),
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
    #[error("{path}: {problem}")]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// What was expected and found.
        problem: String,
    },
    /// A classifier without classes: what timm calls a model without a head.
    #[error("{0}: expected a head of at least one class, found none; without a head there is `--task pyramid` only")]
    NoClasses(PathBuf),
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
    if request.model.contains(['/', std::path::MAIN_SEPARATOR]) {
        return Err(Error::Missing(request.model.clone()));
    }
    resolve_preset(Preset::find(&request.model)?, request)
}

/// Does what [`resolve`] does for an architecture that is already found: `request.model` is not looked at, so that a
/// folder of the architecture's name does no harm.
///
/// # Errors
/// [`Error`], with every mismatch of names and shapes at once.
pub fn resolve_preset(preset: &'static Preset, request: &Request) -> Result<Resolved, Error> {
    let transform = preprocessing::of(preset);
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
    let preset = described(path, &directory)?;
    let config = directory.config();
    let transform = preprocessing::from_config(&config.pretrained_cfg).map_err(|e| unusable(path, e))?;
    let (place, checkpoint) = match &request.weights {
        Some(weights) => (weights.as_path(), open(weights, request)?),
        None => (path, directory.weights().map_err(weights_error)?),
    };
    let labels = config.label_names.clone();
    let task = task(request, request.classes.unwrap_or(config.num_classes));
    loaded(preset, task, transform, labels, place, checkpoint, request)
}

/// The architecture that the configuration of the model directory `path` names.
///
/// # Errors
/// [`Error::Config`] for one that is not registered, and for one that is changed by `model_args`.
pub fn described(path: &Path, directory: &ModelDirectory) -> Result<&'static Preset, Error> {
    let config = directory.config();
    if !config.model_args.is_empty() {
        let keys: Vec<&str> = config.model_args.keys().map(String::as_str).collect();
        let problem = format!("model_args: expected none, since presets cannot be changed, found {}", keys.join(", "));
        return Err(unusable(path, problem));
    }
    Preset::find(&config.architecture).map_err(|e| unusable(path, e))
}

fn unusable(directory: &Path, problem: impl ToString) -> Error {
    Error::Config { path: directory.join("config.json"), problem: problem.to_string() }
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
    if task == (Task::Classify { classes: 0 }) {
        return Err(Error::NoClasses(path.to_owned()));
    }
    let mut notes = origin_notes(&checkpoint, request);
    let trace = Trace::of(preset, task)?;
    // A pyramid's own tensors are those that the classifier lacks, a classifier's head what its number of classes shapes. Not every
    // model has a pyramid.
    let classes = match task {
        Task::Classify { classes } => classes + 1,
        Task::Pyramid => preset.classes,
    };
    let other_trace = Trace::of(preset, Task::Classify { classes })?;
    let (wanted, other) = (shapes(&trace), shapes(&other_trace));
    let fresh = fresh(&trace, &other, &checkpoint, request);
    let may_be_fresh = |name: &str| fresh.iter().any(|n| n == name);
    // The head of the other task.
    let may_be_unused = |name: &str| request.pyramid && other.contains_key(name) && !wanted.contains_key(name);
    let allow = Allow { fresh: &may_be_fresh, unused: &may_be_unused };
    let allowed = checkpoint.check(trace.manifest(), &allow).map_err(|mismatch| Error::Mismatch {
        path: path.to_owned(),
        model: preset.name.to_owned(),
        mismatch: Box::new(mismatch),
    })?;
    if !fresh.is_empty() {
        notes.push(format!("initialised by seed {}: {}", request.seed, fresh.join(", ")));
    }
    if !allowed.unused.is_empty() {
        notes.push(format!("not used: {}", allowed.unused.join(", ")));
    }
    let seeded = Seeded::new(request.seed);
    let parameters = Parameters::Loaded { checkpoint: Box::new(checkpoint), fresh, seeded };
    Ok(Resolved { preset, task, transform, labels, parameters, notes })
}

/// Names and shapes of what a model asks for.
type Shapes<'t> = HashMap<&'t str, &'t [usize]>;

fn shapes(trace: &Trace) -> Shapes<'_> {
    trace.manifest().iter().map(|wanted| (wanted.name.as_str(), wanted.shape.as_slice())).collect()
}

/// The tensors that are initialised although there are weights: of what only this task has, those layers of which a
/// tensor is missing (for the pyramid) or does not fit (for `--reset-head`). A layer is a whole: a kept bias means
/// nothing beside a new weight.
fn fresh(trace: &Trace, other: &Shapes<'_>, checkpoint: &Checkpoint, request: &Request) -> Vec<String> {
    let own =
        || trace.manifest().iter().filter(|wanted| other.get(wanted.name.as_str()) != Some(&wanted.shape.as_slice()));
    let lacks = |wanted: &&Wanted| match checkpoint.get(&wanted.name) {
        None => request.pyramid || request.reset_head,
        Some(tensor) => request.reset_head && !request.pyramid && tensor.shape() != wanted.shape,
    };
    let layers: HashSet<&str> = own().filter(lacks).map(|wanted| layer(&wanted.name)).collect();
    own().filter(|wanted| layers.contains(layer(&wanted.name))).map(|wanted| wanted.name.clone()).collect()
}

/// The layer of a tensor: its name without the last part.
fn layer(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or("", |(layer, _)| layer)
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

/// The class count of a checkpoint, from the first tensor whose first extent it is: the weight of the head.
pub fn stored_classes(preset: &Preset, checkpoint: &Checkpoint) -> Option<usize> {
    let of = |classes| Trace::of(preset, Task::Classify { classes }).ok();
    let (trace, other) = (of(preset.classes)?, of(preset.classes + 1)?);
    let mut pairs = trace.manifest().iter().zip(other.manifest());
    let (head, _) = pairs.find(|(one, another)| one.shape != another.shape)?;
    checkpoint.get(&head.name)?.shape().first().copied()
}

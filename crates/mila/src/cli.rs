//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mila::cpu::{Cpu, Isa, Level, Precision};
use mila::model::Request;

pub(crate) use self::inspection::{Inspect, MapName};
#[cfg(feature = "train")]
pub(crate) use self::training::{Demo, Study, Train};
use crate::failure::Failure;
use crate::terminal::Terminal;

mod inspection;
#[cfg(feature = "train")]
mod training;

/// Vision backbones whose global mixing costs linear time.
#[derive(Parser)]
#[command(name = "mila", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[cfg(feature = "train")]
const EXAMPLES: &str = "Examples:
  mila demo                                           train a small model on bundled digits, see it predict
  mila models mila-t --size 512x512                   parameters, MACs and memory, layer by layer
  mila predict runs/pets/best cat.jpg photos/         the five best classes of each picture
  mila train --data pets/ --arch mila-nano --out runs/pets
  mila study ablation --data pets/ --out runs/study   the paper's ablation under one budget
  mila eval runs/pets/best pets/ --val-fraction 0.1   top-1, top-5, per class, of what training held out
  mila inspect runs/pets/best cat.jpg --map attention -o attention.png
  mila convert MLLA_T.pth mila-t/ --arch mila-t       an official checkpoint as a model directory
  mila export runs/pets/best pets.onnx --dynamic      for ONNX Runtime, OpenVINO and others

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad data, 4 threshold not met, 130 interrupted.";

#[cfg(not(feature = "train"))]
const EXAMPLES: &str = "Examples:
  mila models mila-t --size 512x512                   parameters, MACs and memory, layer by layer
  mila predict mila-t/ cat.jpg photos/                the five best classes of each picture
  mila eval mila-t/ imagenet/val                      top-1, top-5, per class
  mila inspect mila-t/ cat.jpg --map attention -o attention.png
  mila bench mila-t --batch 8                         time of a pass beside what this machine could do
  mila convert MLLA_T.pth mila-t/ --arch mila-t       an official checkpoint as a model directory
  mila export mila-t/ mila-t.onnx --dynamic           for ONNX Runtime, OpenVINO and others
This build leaves training out: no demo, train or study.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad data, 4 threshold not met.";

/// Threads beyond which a pool takes longer to start than anything it could speed up.
const MOST_THREADS: usize = 512;

/// Options of every command.
#[derive(Args)]
pub(crate) struct Global {
    /// Threads to compute with; default: those that this process may use
    #[arg(long, global = true, env = "MILA_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Instruction set of the kernels
    #[arg(long, global = true, env = "MILA_ISA", value_enum, default_value_t = IsaChoice::Auto)]
    isa: IsaChoice,
    /// Tell only results and what is wrong
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// Instruction sets by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsaChoice {
    /// The strongest that this processor has
    Auto,
    /// AVX-512
    Avx512,
    /// AVX2 with FMA
    Avx2,
    /// What every processor of this architecture has
    Portable,
}

/// How numbers are multiplied.
#[derive(Args, Clone, Copy)]
pub(crate) struct PrecisionArgs {
    /// Numbers that products multiply; everything else is f32
    #[arg(long, env = "MILA_PRECISION", value_enum, default_value_t = PrecisionName::F32)]
    pub(crate) precision: PrecisionName,
}

/// Precisions by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionName {
    /// Single precision
    F32,
    /// Rounded to eight bits, where the processor has AVX-512 BF16 or AMX
    Bf16,
}

/// What the commands compute with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Threads of the pool.
    pub(crate) threads: usize,
    /// Instruction set of the kernels.
    pub(crate) isa: Isa,
}

impl Machine {
    /// The fast executor; in f32, with a warning, where the processor cannot do better.
    pub(crate) fn cpu(&self, args: PrecisionArgs, terminal: &Terminal) -> Cpu {
        let unit = match args.precision {
            PrecisionName::F32 => None,
            PrecisionName::Bf16 => self.isa.bf16(),
        };
        if unit.is_none() && args.precision == PrecisionName::Bf16 {
            terminal.warning(format_args!("this processor has no unit for bf16 beside {}; computing in f32", self.isa));
        }
        Cpu::new(self.isa).with_precision(unit.map_or(Precision::F32, Precision::Bf16))
    }
}

impl Global {
    /// Starts the thread pool and finds the instruction set.
    pub(crate) fn machine(&self) -> Result<Machine, Failure> {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match self.threads {
            Some(threads) if (1..=MOST_THREADS).contains(&threads) => threads,
            Some(threads) => {
                let expected = format!("expected at least 1 and at most {MOST_THREADS}");
                return Err(Failure::usage(format!("--threads (or MILA_THREADS) {threads}: {expected}")));
            }
            None => available,
        };
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(Failure::run)?;
        let level = match self.isa {
            IsaChoice::Auto => return Ok(Machine { threads, isa: Isa::detect() }),
            IsaChoice::Avx512 => Level::Avx512,
            IsaChoice::Avx2 => Level::Avx2,
            IsaChoice::Portable => Level::Portable,
        };
        let isa = Isa::new(level).ok_or_else(|| Failure::usage(format!("--isa {level}: this processor lacks it")))?;
        Ok(Machine { threads, isa })
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Train and evaluate a small model on bundled handwritten digits, and show its predictions
    #[cfg(feature = "train")]
    Demo(Demo),
    /// List the models, or count one: parameters, MACs, memory, layer by layer
    Models(Models),
    /// Classify pictures
    Predict(Predict),
    /// Run a model on a raw tensor
    Run(Run),
    /// Train a model on a folder of class folders
    #[cfg(feature = "train")]
    Train(Train),
    /// Compare models under one budget, cell by cell: the paper's ablation
    #[cfg(feature = "train")]
    Study(Study),
    /// Score a model on a folder of class folders
    Eval(Eval),
    /// Time a model's forward pass, beside what this machine could do
    Bench(Bench),
    /// Show what the layers of a model do with a picture: gates, attention, token norms
    Inspect(Inspect),
    /// Convert weights between .pth, .safetensors and model directories (never writes .pth)
    Convert(Convert),
    /// Write a model as ONNX, for other runtimes
    Export(Export),
    /// Show what this machine offers and how fast it is
    #[command(after_help = "Examples:\n  mila doctor\n  mila doctor --threads 1 --isa avx2")]
    Doctor,
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  mila completions bash > ~/.local/share/bash-completion/completions/mila")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a model is named.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// A model directory, or an architecture's name (see `mila models`)
    #[arg(value_name = "MODEL")]
    model: String,
    /// Weights: a .pth or .safetensors file, or a model directory; without any: random values by --seed
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Take the averaged weights of a checkpoint that holds both
    #[arg(long)]
    ema: bool,
    /// Initialise the head instead of refusing one of another class count
    #[arg(long)]
    reset_head: bool,
    /// Seed of random values, and of the choice by --val-fraction
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Classes of the head; default: those of the weights, else the architecture's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    classes: Option<u32>,
}

impl ModelArgs {
    /// The request that these arguments are.
    pub(crate) fn request(&self, pyramid: bool) -> Request {
        Request {
            model: self.model.clone(),
            weights: self.weights.clone(),
            ema: self.ema,
            reset_head: self.reset_head,
            seed: self.seed,
            classes: self.classes.map(|n| n as usize),
            pyramid,
        }
    }
}

#[derive(Args)]
#[command(after_help = "Examples:\n  mila models\n  mila models mila-t\n  mila models mila-b --size 800x1333 --json")]
pub(crate) struct Models {
    /// One model; without it: all of them
    pub(crate) name: Option<String>,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
    /// Classes of the head; default: the model's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) classes: Option<u32>,
    /// JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON object a picture, or one for the whole
    Json,
    /// Comma-separated values with a header
    Csv,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila predict runs/pets/best cat.jpg
  mila predict runs/pets/best photos/ 'more/*.png' --top-k 1 --format csv > found.csv
  find . -name '*.jpg' | mila predict mila-t --weights MLLA_T.pth - --format json
Pictures that cannot be read are listed on stderr, and the exit code is 3.")]
pub(crate) struct Predict {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Pictures, folders, globs; - for a list on stdin, one path a line
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Classes shown of each picture
    #[arg(long, short = 'k', default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: u32,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Pictures that run together
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
}

/// Executors by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorName {
    /// The fast one
    Cpu,
    /// The definition of every operator, in f64; slow
    Reference,
    /// Burn's tensors, as in training
    #[cfg(feature = "train")]
    Burn,
}

/// Tasks by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskName {
    /// Logits
    Classify,
    /// A normed map of each stage
    Pyramid,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila run mila-t --weights MLLA_T.pth --input x.npy --output logits.npy
  mila run mila-t --task pyramid --input x.npy --output maps.npy        # maps.0.npy .. maps.3.npy
  mila run mila-nano --input x.npy --output y.npy --tap layers.0=stage0.npy --executor reference
x is [batch, 3, height, width] f32, already normalised; logits are [batch, classes]; maps of the pyramid are
[batch, channels, height, width]; taps are [batch, height, width, channels].")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tensor to read
    #[arg(long, value_name = "X.npy")]
    pub(crate) input: PathBuf,
    /// Tensor to write
    #[arg(long, value_name = "Y.npy")]
    pub(crate) output: PathBuf,
    /// What to compute
    #[arg(long, value_enum, default_value_t = TaskName::Classify)]
    pub(crate) task: TaskName,
    /// What computes
    #[arg(long, value_enum, default_value_t = ExecutorName::Cpu)]
    pub(crate) executor: ExecutorName,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Also write an intermediate map; may be given several times
    #[arg(long, value_name = "NAME=FILE.npy", value_parser = tap)]
    pub(crate) tap: Vec<(String, PathBuf)>,
    /// Fail at the first layer whose output holds a NaN or an infinity
    #[arg(long)]
    pub(crate) check_finite: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila eval runs/pets/best pets/
  mila eval runs/pets/best pets/ --val-fraction 0.1     # the images that this training held out
  mila eval mila-t --weights MLLA_T.pth imagenet/ --split validation --format json
  mila eval runs/pets/best pets-test/ --min-top1 0.9 || echo worse than 90 %")]
pub(crate) struct Eval {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Folder of class folders, or one that holds val, validation or test
    pub(crate) data: PathBuf,
    /// Which part of the data; default: validation where there is one, else test, else the whole folder
    #[arg(long, value_enum)]
    pub(crate) split: Option<SplitName>,
    /// Of one set without splits, score the part that a training with this fraction and --seed held out
    #[arg(long, value_name = "FRACTION", conflicts_with = "split")]
    pub(crate) val_fraction: Option<f64>,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Pictures that run together
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Exit with 4 if top-1 is below this fraction
    #[arg(long, value_name = "FRACTION")]
    pub(crate) min_top1: Option<f64>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila bench mila-t
  mila bench mila-t --size 512x512 --batch 8 --threads 1 --profile     # operator by operator
  mila bench mila-t --batch 8 --precision bf16                         # fast where the processor has AMX
  mila bench runs/pets/best --json > speed.json
  mila bench mila-nano --fail-above 5 || echo slower than 5 ms
Timed is the forward pass: the map of a random image in, the map of the logits out.
Peak memory is that of the passes; copies, whose speed is measured after them, take 256 MiB of their own.")]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Images of a call
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Passes before the timed ones
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) warmup: u32,
    /// Timed passes; default: at least 5, for at least 3 seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) iterations: Option<u32>,
    /// Also tell where the time goes, in as many passes more
    #[arg(long)]
    pub(crate) profile: bool,
    /// JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 4 if the median is above these milliseconds a call
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) fail_above: Option<f64>,
}

/// Parts of a dataset by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    /// train
    Train,
    /// val or validation
    Validation,
    /// test
    Test,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila convert MLLA_T.pth mila-t.safetensors
  mila convert MLLA_T.pth mila-t/ --arch mila-t --ema
  mila convert runs/pets/best pets.safetensors")]
pub(crate) struct Convert {
    /// A .pth or .safetensors file, or a model directory
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// A .safetensors file, or a model directory (any other name)
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Architecture to check the weights against; needed for a model directory unless IN is one
    #[arg(long, value_name = "NAME")]
    pub(crate) arch: Option<String>,
    /// Take the averaged weights of a checkpoint that holds both
    #[arg(long)]
    pub(crate) ema: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  mila export mila-t --weights MLLA_T.pth mila-t.onnx                  # one image of the model's own size
  mila export runs/pets/best pets.onnx --dynamic                       # any batch, height and width
  mila export mila-s maps.onnx --weights MLLA_S.pth --task pyramid --size 800x1333 --batch 2
The input is image, [batch, 3, height, width] f32, already normalised; the output is logits, [batch, classes], or level0,
level1, ..., [batch, channels, height, width]. What to normalise with is in the file's metadata.")]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// File to write
    #[arg(value_name = "OUT.onnx")]
    pub(crate) output: PathBuf,
    /// What to compute
    #[arg(long, value_enum, default_value_t = TaskName::Classify)]
    pub(crate) task: TaskName,
    /// Input height and width in pixels; default: the model's own
    #[arg(long, value_name = "HxW", value_parser = size)]
    pub(crate) size: Option<(usize, usize)>,
    /// Images in a batch
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// Leave batch, height and width to the runtime
    #[arg(long, conflicts_with_all = ["size", "batch"])]
    pub(crate) dynamic: bool,
}

/// Longest side of an input, in pixels: that of the picture formats, and counts of operations stay in range.
const LONGEST_SIDE: usize = 65535;

/// `HxW`, each from 1 to [`LONGEST_SIDE`].
fn size(text: &str) -> Result<(usize, usize), String> {
    let parse = |part: &str| part.parse::<usize>().ok().filter(|n| (1..=LONGEST_SIDE).contains(n));
    let parts = text.split_once(['x', 'X']).and_then(|(h, w)| Some((parse(h)?, parse(w)?)));
    let most = format!("{LONGEST_SIDE}x{LONGEST_SIDE}");
    let expected = || format!("expected HEIGHTxWIDTH of at least 1x1, at most {most}, such as 224x224, found `{text}`");
    parts.ok_or_else(expected)
}

/// A time of at least 0.
fn milliseconds(text: &str) -> Result<f64, String> {
    let time = text.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms >= 0.0);
    time.ok_or_else(|| format!("expected milliseconds, such as 12.5, found `{text}`"))
}

/// `NAME=FILE`.
fn tap(text: &str) -> Result<(String, PathBuf), String> {
    let parts = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty());
    let (name, file) = parts.ok_or_else(|| format!("expected NAME=FILE.npy, found `{text}`"))?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

//! Runs an ONNX model on a runtime that is written in Rust: values into a file, times as a line of JSON.
//!
//! ```text
//! mila-peers rten|tract MODEL.onnx X.npy Y.npy [--threads N] [--runs N]
//! ```
//!
//! A model of several outputs writes `Y.0.npy`, `Y.1.npy`, ..., as `mila run` does. `--runs` passes are timed after three
//! that are not; with none, only values are written.

mod npy;
mod rten_runtime;
mod tract_runtime;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// A tensor of f32, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// A loaded model that gives its outputs for one input.
pub(crate) type Pass = Box<dyn FnMut() -> Result<Vec<Tensor>>>;

/// A runtime: its version, and how it loads a model for an input and a number of threads.
struct Runtime {
    name: &'static str,
    version: &'static str,
    load: fn(&std::path::Path, Tensor, usize) -> Result<Pass>,
}

const RUNTIMES: [Runtime; 2] = [
    Runtime { name: "rten", version: "0.27.0", load: rten_runtime::load },
    Runtime { name: "tract", version: "0.23.9", load: tract_runtime::load },
];

const USAGE: &str = "usage: mila-peers rten|tract MODEL.onnx X.npy Y.npy [--threads N] [--runs N]";

/// Passes before the timed ones.
const WARM_UP: usize = 3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut threads, mut runs) = (std::thread::available_parallelism().map_or(1, usize::from), 0);
    let mut files = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<usize>().ok()).context(USAGE);
        match argument.as_str() {
            "--threads" => threads = number()?.max(1),
            "--runs" => runs = number()?,
            _ => files.push(argument),
        }
    }
    let [name, model, input, output] = files.as_slice() else { bail!(USAGE) };
    let runtime = RUNTIMES.iter().find(|runtime| runtime.name == name).context(USAGE)?;
    let started = Instant::now();
    let mut pass = (runtime.load)(model.as_ref(), npy::read(input.as_ref())?, threads).context("loading")?;
    let load_ms = 1e3 * started.elapsed().as_secs_f64();
    let outputs = pass().context("running")?;
    let output = PathBuf::from(output);
    match outputs.as_slice() {
        [only] => npy::write(&output, only)?,
        several => {
            for (level, tensor) in several.iter().enumerate() {
                npy::write(&output.with_extension(format!("{level}.npy")), tensor)?;
            }
        }
    }
    if runs == 0 {
        return Ok(());
    }
    for _ in 0..WARM_UP {
        pass()?;
    }
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        ensure!(!pass()?.is_empty(), "the model gave nothing");
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let line = serde_json::json!({
        "runtime": runtime.name,
        "version": runtime.version,
        "threads": threads,
        "runs": runs,
        "load_ms": load_ms,
        "p50_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
    });
    println!("{line}");
    Ok(())
}

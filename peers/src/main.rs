//! Runs an ONNX model on a runtime that is written in Rust: values into a file, times on request.
//!
//! ```text
//! mila-peers rten|tract MODEL.onnx X.npy Y.npy [--threads N] [--serve]
//! ```
//!
//! A model of several outputs writes `Y.0.npy`, `Y.1.npy`, ..., as `mila run` does. With `--serve` a line with the version
//! follows, and each line `WARM-UP PASSES` on stdin is answered by one with the milliseconds of each pass, as
//! `tools/peers.py` does.

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

const USAGE: &str = "usage: mila-peers rten|tract MODEL.onnx X.npy Y.npy [--threads N] [--serve]";

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
    let (mut threads, mut is_serving) = (std::thread::available_parallelism().map_or(1, usize::from), false);
    let mut files = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => threads = arguments.next().and_then(|text| text.parse().ok()).context(USAGE)?,
            "--serve" => is_serving = true,
            _ => files.push(argument),
        }
    }
    let [name, model, input, output] = files.as_slice() else { bail!(USAGE) };
    let runtime = RUNTIMES.iter().find(|runtime| runtime.name == name).context(USAGE)?;
    let mut pass = (runtime.load)(model.as_ref(), npy::read(input.as_ref())?, threads.max(1)).context("loading")?;
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
    if is_serving {
        println!("{}", serde_json::json!({ "version": runtime.version }));
        for request in std::io::stdin().lines() {
            println!("{}", serde_json::json!(timed(&mut pass, &request?)?));
        }
    }
    Ok(())
}

/// The milliseconds of each pass that the line `WARM-UP PASSES` asks for.
fn timed(pass: &mut Pass, request: &str) -> Result<Vec<f64>> {
    let numbers: Vec<usize> = request.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [warm_up, passes] = numbers[..] else { bail!("expected WARM-UP PASSES, found {request}") };
    for _ in 0..warm_up {
        pass()?;
    }
    let one = |_| {
        let started = Instant::now();
        ensure!(!pass()?.is_empty(), "the model gave nothing");
        Ok(1e3 * started.elapsed().as_secs_f64())
    };
    (0..passes).map(one).collect()
}

//! `cargo xtask scans`: the S6 scan, forward and backward, of our kernels and of PyTorch, in turns in one run.
//!
//! PyTorch's results are compared with ours before anything is timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::peers::contestant::{number, output};
use crate::peers::table::median;
use crate::programs::target;
use crate::python::{Environment, run};

const ROUNDS: usize = 3;
/// Multiply-adds and other operations of one element of the state, as the tables of the Mamba families count a scan.
const OPERATIONS: f64 = 9.0;
/// Instructions for an element of the state that only units for multiply-adds take: the logarithm of the gate, the six of its
/// exponential's polynomial, what is written, the state and the read. Six more can go elsewhere.
const OF_ELEMENT: f64 = 10.0;
/// The same for a token's channel: twenty-two of its softplus, Δ x and D x.
const OF_CHANNEL: f64 = 24.0;

/// A scan of one image.
struct Case {
    of: &'static str,
    tokens: usize,
    channels: usize,
    states: usize,
    /// Calls of a round, ours and PyTorch's.
    repeats: [usize; 2],
}

const CASES: [Case; 3] = [
    Case { of: "Vim-Ti, one direction", tokens: 197, channels: 384, states: 16, repeats: [99, 5] },
    Case { of: "VMamba-T, stage 1, one of four", tokens: 3136, channels: 192, states: 1, repeats: [49, 2] },
    Case {
        of: "VMamba-T of the first version, stage 1, one of four",
        tokens: 3136,
        channels: 192,
        states: 16,
        repeats: [19, 2],
    },
];

/// Times of one version in all rounds, ms.
struct Times {
    name: String,
    forward: Vec<f64>,
    backward: Vec<f64>,
}

/// Times every case and prints a table of each.
pub(crate) fn scans(root: &Path, python: Option<PathBuf>) -> Result<()> {
    let python = match python {
        Some(python) => std::path::absolute(python)?,
        None => Environment {
            folder: ".venv",
            requirements: &["tools/golden/requirements.txt"],
            warning: "this downloads several GB of PyTorch",
        }
        .interpreter(root)?,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--release", "--package", "mila-kernels", "--example", "scan_speed"];
    run(Command::new(cargo).current_dir(root).args(build))?;
    let program = target(root).join("release/examples/scan_speed");
    let folder = target(root).join("scans");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for case in &CASES {
        println!("\n{}", case.table(&python, &root.join("tools/scan_speed.py"), &program, &folder, threads)?);
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))
}

impl Case {
    fn table(&self, python: &Path, script: &Path, program: &Path, folder: &Path, threads: usize) -> Result<String> {
        let sizes = [self.tokens, self.channels, self.states].map(|n| n.to_string());
        let ask = |command: &mut Command| -> Result<Value> { Ok(serde_json::from_str(&output(command)?)?) };
        output(Command::new(python).arg(script).arg("make").arg(folder).args(&sizes))?;
        let (mut versions, mut roofs) = (Vec::<Times>::new(), Vec::new());
        for round in 1..=ROUNDS {
            eprintln!("{}: round {round} of {ROUNDS}", self.of);
            let [ours, theirs] = self.repeats.map(|repeats| [threads, repeats].map(|n| n.to_string()));
            let mila = ask(Command::new(program).arg(folder).args(&sizes).args(&ours))?;
            roofs.push((number(&mila, "roof_gflops")?, number(&mila, "copy_gbs")?));
            add(&mut versions, "mila", &mila)?;
            let torch = ask(Command::new(python).arg(script).arg("time").arg(folder).args(&sizes).args(&theirs))?;
            for (name, times) in torch.as_object().context("PyTorch's times are no object")? {
                add(&mut versions, name, times)?;
            }
        }
        let of = |f: fn(&(f64, f64)) -> f64| median(&roofs.iter().map(f).collect::<Vec<_>>());
        let (gflops, copy) = (of(|roofs| roofs.0), of(|roofs| roofs.1));
        let elements = (self.tokens * self.channels * self.states) as f64;
        let mut table = format!(
            "{}: {} tokens, {} channels, {} states; {threads} threads; multiply-adds at {gflops:.0} GFLOP/s, copies at \
             {copy:.1} GB/s; medians of {ROUNDS} rounds\n\n| | forward, ms | of ours | backward, ms | of ours |\n|---|---|---|---|---|\n",
            self.of, self.tokens, self.channels, self.states
        );
        let ours = versions.first().map(|v| (median(&v.forward), median(&v.backward))).context("no round")?;
        for version in &versions {
            let (forward, backward) = (median(&version.forward), median(&version.backward));
            let (times, more) = (forward / ours.0, backward / ours.1);
            table += &format!("| {} | {forward:.3} | {times:.1} | {backward:.3} | {more:.1} |\n", version.name);
        }
        // What is read and written once: x, step sizes, y; B and C.
        let bytes = 4.0 * self.tokens as f64 * (3 * self.channels + 2 * self.states) as f64;
        let share = |ms: f64| 100.0 * ms / ours.0;
        let units = 2.0 * (OF_ELEMENT * elements + OF_CHANNEL * (self.tokens * self.channels) as f64);
        table += &format!(
            "\nOur forward pass is {:.0} % of the copies' speed over what it must read and write, {:.0} % of the multiply-adds' over \
             {OPERATIONS} operations an element of the state, and {:.0} % of theirs over what only their units can do of it.\n",
            share(bytes / copy / 1e6),
            share(OPERATIONS * elements / gflops / 1e6),
            share(units / gflops / 1e6),
        );
        Ok(table)
    }
}

fn add(versions: &mut Vec<Times>, name: &str, times: &Value) -> Result<()> {
    let (forward, backward) = (number(times, "forward_ms")?, number(times, "backward_ms")?);
    match versions.iter_mut().find(|version| version.name == name) {
        Some(version) => {
            version.forward.push(forward);
            version.backward.push(backward);
        }
        None => versions.push(Times { name: name.into(), forward: vec![forward], backward: vec![backward] }),
    }
    Ok(())
}

//! `cargo xtask scans`: the S6 scan, forward and backward, of our kernels, of PyTorch and in Burn's own operators, in turns in one
//! run.
//!
//! Everyone's results are compared with those of our kernels before anything is timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::peers::contestant::{number, output};
use crate::peers::table::median;
use crate::programs::{example, target};
use crate::python::Environment;

const ROUNDS: usize = 3;
/// Multiply-adds and other operations of one element of the state, as the tables of the Mamba families count a scan.
const OPERATIONS: f64 = 9.0;
/// Instructions for an element of the state that only units for multiply-adds take: the logarithm of the gate, the five of its
/// exponential's polynomial, what is written, the state and the read. Six more can go elsewhere.
const OF_ELEMENT: f64 = 9.0;
/// The same for a token's channel: twenty-two of its softplus, Δ x and D x.
const OF_CHANNEL: f64 = 24.0;

/// A scan of one image.
struct Case {
    of: &'static str,
    tokens: usize,
    channels: usize,
    states: usize,
    /// Calls of a round: of our kernels, and of PyTorch's loops.
    repeats: [usize; 2],
    /// Those of the versions that make the gates of all tokens before their loop, in Burn and in mamba-ssm. The way back through
    /// each of their steps writes a gradient of all gates: none where that takes minutes.
    of_all_gates: usize,
}

const CASES: [Case; 4] = [
    Case { of: "Vim-Ti, one direction", tokens: 197, channels: 384, states: 16, repeats: [99, 5], of_all_gates: 3 },
    Case {
        of: "VMamba-T, stage 1, one of four",
        tokens: 3136,
        channels: 192,
        states: 1,
        repeats: [49, 2],
        of_all_gates: 1,
    },
    Case {
        of: "VMamba-T of the first version, stage 2, one of four",
        tokens: 784,
        channels: 384,
        states: 16,
        repeats: [29, 2],
        of_all_gates: 1,
    },
    Case {
        of: "VMamba-T of the first version, stage 1, one of four",
        tokens: 3136,
        channels: 192,
        states: 16,
        repeats: [19, 2],
        of_all_gates: 0,
    },
];

/// What computes.
struct Sides {
    /// Our kernels.
    kernels: PathBuf,
    /// Burn's own operators.
    burn: PathBuf,
    python: PathBuf,
    /// `tools/scan_speed.py`
    script: PathBuf,
    /// Inputs and results.
    folder: PathBuf,
    threads: usize,
}

/// Times of one version in all rounds, ms.
struct Times {
    name: String,
    forward: Vec<f64>,
    backward: Vec<f64>,
}

/// What is timed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// An interpreter that has the requirements.
    python: Option<PathBuf>,
    /// These cases only, from 1.
    cases: Option<Vec<usize>>,
}

impl Options {
    /// `None` for an option that does not exist, lacks its value, or names no case.
    pub(crate) fn parse(options: &[String]) -> Option<Self> {
        let mut parsed = Self::default();
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.as_str() {
                "--python" => parsed.python = Some(options.next()?.into()),
                "--cases" => {
                    let cases: Vec<usize> =
                        options.next()?.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
                    let are_known = cases.iter().all(|case| (1..=CASES.len()).contains(case));
                    parsed.cases = are_known.then_some(cases).map(Some)?;
                }
                _ => return None,
            }
        }
        Some(parsed)
    }
}

/// Times the cases and prints a table of each.
pub(crate) fn scans(root: &Path, options: &Options) -> Result<()> {
    let python = match &options.python {
        Some(python) => std::path::absolute(python)?,
        None => Environment {
            folder: ".venv",
            requirements: &["tools/golden/requirements.txt"],
            warning: "this downloads several GB of PyTorch",
        }
        .interpreter(root)?,
    };
    let sides = Sides {
        kernels: example(root, "mila-kernels", "scan_speed", &[])?,
        burn: example(root, "mila-burn", "portable_scan", &[])?,
        python,
        script: root.join("tools/scan_speed.py"),
        folder: target(root).join("scans"),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    fs::create_dir_all(&sides.folder).with_context(|| format!("cannot make {}", sides.folder.display()))?;
    let is_wanted = |number: usize| options.cases.as_ref().is_none_or(|cases| cases.contains(&number));
    for (_, case) in (1..).zip(&CASES).filter(|(number, _)| is_wanted(*number)) {
        println!("\n{}", case.table(&sides)?);
    }
    fs::remove_dir_all(&sides.folder).with_context(|| format!("cannot empty {}", sides.folder.display()))
}

impl Case {
    fn table(&self, sides: &Sides) -> Result<String> {
        let Sides { kernels, burn, python, script, folder, threads } = sides;
        let sizes = [self.tokens, self.channels, self.states].map(|n| n.to_string());
        let [ours, loops, of_all_gates] = [self.repeats[0], self.repeats[1], self.of_all_gates].map(|n| n.to_string());
        let ask = |command: &mut Command, repeats: &[&String]| -> Result<Value> {
            let command = command.arg(folder).args(&sizes).arg(threads.to_string()).args(repeats);
            Ok(serde_json::from_str(&output(command)?)?)
        };
        output(Command::new(python).arg(script).arg("make").arg(folder).args(&sizes))?;
        let (mut versions, mut roofs) = (Vec::<Times>::new(), Vec::new());
        for round in 1..=ROUNDS {
            eprintln!("{}: round {round} of {ROUNDS}", self.of);
            let mila = ask(&mut Command::new(kernels), &[&ours])?;
            roofs.push((number(&mila, "roof_gflops")?, number(&mila, "copy_gbs")?));
            add(&mut versions, "mila", &mila)?;
            let torch = ask(Command::new(python).arg(script).arg("time"), &[&loops, &of_all_gates])?;
            for (name, times) in torch.as_object().context("PyTorch's times are no object")? {
                add(&mut versions, name, times)?;
            }
            if self.of_all_gates > 0 {
                add(&mut versions, "Burn's own operators", &ask(&mut Command::new(burn), &[&of_all_gates])?)?;
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
        if self.of_all_gates == 0 {
            table += "Burn's own operators and mamba-ssm's function would take minutes here: each step of their way back writes a \
                      gradient of all gates.\n";
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_cases() {
        let parse = |line: &str| Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Options::default()));
        let options = Options { python: Some("p".into()), cases: Some(vec![1, 3]) };
        assert_eq!(parse("--python p --cases 1,3"), Some(options));
        for line in ["--cases", "--cases 0", "--cases 5", "--cases a", "--python", "1"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

//! `cargo xtask peers`: how long every runtime takes for the same models, weights and inputs, taking turns in one run.
//!
//! Before a model is timed, each program's output is compared with that of `mila run`; no table is printed if one differs.

pub(crate) mod contestant;
mod field;
pub(crate) mod table;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::programs::{Programs, example, target};
use crate::python::{Environment, run};
use contestant::{Mila, number, output};
use field::Field;
use table::{Measured, OneImage, median};

/// Each of them starts a process of `mila bench` and asks every peer once.
const ROUNDS: usize = 5;
/// Rounds and passes of a size that takes seconds a pass.
const ALONE_ROUNDS: usize = 2;
const ALONE_PASSES: usize = 1;

/// A model, and square images of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Case {
    model: &'static str,
    side: usize,
    batch: usize,
    /// Passes of a round.
    passes: usize,
    /// Whether peers are timed too.
    with_peers: bool,
    is_quick: bool,
}

const fn case(model: &'static str, side: usize, batch: usize, passes: usize) -> Case {
    Case { model, side, batch, passes, with_peers: side <= 1024, is_quick: false }
}

const CASES: [Case; 8] = [
    Case { is_quick: true, ..case("mila-t", 224, 1, 9) },
    Case { is_quick: true, ..case("mila-t", 224, 8, 5) },
    case("mila-s", 224, 8, 3),
    case("mila-b", 224, 8, 3),
    case("mila-t", 512, 1, 5),
    case("mila-t", 1024, 1, 3),
    case("mila-t", 2048, 1, ALONE_PASSES),
    case("mila-t", 4096, 1, ALONE_PASSES),
];

/// What is timed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// An interpreter that has the requirements.
    pub(crate) python: Option<PathBuf>,
    /// These models only.
    pub(crate) models: Option<Vec<String>>,
    /// These sides of images only.
    pub(crate) sizes: Option<Vec<usize>>,
    /// MILA-T at 224 only.
    pub(crate) quick: bool,
    /// Instead of [`ROUNDS`].
    pub(crate) rounds: Option<usize>,
}

impl Options {
    /// `None` for an option that does not exist, lacks its value, or leaves no case.
    pub(crate) fn parse(options: &[String]) -> Option<Self> {
        let mut parsed = Self::default();
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.as_str() {
                "--quick" => parsed.quick = true,
                "--python" => parsed.python = Some(options.next()?.into()),
                "--models" => parsed.models = Some(options.next()?.split(',').map(String::from).collect()),
                "--sizes" => {
                    parsed.sizes = Some(options.next()?.split(',').map(str::parse).collect::<Result<_, _>>().ok()?);
                }
                "--rounds" => parsed.rounds = Some(options.next()?.parse().ok().filter(|&rounds| rounds > 0)?),
                _ => return None,
            }
        }
        (!parsed.cases().is_empty()).then_some(parsed)
    }

    fn cases(&self) -> Vec<Case> {
        let is_wanted = |case: &Case| {
            (case.is_quick || !self.quick)
                && self.models.as_ref().is_none_or(|models| models.iter().any(|model| model == case.model))
                && self.sizes.as_ref().is_none_or(|sizes| sizes.contains(&case.side))
        };
        CASES.into_iter().filter(is_wanted).collect()
    }
}

/// What every case needs.
struct Setup<'a> {
    root: &'a Path,
    programs: Programs,
    /// Models on Burn's own operators, if peers are timed.
    burn: Option<PathBuf>,
    python: PathBuf,
    /// For weights, exports, inputs and outputs.
    folder: PathBuf,
    threads: usize,
    rounds: usize,
}

impl Setup<'_> {
    /// What `mila bench` and `mila run` are told of a case.
    fn model(&self, case: &Case, threads: usize) -> Vec<String> {
        let weights = self.weights(case).display().to_string();
        [case.model, "--weights", &weights, "--threads", &threads.to_string()].map(String::from).to_vec()
    }

    fn extents(case: &Case) -> [String; 4] {
        ["--size".into(), format!("{0}x{0}", case.side), "--batch".into(), case.batch.to_string()]
    }

    /// A model, its extents and the threads, for `mila bench`.
    fn of(&self, case: &Case, threads: usize) -> Vec<String> {
        let mut arguments = self.model(case, threads);
        arguments.extend(Self::extents(case));
        arguments
    }

    fn weights(&self, case: &Case) -> PathBuf {
        self.folder.join(format!("{}.safetensors", case.model))
    }

    /// The weights of a case, once.
    fn write_weights(&self, case: &Case) -> Result<()> {
        let file = self.weights(case);
        if file.exists() {
            Ok(())
        } else {
            run(Command::new(&self.programs.weights).args([case.model, "classify"]).arg(file))
        }
    }
}

/// Times everything, and prints it if everything is right.
pub(crate) fn peers(root: &Path, options: &Options) -> Result<()> {
    let python = match &options.python {
        Some(python) => std::path::absolute(python)?,
        None => Environment {
            folder: ".venv-peers",
            requirements: &[
                "tools/golden/requirements.txt",
                "tools/onnx_requirements.txt",
                "tools/onnx_openvino_requirements.txt",
            ],
            warning: "this downloads several GB: PyTorch, ONNX Runtime, OpenVINO",
        }
        .interpreter(root)?,
    };
    let cases = options.cases();
    let with_peers = cases.iter().any(|case| case.with_peers);
    let burn = with_peers.then(|| example(root, "mila", "burn_model", &[])).transpose()?;
    let programs = Programs::build(root, with_peers)?;
    let folder = target(root).join("peers-run");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let setup = Setup { root, programs, burn, python, folder, threads, rounds: options.rounds.unwrap_or(ROUNDS) };
    let mut measured: Vec<Measured> = Vec::new();
    for case in cases.iter().filter(|case| case.with_peers) {
        measured.push(Field::enter(&setup, case)?.race(&setup)?);
    }
    let mut one_image: Vec<OneImage> = measured.iter_mut().filter_map(|case| case.one_image.take()).collect();
    for case in cases.iter().filter(|case| !case.with_peers) {
        one_image.push(time_alone(&setup, case)?);
    }
    println!("\n{}", report(&setup, &measured, &one_image)?);
    fs::remove_dir_all(&setup.folder).with_context(|| format!("cannot empty {}", setup.folder.display()))
}

fn time_alone(setup: &Setup, case: &Case) -> Result<OneImage> {
    setup.write_weights(case)?;
    let mila = Mila { arguments: Vec::new() };
    let bench = || mila.bench(&setup.programs.mila, &setup.of(case, setup.threads), 1, case.passes);
    let rounds: Vec<Value> = (0..ALONE_ROUNDS).map(|_| bench()).collect::<Result<_>>()?;
    let times: Vec<f64> = rounds.iter().map(|round| number(round, "p50_ms")).collect::<Result<_>>()?;
    eprintln!("{} {1}x{1}: {2:.0} ms", case.model, case.side, median(&times));
    let peak_mb = peak_mb(&rounds);
    Ok(OneImage { model: case.model.into(), side: case.side, time: median(&times), peak_mb })
}

/// The most of all rounds.
fn peak_mb(rounds: &[Value]) -> Option<f64> {
    rounds.iter().filter_map(|round| round["peak_rss_mb"].as_f64()).max_by(f64::total_cmp)
}

/// What was run where, then the tables.
fn report(setup: &Setup, measured: &[Measured], one_image: &[OneImage]) -> Result<String> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(setup.root).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".into(), |text| text.trim().to_string());
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).map_or(true, |text| !text.is_empty());
    let note = if is_changed { ", with changes" } else { "" };
    let machine: Value = serde_json::from_str(&output(Command::new(&setup.programs.mila).args([
        "bench",
        "mila-nano",
        "--json",
        "--quiet",
        "--iterations",
        "1",
    ]))?)?;
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_string();
    let mut report = format!(
        "Commit {commit}{note}; {}, {}; {} threads; {} rounds in turns, {ALONE_ROUNDS} above 1024 pixels; medians of rounds; \
         `{}`.\n",
        text("processor"),
        text("isa"),
        setup.threads,
        setup.rounds,
        command(std::env::args().skip(1)),
    );
    if !measured.is_empty() {
        report += &format!("\n{}", table::overview(measured));
        for case in measured {
            report += &format!("\n{}", case.table());
        }
    }
    if measured.iter().any(|case| case.scaling.is_some()) {
        report += &format!("\n{}", table::scaling(measured));
    }
    if !one_image.is_empty() {
        report += &format!("\n{}", table::by_size(one_image));
    }
    ensure!(!report.contains("NaN"), "a time is missing:\n{report}");
    Ok(report)
}

/// What was typed, without where the interpreter is.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut shown = String::from("cargo xtask");
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--python" {
            arguments.next();
        } else {
            shown += &format!(" {argument}");
        }
    }
    shown
}

fn name(model: &str, side: usize) -> String {
    format!("{model}, {side}x{side}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Options> {
        Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_choose_cases() {
        let sides = |line: &str| parse(line).unwrap().cases().iter().map(|case| case.side).collect::<Vec<_>>();
        assert_eq!(parse("").unwrap().cases(), CASES);
        assert_eq!(sides("--quick"), [224, 224]);
        assert_eq!(sides("--models mila-t --sizes 512,4096"), [512, 4096]);
        assert_eq!(sides("--models mila-s,mila-b --rounds 3"), [224, 224]);
    }

    #[test]
    fn the_command_names_no_place_of_the_machine() {
        let arguments = ["peers", "--python", "bin/python", "--quick"].map(String::from);
        assert_eq!(command(arguments.into_iter()), "cargo xtask peers --quick");
    }

    #[test]
    fn what_leaves_nothing_to_do_is_refused() {
        for line in ["--sizes", "--sizes 5x5", "--sizes 100", "--models swin", "--rounds 0", "--slow", "mila-t"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

//! `cargo xtask instructions`: how many instructions a forward pass executes, against the committed numbers.
//!
//! A count tells what a clock on a shared machine cannot: whether a change made the code do more. Callgrind counts what
//! `crates/mila-cpu/examples/one_pass.rs` does in one pass on one thread with AVX2, since Valgrind knows no AVX-512; so a
//! kernel that only AVX-512 runs is not watched. The numbers belong to the pinned compiler. Two runs on one machine count the
//! same; on another machine only what the C library chooses by processor can differ (copying and filling memory, under
//! one per cent), far below the tolerance.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Models and the sides of their square inputs: all operators, and small enough for the fifty-fold time of Callgrind.
const PASSES: [(&str, usize); 5] =
    [("mila-t", 64), ("convnext-t", 64), ("mambaout-t", 64), ("swin-t", 64), ("mila-nano", 32)];
const COMMITTED: &str = "crates/mila-cpu/instructions.txt";
const HEADER: &str = "\
# Instructions of one forward pass: model, side of the input, count. Written by `cargo xtask instructions --write`.
";
/// Per cent by which a count may differ from the committed one.
const TOLERANCE: u64 = 3;

/// Counts every pass, and compares with the committed counts or, with `write`, takes their place.
pub(crate) fn instructions(root: &Path, write: bool) -> Result<()> {
    ensure!(cfg!(all(target_os = "linux", target_arch = "x86_64")), "instructions are counted on x86-64 Linux only");
    let valgrind = Command::new("valgrind").arg("--version").output();
    ensure!(valgrind.is_ok_and(|v| v.status.success()), "valgrind does not start: `apt-get install valgrind`");
    let program = build(root)?;
    // At once, since each of them keeps one core busy for the better part of a minute.
    let running = PASSES.map(|(model, side)| start(&program, model, side));
    let mut counted = Vec::new();
    for ((model, side), child) in PASSES.into_iter().zip(running) {
        let count = count(child?).with_context(|| format!("{model} at {side}x{side}"))?;
        counted.push((model, side, count));
    }
    let file = root.join(COMMITTED);
    if write {
        fs::write(&file, text(&counted)).with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {COMMITTED}");
        return Ok(());
    }
    let committed = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut more = Vec::new();
    for (model, side, count) in counted {
        let before = committed_count(&committed, model, side).with_context(|| {
            format!("{COMMITTED} has no count of {model} {side}: `cargo xtask instructions --write`")
        })?;
        let change = 100.0 * (count as f64 / before as f64 - 1.0);
        let verdict = judge(before, count);
        println!(
            "{model} {side}x{side}: {count} instructions, {before} committed ({change:+.2} %){}",
            verdict.advice()
        );
        if verdict == Verdict::More {
            more.push(model);
        }
    }
    if !more.is_empty() {
        bail!(
            "more than {TOLERANCE} % more instructions: {}. If that is worth it: `cargo xtask instructions --write`",
            more.join(", ")
        );
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Same,
    Less,
    More,
}

impl Verdict {
    fn advice(&self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Less => ": keep the gain with `cargo xtask instructions --write`",
            Self::More => ": too many",
        }
    }
}

fn judge(committed: u64, counted: u64) -> Verdict {
    let (before, now) = (u128::from(committed) * 100, u128::from(counted) * 100);
    let tolerated = u128::from(committed) * u128::from(TOLERANCE);
    match () {
        () if now > before + tolerated => Verdict::More,
        () if now + tolerated < before => Verdict::Less,
        () => Verdict::Same,
    }
}

/// Builds the example and says where it is.
fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = "build --release --locked -p mila-cpu --example one_pass --message-format=json-render-diagnostics";
    let output = Command::new(cargo)
        .current_dir(root)
        .args(arguments.split_whitespace())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build ended with {}", output.status);
    let messages = String::from_utf8(output.stdout).context("cargo wrote no UTF-8")?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let built = message["target"]["name"] == "one_pass";
        built.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    };
    messages.lines().find_map(executable).context("cargo named no executable")
}

fn start(program: &Path, model: &str, side: usize) -> Result<Child> {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_pass*"])
        .arg(program)
        .args([model, &side.to_string()])
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start valgrind")
}

fn count(child: Child) -> Result<u64> {
    let output = child.wait_with_output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{report}", output.status);
    collected(&report).with_context(|| format!("callgrind counted nothing:\n{report}"))
}

/// The count of Callgrind's report, if it collected anything.
fn collected(report: &str) -> Option<u64> {
    let count = report.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse().ok()?;
    (count > 0).then_some(count)
}

fn text(counted: &[(&str, usize, u64)]) -> String {
    let mut text = HEADER.to_owned();
    for (model, side, count) in counted {
        let _ = writeln!(text, "{model} {side} {count}");
    }
    text
}

fn committed_count(text: &str, model: &str, side: usize) -> Option<u64> {
    let start = format!("{model} {side} ");
    text.lines().find_map(|line| line.strip_prefix(&start))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_tolerance_is_told_either_way() {
        for (counted, verdict) in [
            (1000, Verdict::Same),
            (1030, Verdict::Same),
            (970, Verdict::Same),
            (1031, Verdict::More),
            (969, Verdict::Less),
            (u64::MAX, Verdict::More),
        ] {
            assert_eq!(judge(1000, counted), verdict, "{counted}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = text(&[("mila-t", 64, 12), ("mila", 6, 34)]);
        assert_eq!(committed_count(&text, "mila-t", 64), Some(12));
        assert_eq!(committed_count(&text, "mila", 6), Some(34));
        assert_eq!(committed_count(&text, "mila", 64), None);
    }

    #[test]
    fn the_count_of_a_report() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 14429665\n==1== \n"), Some(14_429_665));
        assert_eq!(collected("==1== Collected : 0\n"), None);
        assert_eq!(collected("==1== error\n"), None);
    }
}

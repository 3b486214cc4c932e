//! The project's automation, run as `cargo xtask COMMAND` from anywhere in the repository.

mod check;
mod golden;
mod instructions;
mod measurements;
mod onnx;
mod peers;
mod programs;
mod python;
mod scans;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
The project's automation.

Usage: cargo xtask COMMAND

Commands:
  check         formatting, clippy, rustdoc, cargo-deny, tidy: all of them, then what failed
  tidy          the rules on the source tree that no other tool knows
  golden        writes the files under crates/*/tests that PyTorch makes
                  --check          writes them elsewhere and compares them with the committed ones
                  --python FILE    an interpreter that has tools/golden/requirements.txt; else `.venv` is
                                   made with Python 3.11, which downloads several GB of PyTorch
  instructions  counts the instructions of forward passes under valgrind; 3 % more than committed fail
                  --write          writes the counts over the committed ones
  onnx          exports every model and compares what ONNX Runtime makes of it with `mila run`
                  --openvino       OpenVINO too
                  --peers          rten and tract too, which takes minutes to build
                  --models A,B     these models only
                  --python FILE    an interpreter that has tools/onnx_requirements.txt; else `.venv-onnx` is made
  peers         times every model on PyTorch, ONNX Runtime, OpenVINO, rten, tract, Burn and mila, in turns, and prints the
                tables of docs/performance.md; none if one of them gives something else than `mila run`
                  --python FILE    an interpreter that has what `tools/peers.py` needs; else `.venv-peers` is
                                   made with Python 3.11, which downloads several GB
                  --quick          MILA-T at 224x224 only
                  --models A,B     these models only
                  --sizes N,M      these sides of images only
                  --rounds N       turns; default: 5
  scans         times the S6 scan, forward and backward, of our kernels, of PyTorch and in Burn's own operators, in turns
                  --python FILE    as for golden; mamba-ssm is timed if it is there (tools/scan_speed.py says how)
                  --cases N,M      these of its tables only, from 1
  tokens        times one layer of 196 to 262,144 tokens: linear attention, the S6 scan, softmax attention; a table, and a
                picture as SVG and PNG
                  --out FOLDER     where the picture goes; default: below the target folder
                  --rounds N       turns; default: 3
  throughput    times the paper's ablation at its size, in turns: ratios to its baseline beside the paper's
                  --batch N        images of a pass; default: 8
                  --rounds N       turns; default: 7

Exit codes: 0 done, 1 failed, 2 usage.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(command) = Command::parse(&arguments) else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, PartialEq)]
enum Command {
    Help,
    Check,
    Tidy,
    Golden { python: Option<PathBuf>, compare: bool },
    Instructions { write: bool },
    Onnx(onnx::Options),
    Peers(peers::Options),
    Scans(scans::Options),
    Throughput(measurements::Throughput),
    Tokens(measurements::Tokens),
}

impl Command {
    /// `None` if the arguments name no command or an option that it does not have.
    fn parse(arguments: &[String]) -> Option<Self> {
        let (name, options) = arguments.split_first()?;
        if options.iter().any(|option| option == "--help" || option == "-h") {
            return Some(Self::Help);
        }
        match (name.as_str(), options) {
            ("--help" | "-h" | "help", []) => Some(Self::Help),
            ("check", []) => Some(Self::Check),
            ("tidy", []) => Some(Self::Tidy),
            ("golden", options) => {
                let (mut python, mut compare) = (None, false);
                let mut options = options.iter();
                while let Some(option) = options.next() {
                    match option.as_str() {
                        "--check" => compare = true,
                        "--python" => python = Some(PathBuf::from(options.next()?)),
                        _ => return None,
                    }
                }
                Some(Self::Golden { python, compare })
            }
            ("onnx", options) => onnx::Options::parse(options).map(Self::Onnx),
            ("peers", options) => peers::Options::parse(options).map(Self::Peers),
            ("scans", options) => scans::Options::parse(options).map(Self::Scans),
            ("throughput", options) => measurements::Throughput::parse(options).map(Self::Throughput),
            ("tokens", options) => measurements::Tokens::parse(options).map(Self::Tokens),
            ("instructions", []) => Some(Self::Instructions { write: false }),
            ("instructions", [option]) if option == "--write" => Some(Self::Instructions { write: true }),
            _ => None,
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = root()?;
    match command {
        Command::Help => print!("{HELP}"),
        Command::Check => check::check(root)?,
        Command::Tidy => {
            let findings = tidy::tidy(root)?;
            for finding in &findings {
                println!("{finding}");
            }
            if !findings.is_empty() {
                bail!("tidy findings: {}", findings.len());
            }
        }
        Command::Golden { python, compare } => golden::golden(root, python, compare)?,
        Command::Onnx(options) => onnx::onnx(root, &options)?,
        Command::Peers(options) => peers::peers(root, &options)?,
        Command::Scans(options) => scans::scans(root, &options)?,
        Command::Throughput(options) => measurements::throughput(root, options)?,
        Command::Tokens(options) => measurements::tokens(root, options)?,
        Command::Instructions { write } => instructions::instructions(root, write)?,
    }
    Ok(())
}

/// The repository, wherever it is run from.
fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Command> {
        Command::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_and_their_options() {
        assert_eq!(parse("check"), Some(Command::Check));
        assert_eq!(parse("golden --check"), Some(Command::Golden { python: None, compare: true }));
        let python = Some(PathBuf::from("bin/python"));
        assert_eq!(parse("golden --python bin/python"), Some(Command::Golden { python, compare: false }));
        assert_eq!(parse("instructions"), Some(Command::Instructions { write: false }));
        assert_eq!(parse("instructions --write"), Some(Command::Instructions { write: true }));
        assert_eq!(parse("tidy --help"), Some(Command::Help));
        let options =
            onnx::Options { python: Some("p".into()), openvino: true, peers: true, models: Some("a,b".into()) };
        assert_eq!(parse("onnx --peers --models a,b --openvino --python p"), Some(Command::Onnx(options)));
        let options = peers::Options { quick: true, rounds: Some(3), ..peers::Options::default() };
        assert_eq!(parse("peers --quick --rounds 3"), Some(Command::Peers(options)));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "",
            "chek",
            "check --fast",
            "golden --python",
            "golden bin/python",
            "instructions --check",
            "onnx --models",
            "onnx mila-t",
            "peers --sizes",
            "scans --python",
            "tokens docs",
            "throughput --rounds",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

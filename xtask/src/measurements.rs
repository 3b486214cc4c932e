//! `cargo xtask tokens` and `cargo xtask throughput`: measurements that are examples of the crate `mila`, which say what they do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::programs::{example, target};
use crate::python::run;

/// Training takes minutes to build, and nothing here needs it.
const BUILD: &[&str] = &["--no-default-features"];

/// The cost of one layer by its tokens.
pub(crate) fn tokens(root: &Path, options: Tokens) -> Result<()> {
    let program = example(root, "mila", "tokens", BUILD)?;
    let out = options.out.unwrap_or_else(|| target(root).join("tokens"));
    run(Command::new(program).arg(out).arg(options.rounds.to_string()))
}

/// How `cargo xtask tokens` measures.
#[derive(Debug, PartialEq)]
pub(crate) struct Tokens {
    /// Where the picture goes; none for a place below the target folder.
    out: Option<PathBuf>,
    rounds: usize,
}

impl Tokens {
    /// `None` for an option that does not exist, or lacks its value.
    pub(crate) fn parse(options: &[String]) -> Option<Self> {
        let mut parsed = Self { out: None, rounds: 3 };
        for pair in options.chunks(2) {
            let [option, value] = pair else { return None };
            match option.as_str() {
                "--out" => parsed.out = Some(value.into()),
                "--rounds" => parsed.rounds = value.parse().ok().filter(|&rounds| rounds > 0)?,
                _ => return None,
            }
        }
        Some(parsed)
    }
}

/// Images a second of the paper's ablation.
pub(crate) fn throughput(root: &Path, options: Throughput) -> Result<()> {
    let program = example(root, "mila", "throughput", BUILD)?;
    run(Command::new(program).args([options.batch, options.rounds].map(|n| n.to_string())))
}

/// How `cargo xtask throughput` measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throughput {
    /// Images of a pass.
    batch: usize,
    rounds: usize,
}

impl Throughput {
    /// `None` for an option that does not exist, or lacks its number.
    pub(crate) fn parse(options: &[String]) -> Option<Self> {
        let mut parsed = Self { batch: 8, rounds: 7 };
        for pair in options.chunks(2) {
            let [option, number] = pair else { return None };
            let number = number.parse().ok().filter(|&number| number > 0)?;
            match option.as_str() {
                "--batch" => parsed.batch = number,
                "--rounds" => parsed.rounds = number,
                _ => return None,
            }
        }
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_tokens() {
        let parse = |line: &str| Tokens::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Tokens { out: None, rounds: 3 }));
        assert_eq!(parse("--rounds 2 --out docs"), Some(Tokens { out: Some("docs".into()), rounds: 2 }));
        for line in ["--out", "--rounds 0", "docs"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn options_of_throughput() {
        let parse = |line: &str| Throughput::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Throughput { batch: 8, rounds: 7 }));
        assert_eq!(parse("--rounds 3 --batch 16"), Some(Throughput { batch: 16, rounds: 3 }));
        for line in ["--batch", "--batch 0", "--batch x", "--size 5", "8"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

//! `cargo xtask tidy`: the rules of the source tree that no other tool knows.

mod edges;
mod purity;
mod source;
mod text;
mod unsafety;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use source::Source;

/// Every place that breaks a rule, by path and line.
pub(crate) fn tidy(root: &Path) -> Result<Vec<Finding>> {
    let files = files(root)?;
    let mut findings = text::text(&files);
    findings.extend(unsafety::unsafety(&files));
    findings.extend(purity::purity(&files));
    findings.extend(edges::edges(root)?);
    findings.sort();
    Ok(findings)
}

/// One place that breaks one rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, what: &str) -> Self {
        Self { path: path.into(), line, rule, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

/// A file that is in git, or would be after `git add`.
struct File {
    /// From the root, with `/`.
    path: String,
    bytes: u64,
    /// `None` for what is not UTF-8.
    text: Option<String>,
    /// Of Rust files.
    source: Option<Source>,
}

impl File {
    fn new(path: String, content: Vec<u8>) -> Self {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).ok();
        let source = text.as_ref().filter(|_| path.ends_with(".rs")).map(|text| Source::new(text));
        Self { path, bytes, text, source }
    }

    fn lines(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.lines().count())
    }

    #[cfg(test)]
    fn of(path: &str, text: &str) -> Self {
        Self::new(path.into(), text.into())
    }
}

fn files(root: &Path) -> Result<Vec<File>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").current_dir(root).args(arguments).output().context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files = Vec::new();
    for name in names.split_terminator('\0') {
        let path = root.join(name);
        // A file that was deleted, but is in the index; and links, whose content is elsewhere.
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let content = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        files.push(File::new(name.into(), content));
    }
    Ok(files)
}

//! `cargo xtask golden`: runs `tools/golden/make.py`, the only step of the project that needs Python.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::python::{Environment, run};

const TOOLS: &str = "tools/golden";
/// Where `make.py` writes, below the folder that holds its `tools/golden`.
const WRITTEN: [&str; 2] = ["crates/mila-models/tests/golden", "crates/mila-weights/tests/pth"];

/// Writes the goldens, or with `compare` writes them into the target folder and compares.
pub(crate) fn golden(root: &Path, python: Option<PathBuf>, compare: bool) -> Result<()> {
    let python = match python {
        Some(python) => std::path::absolute(python)?,
        None => Environment {
            folder: ".venv",
            requirements: &["tools/golden/requirements.txt"],
            warning: "this downloads several GB of PyTorch",
        }
        .interpreter(root)?,
    };
    if !compare {
        return run(Command::new(python).arg(root.join(TOOLS).join("make.py")));
    }
    // The script finds the crates from its own place, so a copy of it writes beside the copy.
    let scratch = root.join("target/golden");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot empty {}", scratch.display()))?;
    }
    fs::create_dir_all(scratch.join(TOOLS))?;
    for (name, bytes) in files(&root.join(TOOLS))? {
        fs::write(scratch.join(TOOLS).join(name), bytes)?;
    }
    run(Command::new(&python).arg(scratch.join(TOOLS).join("check.py")))?;
    run(Command::new(&python).arg(scratch.join(TOOLS).join("make.py")))?;
    let mut differences = Vec::new();
    for folder in WRITTEN {
        let found = compare_files(&files(&root.join(folder))?, &files(&scratch.join(folder))?);
        differences.extend(found.into_iter().map(|line| format!("{folder}/{line}")));
    }
    for line in &differences {
        println!("{line}");
    }
    ensure!(differences.is_empty(), "{} files differ; the new ones are in {}", differences.len(), scratch.display());
    println!("the committed goldens are what {TOOLS} writes");
    Ok(())
}

/// The files directly in a folder.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(OsStr::to_str)) {
            files.insert(name.to_string(), fs::read(&path)?);
        }
    }
    Ok(files)
}

/// One line for each file that is not the same in both.
fn compare_files(committed: &BTreeMap<String, Vec<u8>>, written: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, bytes) in committed {
        match written.get(name) {
            None => lines.push(format!("{name}: committed, but not written any more")),
            Some(new) if new != bytes => {
                let first = new.iter().zip(bytes).take_while(|(a, b)| a == b).count();
                lines.push(format!(
                    "{name}: {} bytes committed, {} written, first difference at {first}",
                    bytes.len(),
                    new.len()
                ));
            }
            Some(_) => {}
        }
    }
    let added = written.keys().filter(|name| !committed.contains_key(*name));
    lines.extend(added.map(|name| format!("{name}: written, but not committed")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_file_and_the_place() {
        let folder = |files: &[(&str, &str)]| files.iter().map(|&(name, text)| (name.into(), text.into())).collect();
        let committed = folder(&[("same", "a"), ("gone", "b"), ("changed", "abc")]);
        let written = folder(&[("same", "a"), ("changed", "abd"), ("new", "c")]);
        let lines = compare_files(&committed, &written);
        assert_eq!(
            lines,
            [
                "changed: 3 bytes committed, 3 written, first difference at 2",
                "gone: committed, but not written any more",
                "new: written, but not committed",
            ]
        );
    }
}

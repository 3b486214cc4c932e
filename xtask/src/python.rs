//! Environments of Python for the checks that need it, and programs that are run by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// An environment below the root.
pub(crate) struct Environment<'a> {
    /// Its folder.
    pub(crate) folder: &'a str,
    /// Files of requirements that are installed.
    pub(crate) requirements: &'a [&'a str],
    /// What making it costs.
    pub(crate) warning: &'a str,
}

impl Environment<'_> {
    /// Its interpreter; it is made and filled if it is not there.
    pub(crate) fn interpreter(&self, root: &Path) -> Result<PathBuf> {
        let folder = root.join(self.folder);
        let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        // Written last, so that an environment whose installation was interrupted is completed.
        let complete = folder.join("installed-requirements.txt");
        let mut wanted = Vec::new();
        for file in self.requirements {
            let path = root.join(file);
            wanted.extend(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        if fs::read(&complete).is_ok_and(|installed| installed == wanted) {
            return Ok(python);
        }
        eprintln!("making {}: {} (stop with Ctrl-C, or give --python)", folder.display(), self.warning);
        if !python.exists() {
            let maker = ["python3.11", "python3"].into_iter().find(|name| starts(name));
            let maker = maker.context("no python3.11 and no python3 in PATH")?;
            run(Command::new(maker).args(["-m", "venv"]).arg(&folder))?;
        }
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install"]);
        self.requirements.iter().for_each(|file| {
            install.arg("--requirement").arg(root.join(file));
        });
        run(&mut install)?;
        fs::write(&complete, wanted).with_context(|| format!("cannot write {}", complete.display()))?;
        Ok(python)
    }
}

fn starts(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Shows a command, runs it, and fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {command:?}");
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}

//! The project's own programs that the checks run.

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::python::run;

/// Built in the release profile.
pub(crate) struct Programs {
    /// The binary, without training.
    pub(crate) mila: PathBuf,
    /// Writes weights that hide nothing: the example `formula_weights` of mila-graph.
    pub(crate) weights: PathBuf,
    /// Writes recurrences of every kind as ONNX: the example `recurrence_cases` of mila-graph.
    pub(crate) recurrences: PathBuf,
    /// rten and tract, if they were asked for.
    pub(crate) peers: Option<PathBuf>,
}

impl Programs {
    /// Builds them; `with_peers` takes minutes the first time.
    pub(crate) fn build(root: &Path, with_peers: bool) -> Result<Self> {
        let binary = ["build", "--release", "--package", "mila", "--no-default-features"];
        let examples = ["build", "--release", "--package", "mila-graph", "--examples"];
        run(cargo(&binary).current_dir(root))?;
        run(cargo(&examples).current_dir(root))?;
        let built = target(root).join("release");
        let program = |folder: &Path, name: &str| folder.join(format!("{name}{EXE_SUFFIX}"));
        let peers = if with_peers {
            // Two workspaces in one target folder would rebuild what they share in turns.
            let folder = target(root).join("peers");
            let mut build = cargo(&["build", "--release", "--locked", "--manifest-path", "peers/Cargo.toml"]);
            run(build.current_dir(root).arg("--target-dir").arg(&folder))?;
            Some(program(&folder.join("release"), "mila-peers"))
        } else {
            None
        };
        let example = |name| program(&built.join("examples"), name);
        let [weights, recurrences] = ["formula_weights", "recurrence_cases"].map(example);
        Ok(Self { mila: program(&built, "mila"), weights, recurrences, peers })
    }
}

/// An example of a package, built in the release profile, with these options of the build.
pub(crate) fn example(root: &Path, package: &str, name: &str, options: &[&str]) -> Result<PathBuf> {
    let build = ["build", "--release", "--package", package, "--example", name];
    run(cargo(&build).current_dir(root).args(options))?;
    Ok(target(root).join("release/examples").join(format!("{name}{EXE_SUFFIX}")))
}

/// The workspace's target folder.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

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
    /// rten and tract, if they were asked for.
    pub(crate) peers: Option<PathBuf>,
}

impl Programs {
    /// Builds them; `with_peers` takes minutes the first time.
    pub(crate) fn build(root: &Path, with_peers: bool) -> Result<Self> {
        cargo(root, &["build", "--release", "--package", "mila", "--no-default-features"])?;
        cargo(root, &["build", "--release", "--package", "mila-graph", "--example", "formula_weights"])?;
        if with_peers {
            cargo(root, &["build", "--release", "--locked", "--manifest-path", "peers/Cargo.toml"])?;
        }
        let program =
            |folder: &str, name: &str| target(&root.join(folder)).join("release").join(format!("{name}{EXE_SUFFIX}"));
        Ok(Self {
            mila: program("", "mila"),
            weights: program("", "examples/formula_weights"),
            peers: with_peers.then(|| program("peers", "mila-peers")),
        })
    }
}

/// The target folder of a workspace.
pub(crate) fn target(workspace: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).current_dir(root).args(arguments))
}

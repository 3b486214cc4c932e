//! `cargo xtask onnx`: exports every model and compares what other runtimes make of it (`tools/onnx_check.py`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::programs::Programs;
use crate::python::{Environment, run};

/// Where exports are run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// An interpreter that has the requirements.
    pub(crate) python: Option<PathBuf>,
    /// OpenVINO beside ONNX Runtime.
    pub(crate) openvino: bool,
    /// rten and tract beside ONNX Runtime, from `peers/`.
    pub(crate) peers: bool,
    /// These models only, with commas between.
    pub(crate) models: Option<String>,
}

impl Options {
    /// `None` for an option that does not exist or lacks its value.
    pub(crate) fn parse(options: &[String]) -> Option<Self> {
        let mut parsed = Self::default();
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.as_str() {
                "--openvino" => parsed.openvino = true,
                "--peers" => parsed.peers = true,
                "--python" => parsed.python = Some(options.next()?.into()),
                "--models" => parsed.models = Some(options.next()?.clone()),
                _ => return None,
            }
        }
        Some(parsed)
    }
}

/// Builds the programs, finds an interpreter and runs the check.
pub(crate) fn onnx(root: &Path, options: &Options) -> Result<()> {
    let requirements: &[&str] = match options.openvino {
        true => &["tools/onnx_requirements.txt", "tools/onnx_openvino_requirements.txt"],
        false => &["tools/onnx_requirements.txt"],
    };
    let python = match &options.python {
        Some(python) => std::path::absolute(python)?,
        None => {
            let warning = "this downloads some 100 MB of ONNX runtimes";
            Environment { folder: ".venv-onnx", requirements, warning }.interpreter(root)?
        }
    };
    let programs = Programs::build(root, options.peers)?;
    let mut check = Command::new(python);
    check.arg(root.join("tools/onnx_check.py"));
    check.arg("--mila").arg(programs.mila);
    check.arg("--weights").arg(programs.weights);
    check.arg("--recurrences").arg(programs.recurrences);
    if options.openvino {
        check.arg("--openvino");
    }
    if let Some(peers) = programs.peers {
        check.arg("--peers").arg(peers);
    }
    if let Some(models) = &options.models {
        check.arg("--models").arg(models);
    }
    run(&mut check)
}

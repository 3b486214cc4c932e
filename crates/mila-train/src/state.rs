//! What a run needs to go on as if it had never stopped.

use std::collections::HashMap;
use std::path::Path;

use mila_burn::TrainerState;
use mila_ops::{Values, Wanted};
use mila_weights::{Checkpoint, Which, write_tensors};
use serde::{Deserialize, Serialize};

use crate::records::Running;
use crate::run_directory::write_whole;
use crate::{EpochRecord, Error, Result};

/// The part of a state that is not tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// The epoch that was running.
    pub(crate) running: Running,
    /// Finished epochs.
    pub(crate) history: Vec<EpochRecord>,
    /// Images of the training set, to notice that it changed.
    pub(crate) images: usize,
}

impl Position {
    /// Best validation top-1 so far.
    pub(crate) fn best(&self) -> Option<f64> {
        self.history.iter().map(|record| record.val_top1).reduce(f64::max)
    }
}

/// Writes the state into `folder` as a whole: a new folder takes the place of the old one, and whatever moment the
/// program is stopped at, either the old or the new one can be read.
pub(crate) fn save(
    folder: &Path,
    position: &Position,
    tensors: &[(Wanted, Vec<f32>)],
    trainer: &TrainerState,
) -> Result<()> {
    let (fresh, old) = (folder.with_extension("new"), folder.with_extension("old"));
    remove(&fresh)?;
    std::fs::create_dir_all(&fresh).map_err(Error::io(&fresh))?;
    let model = tensors.iter().map(|(w, v)| (w.name.clone(), w.shape.clone(), Values::F32(v.into())));
    write_tensors(&fresh.join("model.safetensors"), model)?;
    let moments = trainer.tensors.iter().map(|(name, v)| (name.clone(), vec![v.len()], Values::F32(v.into())));
    write_tensors(&fresh.join("moments.safetensors"), moments)?;
    let json = serde_json::to_vec_pretty(position).map_err(|e| Error::Config(e.to_string()))?;
    write_whole(&fresh.join("state.json"), &json)?;
    remove(&old)?;
    if folder.exists() {
        std::fs::rename(folder, &old).map_err(Error::io(folder))?;
    }
    std::fs::rename(&fresh, folder).map_err(Error::io(folder))?;
    remove(&old)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Reads a state: position, parameters with running statistics, moments.
pub(crate) fn load(folder: &Path) -> Result<(Position, Checkpoint, TrainerState)> {
    let old = folder.with_extension("old");
    // The program was stopped between the two renames.
    let folder = if !folder.exists() && old.exists() { old.as_path() } else { folder };
    let path = folder.join("state.json");
    let json = std::fs::read(&path).map_err(Error::io(&path))?;
    let position: Position =
        serde_json::from_slice(&json).map_err(|e| Error::State { path, problem: e.to_string() })?;
    let model = Checkpoint::open(&folder.join("model.safetensors"), Which::Raw)?;
    let moments = Checkpoint::open(&folder.join("moments.safetensors"), Which::Raw)?;
    let values = |(name, view): (&str, mila_weights::TensorView)| {
        let values = view.values().map(|values| values.into_f32().into_owned());
        values.map(|values| (name.to_owned(), values))
    };
    let tensors: Option<HashMap<String, Vec<f32>>> = moments.iter().map(values).collect();
    let tensors = tensors.ok_or_else(|| Error::State {
        path: folder.join("moments.safetensors"),
        problem: "expected floating-point tensors".into(),
    })?;
    let state = TrainerState { step: position.step, tensors: tensors.into_iter().collect() };
    Ok((position, model, state))
}

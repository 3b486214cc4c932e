//! What a run needs to go on as if it had never stopped.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use mila_burn::TrainerState;
use mila_ops::{Values, Wanted};
use mila_weights::{Checkpoint, Which, write_tensors, write_whole};
use serde::{Deserialize, Serialize};

use crate::records::Running;
use crate::{EpochRecord, Error, Result};

/// The part of a state that is not tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// The epoch that was running.
    pub(crate) running: Running,
    /// Finished epochs.
    pub(crate) history: Vec<EpochRecord>,
    /// What the numbers above count.
    pub(crate) order: Order,
}

/// What decides which pictures a step sees: a position means nothing under another order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) seed: u64,
    pub(crate) batch: usize,
    /// Of an epoch, where these are not all.
    #[serde(default)]
    pub(crate) epoch_images: Option<usize>,
    pub(crate) classes: Vec<String>,
    /// Images of the training set.
    pub(crate) images: usize,
    /// Their names and classes, hashed in their order.
    pub(crate) fingerprint: u64,
}

impl Order {
    /// What a state made under `self` cannot go on with under `other`; none if it can.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self.seed != other.seed {
            return Some(format!("made with seed {}, found {}", self.seed, other.seed));
        }
        if self.batch != other.batch {
            return Some(format!("made with batch {}, found {}", self.batch, other.batch));
        }
        if self.epoch_images != other.epoch_images {
            let images = |of: Option<usize>| of.map_or("all".to_owned(), |n| n.to_string());
            let (made, found) = (images(self.epoch_images), images(other.epoch_images));
            return Some(format!("made with {made} images an epoch, found {found}"));
        }
        if self.classes != other.classes {
            return Some(format!("made with the classes {:?}, found {:?}", self.classes, other.classes));
        }
        if self.images != other.images {
            return Some(format!("made with {} training images, found {}", self.images, other.images));
        }
        let same = self.fingerprint == other.fingerprint;
        (!same).then(|| format!("made with other files among the {} training images", self.images))
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
    if let Err(error) = write(&fresh, position, tensors, trainer) {
        // A part of a state is of no use; what made it fail is what to tell.
        let _ = remove(&fresh);
        return Err(error);
    }
    if folder.exists() {
        remove(&old)?;
        std::fs::rename(folder, &old).map_err(Error::io(folder))?;
    }
    std::fs::rename(&fresh, folder).map_err(Error::io(folder))?;
    remove(&old)
}

fn write(folder: &Path, position: &Position, tensors: &[(Wanted, Vec<f32>)], trainer: &TrainerState) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let model = tensors.iter().map(|(w, v)| (w.name.clone(), w.shape.clone(), Values::F32(v.into())));
    write_tensors(&folder.join("model.safetensors"), model)?;
    let moments = trainer.tensors.iter().map(|(name, v)| (name.clone(), vec![v.len()], Values::F32(v.into())));
    write_tensors(&folder.join("moments.safetensors"), moments)?;
    let json = serde_json::to_vec_pretty(position).map_err(|e| Error::Config(e.to_string()))?;
    Ok(write_whole(&folder.join("state.json"), |file| file.write_all(&json))?)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Where the last saved state is: in `folder`, or beside it if the program was stopped between the renames of [`save`].
pub(crate) fn find(folder: &Path) -> Option<PathBuf> {
    [folder.to_owned(), folder.with_extension("old")].into_iter().find(|folder| folder.exists())
}

/// Reads a state from where [`find`] found it: position, parameters with running statistics, moments.
pub(crate) fn load(folder: &Path) -> Result<(Position, Checkpoint, TrainerState)> {
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

#[cfg(test)]
mod tests {
    use mila_ops::Init;

    use super::*;

    fn position(step: u64) -> Position {
        let order = Order {
            seed: u64::MAX,
            batch: 4,
            epoch_images: None,
            classes: vec!["a".into()],
            images: 9,
            fingerprint: u64::MAX - 1,
        };
        // Sums with all their digits: what is read back is equal to the bit.
        let running = Running { steps: 1, images: 4, correct: 2, loss: 0.1 + 0.2, seconds: 1.0 / 3.0 };
        let record = EpochRecord {
            epoch: 1,
            step,
            lr: 2e-3 / 7.0,
            train_loss: 2.302_585_092_994_045_6,
            train_top1: 1.0 / 9.0,
            val_loss: 5e-324,
            val_top1: 0.7,
            val_top5: 1.0,
            images_per_s: 1e21 / 3.0,
            seconds: 0.1,
        };
        Position { step, epoch: 1, running, history: vec![record], order }
    }

    fn store(folder: &Path, step: u64) -> TrainerState {
        let values = vec![step as f32, -0.0, 1e-40];
        let tensors = [(Wanted::parameter("w".into(), &[3], Init::Zeros), values.clone())];
        let trainer = TrainerState { step, tensors: vec![("w.first".into(), values)] };
        save(folder, &position(step), &tensors, &trainer).unwrap();
        trainer
    }

    fn found(folder: &Path) -> (Position, Vec<f32>, TrainerState) {
        let (position, model, trainer) = load(&find(folder).unwrap()).unwrap();
        (position, model.get("w").unwrap().values().unwrap().into_f32().into_owned(), trainer)
    }

    #[test]
    fn a_state_is_read_back_to_the_bit() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("state");
        assert_eq!(find(&folder), None);
        store(&folder, 3);
        let trainer = store(&folder, 5);
        let (read, values, state) = found(&folder);
        assert_eq!((read, &state), (position(5), &trainer));
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&trainer.tensors[0].1));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_stop_between_the_renames_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (folder, old) = (root.path().join("state"), root.path().join("state.old"));
        store(&folder, 3);
        std::fs::rename(&folder, &old).unwrap();
        assert_eq!(found(&folder).0.step, 3);
        // A save that fails from there on leaves it, too.
        let unwritable = [("w".to_owned(), vec![0.0]), ("w".to_owned(), vec![0.0])];
        let trainer = TrainerState { step: 4, tensors: unwritable.into() };
        assert!(save(&folder, &position(4), &[], &trainer).is_err());
        assert_eq!(found(&folder).0.step, 3);
        assert!(!root.path().join("state.new").exists());
        store(&folder, 5);
        assert_eq!(found(&folder).0.step, 5);
        assert!(!old.exists());
    }

    #[test]
    fn a_stop_before_the_old_state_is_removed_takes_the_new_one() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("state");
        store(&folder, 3);
        std::fs::rename(&folder, root.path().join("kept")).unwrap();
        store(&folder, 5);
        std::fs::rename(root.path().join("kept"), folder.with_extension("old")).unwrap();
        assert_eq!(found(&folder).0.step, 5);
        store(&folder, 7);
        assert_eq!(found(&folder).0.step, 7);
        assert!(!folder.with_extension("old").exists());
    }

    #[test]
    fn what_changes_the_meaning_of_a_position_is_named() {
        let made = position(1).order;
        assert_eq!(made.difference(&made.clone()), None);
        for (other, named) in [
            (Order { seed: 1, ..made.clone() }, "seed"),
            (Order { batch: 5, ..made.clone() }, "batch 4, found 5"),
            (Order { epoch_images: Some(8), ..made.clone() }, "all images an epoch, found 8"),
            (Order { classes: vec!["b".into()], ..made.clone() }, "classes"),
            (Order { images: 8, ..made.clone() }, "9 training images, found 8"),
            (Order { fingerprint: 1, ..made.clone() }, "other files"),
        ] {
            let difference = made.difference(&other).unwrap();
            assert!(difference.contains(named), "{difference}");
        }
    }
}

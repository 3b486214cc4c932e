//! What a run tells while it goes on, and what it leaves to say.

use std::path::PathBuf;

use crate::EpochRecord;

/// One optimiser step, as told to an [`Observer`].
#[derive(Clone, Copy, Debug)]
pub struct StepRecord {
    /// Epoch, from one.
    pub epoch: u64,
    /// Optimiser steps so far.
    pub step: u64,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Images of this step.
    pub images: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Mean loss of this step's images.
    pub step_loss: f64,
}

/// Watches a run and may end it.
pub trait Observer {
    /// After every optimiser step.
    fn step(&mut self, record: &StepRecord);
    /// After every epoch and its validation.
    fn epoch(&mut self, record: &EpochRecord);
    /// Asked after every step and every batch of a validation: whether to save and stop.
    fn stop(&mut self) -> bool;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After its last epoch.
    Finished,
    /// Because the observer asked for it; the state is saved.
    Stopped,
}

/// What a run leaves to say.
#[derive(Debug)]
pub struct Outcome {
    /// Why it is over.
    pub ended: Ended,
    /// Finished epochs, those before a resume included.
    pub history: Vec<EpochRecord>,
    /// The epoch whose model is in `best/`: the first with the largest validation top-1, or the last one where there is
    /// nothing to validate on.
    pub best: Option<EpochRecord>,
    /// Pictures that could not be read, each once, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

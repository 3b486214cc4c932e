//! What a run writes down of itself, epoch by epoch.

use serde::{Deserialize, Serialize};

/// One finished epoch: a row of `metrics.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from one.
    pub epoch: u64,
    /// Optimiser steps so far.
    pub step: u64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Mean training loss over the epoch's images.
    pub train_loss: f64,
    /// Share of training images that were right when they were trained on.
    pub train_top1: f64,
    /// Mean validation loss.
    pub val_loss: f64,
    /// Validation top-1, a fraction.
    pub val_top1: f64,
    /// Validation top-5, a fraction.
    pub val_top5: f64,
    /// Training images per second, loading included.
    pub images_per_s: f64,
    /// Seconds of training in this epoch.
    pub seconds: f64,
}

/// Rows of `metrics.csv`.
pub(crate) fn csv(records: &[EpochRecord]) -> String {
    let mut text =
        String::from("epoch,step,lr,train_loss,train_top1,val_loss,val_top1,val_top5,images_per_s,seconds\n");
    for r in records {
        text += &format!(
            "{},{},{:.6e},{:.6},{:.6},{:.6},{:.6},{:.6},{:.1},{:.3}\n",
            r.epoch,
            r.step,
            r.lr,
            r.train_loss,
            r.train_top1,
            r.val_loss,
            r.val_top1,
            r.val_top5,
            r.images_per_s,
            r.seconds
        );
    }
    text
}

/// The first epoch with the largest validation top-1.
pub(crate) fn best(history: &[EpochRecord]) -> Option<&EpochRecord> {
    history.iter().reduce(|best, record| if record.val_top1 > best.val_top1 { record } else { best })
}

/// Sums of an epoch that is still running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Steps of this epoch that are done.
    pub(crate) steps: u64,
    /// Images that they saw.
    pub(crate) images: usize,
    /// Those that were right.
    pub(crate) correct: usize,
    /// Sum of the losses, each times its images.
    pub(crate) loss: f64,
    /// Seconds so far.
    pub(crate) seconds: f64,
}

//! What every model is to those who run it.

use mila_ops::{Executor, Result, Tap};

/// What a model is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Scores of `classes` classes.
    Classify {
        /// How many.
        classes: usize,
    },
    /// The maps of all stages, for dense prediction.
    Pyramid,
}

/// What a model returns.
#[derive(Clone, Debug)]
pub enum Output<M> {
    /// `[batch, 1, 1, classes]`, before the softmax.
    Logits(M),
    /// One normed map per stage, finest first: `[batch, height / stride, width / stride, channels]`.
    Pyramid(Vec<M>),
}

impl<M> Output<M> {
    /// The logits of a classifier.
    pub fn logits(self) -> Option<M> {
        match self {
            Self::Logits(map) => Some(map),
            Self::Pyramid(_) => None,
        }
    }

    /// The maps of a pyramid.
    pub fn pyramid(self) -> Option<Vec<M>> {
        match self {
            Self::Logits(_) => None,
            Self::Pyramid(maps) => Some(maps),
        }
    }
}

/// A model prepared for the executor `E`.
pub trait Model<E: Executor>: Send + Sync {
    /// Runs the model on `image`, `[batch, height, width, 3]`, normalised as its preset says.
    ///
    /// # Errors
    /// Those of the operators and of the tap.
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>>;
}

/// Stages that a pyramid may have: each doubles the channels.
pub(crate) const MOST_STAGES: usize = 16;

/// Drop-path rate of every block: from zero to `last` in equal steps, in block order.
pub(crate) fn drop_path_rates(last: f32, blocks: usize) -> impl Iterator<Item = f32> {
    let steps = blocks.saturating_sub(1).max(1) as f32;
    (0..blocks).map(move |block| last * block as f32 / steps)
}

//! The dense head: a layer norm on each stage's output, taken before its merging.

use mila_ops::{Builder, Executor, Result};

/// `norm0`, `norm1`, ..., or what a family calls them; the maps of all stages for detection and segmentation.
pub(crate) struct Pyramid<E: Executor> {
    norms: Vec<E::Norm>,
}

impl<E: Executor> Pyramid<E> {
    /// Asks for `norm{i}.weight` and `norm{i}.bias` of each stage's channels.
    pub(crate) fn build(b: &mut Builder<E>, channels: &[usize], eps: f64) -> Result<Self> {
        Self::named(b, "norm", channels, eps)
    }

    /// Asks for `{name}{i}.weight` and `{name}{i}.bias` of each stage's channels.
    pub(crate) fn named(b: &mut Builder<E>, name: &str, channels: &[usize], eps: f64) -> Result<Self> {
        let norm = |(i, &c): (usize, &usize)| b.layer_norm(&format!("{name}{i}"), c, eps);
        Ok(Self { norms: channels.iter().enumerate().map(norm).collect::<Result<_>>()? })
    }

    /// The normed output of stage `stage`.
    pub(crate) fn level(&self, e: &E, stage: usize, map: &E::Map) -> Result<E::Map> {
        e.layer_norm(map, &self.norms[stage])
    }
}

//! Looking at, and replacing, named intermediate maps.

use crate::{Executor, Mechanism, Result};

/// Sees the named maps that it wants, and may return others in their place: an occluded one, one that keeps a gradient.
///
/// A name is a parameter path of the released checkpoints without the parameter: `layers.2` (a stage before its
/// merging), `layers.2.blocks.4`, `layers.2.blocks.4.attn`. Wanting a map that a fused operator would never write makes
/// the executor take the composed operator for that call.
pub trait Tap<E: Executor> {
    /// Whether [`see`](Self::see) is to be called for `name`.
    fn wants(&self, name: &str) -> bool;

    /// Looks at the map of `name`; what it returns goes on through the model.
    ///
    /// # Errors
    /// Any error ends the forward pass.
    fn see(&mut self, name: &str, map: E::Map) -> Result<E::Map>;

    /// Hears what the layer whose tokens come out as the map `name` is about to do to them. A layer may have several things to
    /// tell; all of them come before its map.
    ///
    /// # Errors
    /// Any error ends the forward pass.
    fn mechanism(&mut self, name: &str, what: Mechanism<'_, E>) -> Result<()> {
        let _ = (name, what);
        Ok(())
    }

    /// Gives `map` to [`see`](Self::see) if it is wanted.
    ///
    /// # Errors
    /// Those of [`see`](Self::see).
    fn pass(&mut self, name: &str, map: E::Map) -> Result<E::Map> {
        if self.wants(name) { self.see(name, map) } else { Ok(map) }
    }
}

/// Wants nothing.
pub struct NoTap;

impl<E: Executor> Tap<E> for NoTap {
    fn wants(&self, _: &str) -> bool {
        false
    }
    fn see(&mut self, _: &str, map: E::Map) -> Result<E::Map> {
        Ok(map)
    }
}

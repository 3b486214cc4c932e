//! Feature maps and the pool that their memory comes from.

use std::sync::{Arc, Mutex, PoisonError};

use mila_ops::Dims;

/// Free pieces that a pool keeps. A pass has fewer maps alive at once; pieces that a smaller size left behind go first.
const PIECES: usize = 24;

/// What a pool does with memory that is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recycling {
    /// Hands it out as it is: every operator writes all of its output.
    #[default]
    AsIs,
    /// Fills it with NaN first, so that a test sees an output that was not written.
    Poisoned,
}

/// Memory of maps that are gone, for those to come.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
    recycling: Recycling,
}

impl Pool {
    pub(crate) fn new(recycling: Recycling) -> Self {
        Self { free: Mutex::default(), recycling }
    }

    /// A map whose values are arbitrary: the smallest free piece that is large enough, else a new one.
    pub(crate) fn map(self: &Arc<Self>, dims: Dims) -> Map {
        let volume = dims.volume();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, piece)| piece.len() >= volume);
        let found = fitting.min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
        let mut values = found.map_or_else(Vec::new, |index| free.swap_remove(index));
        drop(free);
        if values.len() < volume {
            values = vec![0.0; volume];
        }
        if self.recycling == Recycling::Poisoned {
            values.fill(f32::NAN);
        }
        Map { dims, buffer: Arc::new(Buffer { values, pool: Arc::clone(self) }) }
    }
}

/// A piece of memory that goes back to its pool.
#[derive(Debug)]
struct Buffer {
    values: Vec<f32>,
    pool: Arc<Pool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(values);
        if free.len() > PIECES {
            let smallest = free.iter().enumerate().min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
            smallest.map(|index| free.swap_remove(index));
        }
    }
}

/// A feature map, row-major `[batch, height, width, channels]`. Clones share its memory.
#[derive(Clone, Debug)]
pub struct Map {
    dims: Dims,
    buffer: Arc<Buffer>,
}

impl Map {
    /// Extent.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Values.
    pub fn values(&self) -> &[f32] {
        &self.buffer.values[..self.dims.volume()]
    }

    /// The values for writing, if nothing else shares them.
    pub(crate) fn unique(&mut self) -> Option<&mut [f32]> {
        let volume = self.dims.volume();
        Arc::get_mut(&mut self.buffer).map(|buffer| &mut buffer.values[..volume])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_the_smallest_fitting_piece_first() {
        let pool = Arc::new(Pool::default());
        let [large, small] = [64, 16].map(|n| pool.map(Dims::new(1, 1, 1, n)));
        let addresses = [&large, &small].map(|map| map.values().as_ptr());
        drop((large, small));
        let again = pool.map(Dims::new(1, 1, 1, 8));
        assert_eq!(again.values().as_ptr(), addresses[1]);
        assert_eq!(pool.map(Dims::new(1, 1, 1, 20)).values().as_ptr(), addresses[0]);
        assert_eq!(again.values().len(), 8);
    }

    #[test]
    fn shared_memory_is_not_written() {
        let pool = Arc::new(Pool::new(Recycling::Poisoned));
        let mut map = pool.map(Dims::new(1, 1, 1, 4));
        assert!(map.unique().is_some_and(|values| values.iter().all(|v| v.is_nan())));
        let clone = map.clone();
        assert!(map.unique().is_none());
        drop(clone);
        assert!(map.unique().is_some());
    }
}

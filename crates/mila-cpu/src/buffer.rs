//! Feature maps and the pool that their memory comes from.

use std::sync::{Arc, Mutex, PoisonError};

use mila_kernels::arena::{Arena, Block};
use mila_ops::Dims;

/// Free pieces that a pool keeps. A pass has fewer maps alive at once; pieces that a smaller size left behind go first.
const PIECES: usize = 24;

/// Floats from which on a map is a block of the arena: 4 MiB.
const LARGE: usize = 1 << 20;

/// What a pool does with memory that is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recycling {
    /// Hands it out as it is: every operator writes all of its output.
    #[default]
    AsIs,
    /// Fills it with NaN first, so that a test sees an output that was not written.
    Poisoned,
}

/// Memory that maps share. Small pieces go back to the pool with their counter, so that neither is allocated again.
#[derive(Clone, Debug)]
enum Piece {
    Small(Arc<Vec<f32>>),
    Large(Arc<Block>),
}

impl Piece {
    fn values(&self) -> &[f32] {
        match self {
            Piece::Small(values) => values,
            Piece::Large(values) => values,
        }
    }

    /// The values for writing, if nothing else shares them.
    fn unique(&mut self) -> Option<&mut [f32]> {
        match self {
            Piece::Small(values) => Arc::get_mut(values).map(|values| &mut values[..]),
            Piece::Large(values) => Arc::get_mut(values).map(|values| &mut values[..]),
        }
    }
}

/// Memory of maps that are gone, for those to come.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Arc<Vec<f32>>>>,
    arena: Arc<Arena>,
    recycling: Recycling,
}

impl Pool {
    pub(crate) fn new(recycling: Recycling) -> Self {
        Self { free: Mutex::new(Vec::with_capacity(PIECES + 1)), arena: Arc::default(), recycling }
    }

    /// A map whose values are arbitrary.
    pub(crate) fn map(self: &Arc<Self>, dims: Dims) -> Map {
        let volume = dims.volume();
        let large = if volume < LARGE { None } else { self.arena.block(volume) };
        let mut piece = match large {
            Some(block) => Piece::Large(Arc::new(block)),
            None => Piece::Small(self.taken(volume).unwrap_or_else(|| Arc::new(vec![0.0; volume]))),
        };
        if self.recycling == Recycling::Poisoned
            && let Some(values) = piece.unique()
        {
            values.fill(f32::NAN);
        }
        Map { dims, piece: Some(piece), pool: Arc::clone(self) }
    }

    /// The smallest free piece of at least `volume` floats.
    fn taken(&self, volume: usize) -> Option<Arc<Vec<f32>>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, piece)| piece.len() >= volume);
        let found = fitting.min_by_key(|(_, piece)| piece.len()).map(|(index, _)| index);
        found.map(|index| free.swap_remove(index))
    }

    fn give_back(&self, piece: Arc<Vec<f32>>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(piece);
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
    /// There until the map is dropped.
    piece: Option<Piece>,
    pool: Arc<Pool>,
}

impl Map {
    /// Extent.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Values.
    pub fn values(&self) -> &[f32] {
        self.piece.as_ref().map_or(&[], |piece| &piece.values()[..self.dims.volume()])
    }

    /// The values for writing, if nothing else shares them.
    pub(crate) fn unique(&mut self) -> Option<&mut [f32]> {
        let volume = self.dims.volume();
        self.piece.as_mut()?.unique().map(|values| &mut values[..volume])
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(Piece::Small(mut piece)) = self.piece.take()
            && Arc::get_mut(&mut piece).is_some()
        {
            self.pool.give_back(piece);
        }
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
    fn shared_memory_is_not_written_and_comes_back_with_the_last_map() {
        let pool = Arc::new(Pool::new(Recycling::Poisoned));
        let mut map = pool.map(Dims::new(1, 1, 1, 4));
        assert!(map.unique().is_some_and(|values| values.iter().all(|v| v.is_nan())));
        let clone = map.clone();
        assert!(map.unique().is_none());
        drop(clone);
        assert!(map.unique().is_some());
        assert_eq!(pool.free.lock().map(|free| free.len()).ok(), Some(0));
        drop(map);
        assert_eq!(pool.free.lock().map(|free| free.len()).ok(), Some(1));
    }

    #[test]
    fn large_maps_share_one_memory_in_turn() {
        let pool = Arc::new(Pool::new(Recycling::Poisoned));
        let large = pool.map(Dims::new(1, 1, 2, LARGE));
        let address = large.values().as_ptr();
        drop(large);
        let [mut a, b] = [LARGE, LARGE - 3].map(|n| pool.map(Dims::new(1, 1, 1, n)));
        assert_eq!(a.values().as_ptr(), address);
        assert!(a.unique().is_some_and(|values| values.iter().all(|v| v.is_nan())));
        assert_eq!((a.values().len(), b.values().len()), (LARGE, LARGE - 3));
        assert_eq!(pool.free.lock().map(|free| free.len()).ok(), Some(0));
    }
}

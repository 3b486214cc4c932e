//! Memory for large maps that is asked of the system once and then used again, in pieces of any size.
//!
//! The system clears memory when it is touched first, and for a map of hundreds of megabytes that takes longer than the operator
//! that writes it. An allocator gives such memory back with every map. Here a map is a block of a chunk: blocks of other sizes,
//! from the next stage of a model, are cut from the same chunks.

use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memmap2::MmapMut;

/// Floats that a block begins at a multiple of: a page of 4 KiB.
const UNIT: usize = 1024;

/// Chunks of memory that blocks are cut from; they go back to the system with the arena.
#[derive(Default)]
pub struct Arena {
    chunks: Mutex<Vec<Chunk>>,
}

/// Memory from the system.
struct Chunk {
    memory: Arc<Memory>,
    /// Ranges of floats that no block has, in their order, none beside another.
    free: Vec<Range<usize>>,
}

/// A mapping that only blocks look into.
struct Memory {
    base: *mut f32,
    /// What `base` points into, so that it lives as long.
    mapping: MmapMut,
}

// SAFETY: `base` is the beginning of `mapping`, which may go to another thread and be shared like any memory; what it points to is
// reached through blocks alone, each of which has a range of its own.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Floats of an arena, whose values are arbitrary at first. Dropped, they can be handed out again.
pub struct Block {
    range: Range<usize>,
    len: usize,
    memory: Arc<Memory>,
    arena: Arc<Arena>,
}

impl Arena {
    /// `len` floats: of the smallest free range that has them, else of a new chunk. Chunks without any block are given back to the
    /// system before there is a new one; `None` if the system has no memory.
    pub fn block(self: &Arc<Self>, len: usize) -> Option<Block> {
        // At least a unit: a range of nothing between two others would keep them apart.
        let size = len.max(1).checked_next_multiple_of(UNIT)?;
        let mut chunks = self.lock();
        if Chunk::fitting(&mut chunks, size).is_none() {
            chunks.retain(|chunk| !chunk.is_free());
            chunks.push(Chunk::of(Memory::map(size)?));
        }
        let (chunk, index) = Chunk::fitting(&mut chunks, size)?;
        let start = chunk.free[index].start;
        chunk.free[index].start += size;
        if chunk.free[index].is_empty() {
            chunk.free.remove(index);
        }
        Some(Block { range: start..start + size, len, memory: Arc::clone(&chunk.memory), arena: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chunk {
    /// A chunk that is all free.
    fn of(memory: Memory) -> Self {
        let whole = 0..memory.len();
        Self { memory: Arc::new(memory), free: Vec::from([whole]) }
    }

    fn is_free(&self) -> bool {
        self.free.first() == Some(&(0..self.memory.len()))
    }

    /// The smallest free range of at least `size` floats: its chunk, and which it is there.
    fn fitting(chunks: &mut [Chunk], size: usize) -> Option<(&mut Chunk, usize)> {
        let ranges = chunks.iter_mut().flat_map(|chunk| {
            let best =
                (0..chunk.free.len()).filter(|&i| chunk.free[i].len() >= size).min_by_key(|&i| chunk.free[i].len());
            best.map(|index| (chunk, index))
        });
        ranges.min_by_key(|(chunk, index)| chunk.free[*index].len())
    }

    /// Takes a range back, one with its neighbours.
    fn give_back(&mut self, range: Range<usize>) {
        let after = self.free.partition_point(|free| free.start < range.start);
        self.free.insert(after, range);
        if after + 1 < self.free.len() && self.free[after].end == self.free[after + 1].start {
            self.free[after].end = self.free.remove(after + 1).end;
        }
        if after > 0 && self.free[after - 1].end == self.free[after].start {
            self.free[after - 1].end = self.free.remove(after).end;
        }
    }
}

impl Memory {
    fn map(size: usize) -> Option<Memory> {
        let mut mapping = MmapMut::map_anon(size.checked_mul(size_of::<f32>())?.max(1)).ok()?;
        // Large pages are cleared faster. A system without them refuses, and its small ones serve as well.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise(memmap2::Advice::HugePage);
        Some(Memory { base: mapping.as_mut_ptr().cast(), mapping })
    }

    /// Floats.
    fn len(&self) -> usize {
        self.mapping.len() / size_of::<f32>()
    }
}

impl Deref for Block {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the range lies in the mapping, which `memory` keeps, at the alignment of a page; the mapping's bytes are always
        // initialised, by the system at first. No other block has the range while this one lives, so nothing writes to it while it
        // is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.base.add(self.range.start), self.len) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; and this block is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base.add(self.range.start), self.len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut chunks = self.arena.lock();
        if let Some(chunk) = chunks.iter_mut().find(|chunk| Arc::ptr_eq(&chunk.memory, &self.memory)) {
            chunk.give_back(self.range.clone());
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len).finish_non_exhaustive()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let floats = |chunk: &Chunk| (chunk.memory.len(), chunk.free.iter().map(Range::len).sum());
        let chunks: Vec<(usize, usize)> = self.lock().iter().map(floats).collect();
        f.debug_struct("Arena").field("floats_and_free_ones", &chunks).finish()
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges, one of them long")]
mod tests {
    use super::*;

    /// Floats and free ranges of every chunk.
    fn chunks(arena: &Arena) -> Vec<(usize, Vec<Range<usize>>)> {
        arena.lock().iter().map(|chunk| (chunk.memory.len(), chunk.free.clone())).collect()
    }

    #[test]
    fn blocks_of_other_sizes_come_from_the_same_chunk() {
        let arena = Arc::new(Arena::default());
        let large = arena.block(4 * UNIT).expect("memory");
        let address = large.as_ptr();
        drop(large);
        let [a, b] = [UNIT, 2 * UNIT - 7].map(|len| arena.block(len).expect("memory"));
        assert_eq!((a.as_ptr(), b.len()), (address, 2 * UNIT - 7));
        assert_eq!(chunks(&arena), [(4 * UNIT, vec![3 * UNIT..4 * UNIT])]);
        drop(a);
        assert_eq!(chunks(&arena), [(4 * UNIT, vec![0..UNIT, 3 * UNIT..4 * UNIT])]);
        drop(b);
        assert_eq!(chunks(&arena), [(4 * UNIT, vec![0..4 * UNIT])]);
    }

    #[test]
    fn a_chunk_without_blocks_goes_when_it_is_too_small() {
        let arena = Arc::new(Arena::default());
        let kept = arena.block(UNIT).expect("memory");
        drop(arena.block(2 * UNIT));
        assert_eq!(chunks(&arena).len(), 2);
        let large = arena.block(3 * UNIT).expect("memory");
        assert_eq!(chunks(&arena), [(UNIT, vec![]), (3 * UNIT, vec![])]);
        drop((kept, large));
        assert_eq!(chunks(&arena), [(UNIT, vec![0..UNIT]), (3 * UNIT, vec![0..3 * UNIT])]);
    }

    #[test]
    fn blocks_never_share_a_float_on_any_thread() {
        let arena = Arc::new(Arena::default());
        std::thread::scope(|scope| {
            for thread in 0..4_u16 {
                let arena = &arena;
                scope.spawn(move || {
                    let mut held: Vec<(f32, Block)> = Vec::new();
                    for step in 0..300_u16 {
                        let value = f32::from(thread * 300 + step);
                        let mut block = arena.block(1 + usize::from(step * 37 % 91) * 100).expect("memory");
                        block.fill(value);
                        held.push((value, block));
                        if held.len() > 5 {
                            let (value, block) = held.swap_remove(usize::from(step) % 5);
                            assert!(block.iter().all(|&x| x == value));
                        }
                    }
                });
            }
        });
        assert!(chunks(&arena).iter().all(|(len, free)| *free == [0..*len]));
    }

    #[test]
    fn no_floats_are_a_block_too_and_more_than_there_are_is_none() {
        let arena = Arc::new(Arena::default());
        let [none, other] = [0, UNIT].map(|len| arena.block(len).expect("memory"));
        assert!(none.is_empty());
        drop((none, other));
        assert!(chunks(&arena).iter().all(|(len, free)| *free == [0..*len]));
        assert!(arena.block(usize::MAX).is_none());
        assert!(arena.block(usize::MAX / 8).is_none());
    }
}

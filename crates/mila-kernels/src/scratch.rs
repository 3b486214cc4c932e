//! Memory that a kernel needs while it runs, kept by each thread for the next call.

use std::{cell::RefCell, thread::LocalKey};

use crate::lane::Lane;

/// Pieces that are not in use. A kernel that calls another holds one while the other takes the next.
type Free<T> = RefCell<Vec<Vec<T>>>;

thread_local! {
    static LANES: Free<Lane> = const { RefCell::new(Vec::new()) };
    static FLOATS: Free<f32> = const { RefCell::new(Vec::new()) };
}

/// Calls `body` with `len` lanes whose floats are arbitrary.
pub(crate) fn lanes<T>(len: usize, body: impl FnOnce(&mut [Lane]) -> T) -> T {
    with(&LANES, len, Lane::ZERO, body)
}

/// Calls `body` with `len` arbitrary floats.
pub(crate) fn floats<T>(len: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
    with(&FLOATS, len, 0.0, body)
}

fn with<E: Copy, T>(free: &'static LocalKey<Free<E>>, len: usize, fresh: E, body: impl FnOnce(&mut [E]) -> T) -> T {
    let mut piece = free.with_borrow_mut(Vec::pop).unwrap_or_default();
    if piece.len() < len {
        piece.resize(len, fresh);
    }
    let result = body(&mut piece[..len]);
    free.with_borrow_mut(|free| free.push(piece));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_and_never_shared() {
        let address = lanes(8, |outer| {
            outer.fill(Lane::ZERO);
            lanes(4, |inner| inner.fill(Lane([1.0; 16])));
            assert!(outer.iter().all(|lane| lane.0 == [0.0; 16]));
            outer.as_ptr()
        });
        assert!(lanes(4, |again| lanes(8, |second| again.as_ptr() == address || second.as_ptr() == address)));
    }
}

//! Work cut into pieces for rayon's current pool.
//!
//! Where a piece begins depends on the shape alone, never on the number of threads, and partial sums are added in the
//! order of the pieces. So a result has the same bits on one thread and on many. A pool of one thread, and work that
//! makes one piece, run on the caller's thread and never meet rayon.

use rayon::prelude::*;

/// Floats in a piece of a kernel that does a few operations per float: 64 KiB, a few microseconds of work.
pub(crate) const PIECE: usize = 1 << 14;

/// Rows of `row` floats that make up about [`PIECE`] floats, at least one.
pub(crate) fn piece_rows(row: usize) -> usize {
    (PIECE / row.max(1)).max(1)
}

/// Calls `body(index, piece)` for each of `pieces`, on any thread and in any order.
pub(crate) fn each<P: Send>(pieces: impl IntoIterator<Item = P>, body: impl Fn(usize, P) + Sync) {
    let pieces = pieces.into_iter();
    if rayon::current_num_threads() == 1 || pieces.size_hint().1 == Some(1) {
        return pieces.enumerate().for_each(|(index, piece)| body(index, piece));
    }
    let pieces: Vec<P> = pieces.collect();
    if pieces.len() <= 1 {
        return pieces.into_iter().enumerate().for_each(|(index, piece)| body(index, piece));
    }
    pieces.into_par_iter().enumerate().for_each(|(index, piece)| body(index, piece));
}

/// Calls `body(index, chunk)` for the chunks of `size` floats of `y`; allocates nothing.
pub(crate) fn chunks(y: &mut [f32], size: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    if rayon::current_num_threads() == 1 || y.len() <= size {
        return y.chunks_mut(size).enumerate().for_each(|(index, chunk)| body(index, chunk));
    }
    y.par_chunks_mut(size).enumerate().for_each(|(index, chunk)| body(index, chunk));
}

/// The sum over `pieces` of what `body(index, piece, partial)` adds to a `partial` of `len` zeros.
///
/// The partial sums are added in the order of the pieces, in f64.
pub(crate) fn sum<P: Send>(
    len: usize,
    pieces: impl IntoIterator<Item = P>,
    body: impl Fn(usize, P, &mut [f32]) + Sync,
) -> Vec<f64> {
    let mut total = vec![0.0; len];
    if len == 0 {
        return total;
    }
    let pieces: Vec<P> = pieces.into_iter().collect();
    let mut partials = vec![0.0; len * pieces.len()];
    each(pieces.into_iter().zip(partials.chunks_exact_mut(len)), |index, (piece, partial)| body(index, piece, partial));
    for partial in partials.chunks_exact(len) {
        total.iter_mut().zip(partial).for_each(|(total, &partial)| *total += f64::from(partial));
    }
    total
}

/// Writes `sums` to `y`, of the same length.
pub(crate) fn narrow(sums: &[f64], y: &mut [f32]) {
    y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere};

    #[test]
    fn a_sum_has_the_same_bits_on_any_number_of_threads() {
        let x: Vec<f32> = (0..10_000).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 + 1e4 / (i + 1) as f32).collect();
        let exact: f64 = x.iter().map(|&x| f64::from(x)).sum();
        everywhere(
            |_| {
                let mut total = [f32::NAN];
                narrow(&sum(1, x.chunks(97), |_, piece, total| total[0] = piece.iter().sum()), &mut total);
                vec![total.to_vec()]
            },
            |isa, sums| assert_close(isa, &sums[0], &[exact], 1e-6),
        );
    }

    #[test]
    fn nothing_to_sum_is_zero() {
        assert_eq!(sum(3, std::iter::empty::<()>(), |_, (), _| unreachable!("there is no piece")), vec![0.0; 3]);
        assert!(sum(0, [(); 2], |_, (), _| {}).is_empty());
    }
}

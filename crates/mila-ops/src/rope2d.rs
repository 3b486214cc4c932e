//! The 2-D rotary positions of MILA (`rope.py` of the official code; arXiv 2405.16605, section 5.3).
//!
//! Channel pair `m` = channels `(2m, 2m + 1)` turns by `position * theta`, with `theta_k = 10000^(-k / k_max)`, `k_max`
//! a quarter of the channels; pairs below `k_max` see the row, the others the column. Positions are whole numbers from
//! zero. The rotation comes before the split into heads, so the first heads see rows and the last ones columns.
//!
//! Angles, cosines and sines are computed in f32 everywhere, as upstream does: a table made in f64 differs by up to
//! 2.5e-5 at coordinates below 334.

const BASE: f32 = 10_000.0;

/// `(cos, sin)` of every token's angles, row-major `[height * width, channels / 2, 2]`.
///
/// `channels` is a multiple of 4; see [`crate::shape::attention`].
pub fn rotations(height: usize, width: usize, channels: usize) -> Vec<f32> {
    let (rows, columns) = (axis(height, channels), axis(width, channels));
    let half = channels / 2;
    let mut table = Vec::with_capacity(height * width * channels);
    for row in rows.chunks_exact(half.max(1)) {
        for column in columns.chunks_exact(half.max(1)) {
            table.extend_from_slice(row);
            table.extend_from_slice(column);
        }
    }
    table
}

/// `(cos, sin)` of the angles of every position along one axis, `[positions, channels / 4, 2]`: what rows turn by, and columns.
pub fn axis(positions: usize, channels: usize) -> Vec<f32> {
    let quarter = channels / 4;
    let thetas: Vec<f32> = (0..quarter).map(|k| 1.0 / BASE.powf(k as f32 / quarter as f32)).collect();
    let angles = (0..positions).flat_map(|position| thetas.iter().map(move |theta| position as f32 * theta));
    angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anchors of the official table for 64 channels: `rotations[3, 5, 0]` and `rotations[3, 5, 16]`.
    #[test]
    fn anchors() {
        let table = rotations(8, 8, 64);
        let at = |row: usize, column: usize, pair: usize| {
            let start = ((row * 8 + column) * 32 + pair) * 2;
            [table[start], table[start + 1]]
        };
        let near = |found: [f32; 2], angle: f64| {
            let wanted = [angle.cos() as f32, angle.sin() as f32];
            assert!((0..2).all(|i| (found[i] - wanted[i]).abs() < 1e-6), "{found:?} for {wanted:?}");
        };
        near(at(3, 5, 0), 3.0);
        near(at(3, 5, 16), 5.0);
        near(at(3, 5, 1), 3.0 * 0.562_341_3);
        near(at(7, 0, 15), 7.0 * 0.000_177_827_9);
    }

    #[test]
    fn a_table_is_row_by_row_a_prefix_of_a_larger_one() {
        let (small, large) = (rotations(3, 5, 8), rotations(9, 5, 8));
        assert_eq!(small[..], large[..small.len()]);
    }
}

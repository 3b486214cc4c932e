//! Square patches of tokens laid side by side in one.

use crate::{shape::Map, threads};

/// `y` = `side` x `side` tokens of `x`, `shape`, in one token each: `[batch, ⌈height / side⌉, ⌈width / side⌉, side² channels]`.
///
/// Channel `(dx side + dy) channels + c` is channel `c` of the token `dy` below and `dx` right of the first; tokens beyond the
/// map are zero.
///
/// # Panics
/// If a length does not fit or `side` is zero.
pub fn merge(x: &[f32], shape: Map, side: usize, y: &mut [f32]) {
    let Map { batch, height, width, channels } = shape;
    let (high, wide) = (height.div_ceil(side), width.div_ceil(side));
    assert_eq!(x.len(), shape.len(), "patches: x is {shape:?}");
    assert_eq!(y.len(), batch * high * wide * side * side * channels, "patches: length of y");
    if y.is_empty() {
        return;
    }
    let line = width * channels;
    threads::chunks(y, wide * side * side * channels, |index, y| {
        let first = index / high * height + index % high * side;
        let rows = side.min(height - index % high * side);
        for (patch, y) in y.chunks_exact_mut(side * side * channels).enumerate() {
            for (part, y) in y.chunks_exact_mut(channels).enumerate() {
                let (row, column) = (part % side, patch * side + part / side);
                match row < rows && column < width {
                    true => y.copy_from_slice(&x[(first + row) * line + column * channels..][..channels]),
                    false => y.fill(0.0),
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{everywhere, numbers, unwritten};

    #[test]
    fn every_token_is_in_its_place() {
        for (batch, height, width, channels, side) in
            [(0, 4, 4, 3, 2), (1, 1, 1, 5, 2), (2, 6, 4, 3, 2), (1, 7, 9, 24, 2), (3, 5, 8, 2, 4), (1, 3, 2, 4, 1)]
        {
            let shape = Map { batch, height, width, channels };
            let x = numbers(1, shape.len());
            let (high, wide) = (height.div_ceil(side), width.div_ceil(side));
            let mut wanted = Vec::new();
            for (image, row, column) in
                (0..batch).flat_map(|b| (0..high).flat_map(move |r| (0..wide).map(move |c| (b, r, c))))
            {
                for (dx, dy) in (0..side).flat_map(|dx| (0..side).map(move |dy| (dx, dy))) {
                    let (row, column) = (row * side + dy, column * side + dx);
                    let at = ((image * height + row) * width + column) * channels;
                    let inside = row < height && column < width;
                    wanted.extend((0..channels).map(|c| if inside { x[at + c] } else { 0.0 }));
                }
            }
            everywhere(
                |_| {
                    let mut y = unwritten(wanted.len());
                    merge(&x, shape, side, &mut y);
                    vec![y]
                },
                |_, y| assert!(y[0] == wanted, "{shape:?} by {side}"),
            );
        }
    }
}

//! What depends on where a token lies: absolute positions, patches, padding.

use super::{Array, Real, Table};
use crate::{Dims, Error, PatchOrder, Result, shape};

/// The table's row of each token, added to the last channels of that token.
pub(super) fn add_positions<T: Real>(mut x: Array<T>, table: &Table<T>) -> Result<Array<T>> {
    let &[height, width, channels] = table.shape.as_slice() else {
        return Err(Error::shape(
            "absolute positions",
            "a table [height, width, channels]",
            format!("{:?}", table.shape),
        ));
    };
    shape::positions([height, width, channels], [x.dims.height, x.dims.width, x.dims.channels])?;
    let first = x.dims.channels - channels;
    let tokens = x.dims.tokens();
    for (n, token) in x.values.chunks_exact_mut(x.dims.channels).enumerate() {
        let row = &table.values[n % tokens * channels..][..channels];
        token[first..].iter_mut().zip(row).for_each(|(v, &position)| *v = *v + position);
    }
    Ok(x)
}

/// The four tokens of each patch of 2x2.
pub(super) fn patches<T: Real>(x: &Array<T>, order: PatchOrder) -> Result<Array<T>> {
    let Dims { batch, height, width, channels } = x.dims;
    shape::patches(height, width)?;
    let mut out = Array::zeros(Dims::new(batch, height / 2, width / 2, 4 * channels));
    for b in 0..batch {
        for h in 0..height {
            for w in 0..width {
                let patch = out.token_mut(b, h / 2, w / 2);
                for (c, &value) in x.token(b, h, w).iter().enumerate() {
                    patch[order.index((h % 2, w % 2), c, channels)] = value;
                }
            }
        }
    }
    Ok(out)
}

/// Zeros below and to the right.
pub(super) fn pad_to_multiple<T: Real>(x: &Array<T>, multiple: usize) -> Result<Array<T>> {
    shape::multiple(multiple)?;
    let padded = |n: usize| n.div_ceil(multiple) * multiple;
    let mut out = Array::zeros(Dims { height: padded(x.dims.height), width: padded(x.dims.width), ..x.dims });
    for b in 0..x.dims.batch {
        for h in 0..x.dims.height {
            for w in 0..x.dims.width {
                out.token_mut(b, h, w).copy_from_slice(x.token(b, h, w));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_read_column_by_column() {
        let x = Array::new(Dims::new(1, 2, 4, 1), (0..8).map(f64::from).collect());
        let y = patches(&x, PatchOrder::Tokens).expect("an even extent");
        assert_eq!((y.dims, y.values), (Dims::new(1, 1, 2, 4), vec![0., 4., 1., 5., 2., 6., 3., 7.]));
        assert!(patches(&Array::<f64>::zeros(Dims::new(1, 2, 3, 1)), PatchOrder::Tokens).is_err());
    }

    #[test]
    fn a_patch_is_read_channel_by_channel() {
        let x = Array::new(Dims::new(1, 2, 2, 2), (0..8).map(f64::from).collect());
        let y = patches(&x, PatchOrder::Channels).expect("an even extent");
        assert_eq!((y.dims, y.values), (Dims::new(1, 1, 1, 8), vec![0., 2., 4., 6., 1., 3., 5., 7.]));
    }

    #[test]
    fn positions_are_added_to_the_last_channels_of_their_own_grid() {
        let table = Table { values: vec![1.0, 2.0], shape: vec![1, 2, 1] };
        let x = |width| Array::<f64>::zeros(Dims::new(2, 1, width, 2));
        let y = add_positions(x(2), &table).expect("the table's grid");
        assert_eq!(y.values, [0., 1., 0., 2., 0., 1., 0., 2.]);
        let grid = Array::<f64>::zeros(Dims::new(1, 2, 1, 2));
        assert_eq!(add_positions(grid, &table).expect("as many tokens as the row").values, [0., 1., 0., 2.]);
        let error = add_positions(x(3), &table).expect_err("another grid").to_string();
        assert!(error.contains("1x2") && error.contains("1x3"), "{error}");
    }
}

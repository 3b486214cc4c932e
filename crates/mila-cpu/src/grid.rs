//! Operators that see where a token lies: absolute positions, patches, padding.

use mila_ops::{Dims, Error, PatchOrder, Result, shape};

use crate::Cpu;
use crate::buffer::Map;
use crate::prepared::Table;

impl Cpu {
    /// `x` with the table's row of each token added to that token's last channels.
    pub(crate) fn positioned(&self, x: Map, table: &Table) -> Result<Map> {
        let dims = x.dims();
        let &[height, width, channels] = table.shape.as_slice() else {
            let found = format!("{:?}", table.shape);
            return Err(Error::shape("absolute positions", "a table [height, width, channels]", found));
        };
        shape::positions([height, width, channels], [dims.height, dims.width, dims.channels])?;
        self.begin("absolute positions");
        let sum = self.changed(x, |x| {
            let first = dims.channels - channels;
            for image in x.chunks_exact_mut((dims.tokens() * dims.channels).max(1)) {
                let rows = table.values.chunks_exact(channels.max(1));
                for (token, row) in image.chunks_exact_mut(dims.channels.max(1)).zip(rows) {
                    token[first..].iter_mut().zip(row).for_each(|(x, position)| *x += position);
                }
            }
        });
        self.end(dims);
        Ok(sum)
    }

    /// The four tokens of each patch of 2x2 side by side.
    pub(crate) fn in_patches(&self, x: &Map, order: PatchOrder) -> Result<Map> {
        let Dims { batch, height, width, channels } = x.dims();
        shape::patches(height, width)?;
        self.operator("patches", Dims::new(batch, height / 2, width / 2, 4 * channels), |y| {
            let row = width * channels;
            let rows = x.values().chunks_exact((2 * row).max(1)).zip(y.chunks_exact_mut((2 * row).max(1)));
            for (rows, patches) in rows {
                let (upper, lower) = rows.split_at(row);
                let tokens = upper.chunks_exact(channels).zip(lower.chunks_exact(channels)).enumerate();
                for (column, (upper, lower)) in tokens {
                    match order {
                        PatchOrder::Tokens => {
                            let pair = &mut patches[column * 2 * channels..][..2 * channels];
                            pair[..channels].copy_from_slice(upper);
                            pair[channels..].copy_from_slice(lower);
                        }
                        PatchOrder::Channels => {
                            let patch = &mut patches[column / 2 * 4 * channels..][..4 * channels];
                            for (values, (upper, lower)) in patch.chunks_exact_mut(4).zip(upper.iter().zip(lower)) {
                                (values[column % 2], values[2 + column % 2]) = (*upper, *lower);
                            }
                        }
                    }
                }
            }
        })
    }

    /// `x` with zeros below and to the right.
    pub(crate) fn padded(&self, x: &Map, height: usize, width: usize) -> Map {
        let from = x.dims();
        self.written(Dims { height, width, ..from }, |values| {
            if x.values().is_empty() {
                return values.fill(0.0);
            }
            let (row, padded_row) = (from.width * from.channels, width * from.channels);
            for (image, source) in values
                .chunks_exact_mut((height * padded_row).max(1))
                .zip(x.values().chunks_exact((from.height * row).max(1)))
            {
                let mut rows = source.chunks_exact(row.max(1));
                for target in image.chunks_exact_mut(padded_row.max(1)) {
                    let source = rows.next().unwrap_or_default();
                    target[..source.len()].copy_from_slice(source);
                    target[source.len()..].fill(0.0);
                }
            }
        })
    }
}

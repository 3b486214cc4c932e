//! Maps completed with zeros.

use mila_ops::{Dims, Window};

use crate::buffer::Map;
use crate::executor::Cpu;

impl Cpu {
    /// `x` with zeros below and to the right, where it is too small for one window; see [`Window::output`].
    pub(crate) fn fitted(&self, x: &Map, window: Window) -> Option<Map> {
        let missing = |n: usize| window.kernel.saturating_sub(n + 2 * window.padding);
        let Dims { height, width, .. } = x.dims();
        let (rows, columns) = (missing(height), missing(width));
        (rows + columns > 0).then(|| self.padded(x, height + rows, width + columns))
    }

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

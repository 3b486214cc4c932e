//! Square windows, each of which attends within itself.

use std::ops::Range;

/// How a map is cut into square windows (Swin, arXiv 2103.14030, sections 3.1 and 3.2).
///
/// Along each axis, borders lie at `shift`, `shift + side`, `shift + 2 side` and so on, and the map ends what reaches beyond
/// it; an axis of at most `side` tokens is one window, shifted or not. This is the paper's cyclic shift with its mask: what
/// the mask keeps apart there are different windows here.
///
/// Where an extent is a multiple of `side` or below it, that is what the official classifier computes. At other extents its
/// descendants pad the map, let the padding take part in the softmax, and differ from each other in it; here no token is
/// made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    /// Tokens on a side, at least 1.
    pub side: usize,
    /// Tokens before the first border, below `side`; 0 for none.
    pub shift: usize,
}

impl Windows {
    /// The windows along an axis of `extent` tokens.
    pub fn along(self, extent: usize) -> impl Iterator<Item = Range<usize>> {
        let Self { side, shift } = self;
        let first = match extent <= side || shift == 0 {
            true => 0..side.min(extent),
            false => 0..shift,
        };
        let after = move |window: &Range<usize>| {
            let start = window.end;
            (start < extent).then(|| start..extent.min(start + side))
        };
        std::iter::successors((extent > 0).then_some(first), after)
    }

    /// Entries of the table of biases of one head: an offset of rows and one of columns, each from `1 - side` to `side - 1`.
    pub const fn offsets(self) -> usize {
        let span = 2 * self.side - 1;
        span * span
    }

    /// Row of the table for a query that lies `rows` below its key and `columns` to the right of it, both plus `side - 1`.
    pub const fn offset(self, rows: usize, columns: usize) -> usize {
        rows * (2 * self.side - 1) + columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_an_axis_once() {
        let along =
            |side, shift, extent| Windows { side, shift }.along(extent).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(along(7, 0, 14), [(0, 7), (7, 14)]);
        assert_eq!(along(7, 3, 14), [(0, 3), (3, 10), (10, 14)]);
        assert_eq!(along(7, 3, 10), [(0, 3), (3, 10)]);
        assert_eq!(along(7, 3, 8), [(0, 3), (3, 8)]);
        assert_eq!(along(7, 0, 8), [(0, 7), (7, 8)]);
        assert_eq!(along(7, 3, 7), [(0, 7)]);
        assert_eq!(along(7, 3, 1), [(0, 1)]);
        assert_eq!(along(7, 3, 0), []);
    }
}

//! The orders in which a recurrence walks the tokens of a map.

use super::Steps;
use crate::{Error, Result};

/// An order of a map's tokens. It is resolved for a grid by [`ScanOrder::steps`], which executors call; models name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScanOrder {
    /// The way through the map.
    pub path: Path,
    /// From which end.
    pub direction: Direction,
}

/// From which end a path is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From its start.
    Forward,
    /// From its end, padding included.
    Backward,
}

/// A way through a map, from the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Row by row, each from the left.
    Rows,
    /// Column by column, each from the top.
    Columns,
    /// Row by row, alternately from the left and from the right (PlainMamba).
    RowSnake,
    /// Column by column, alternately from the top and from the bottom (PlainMamba).
    ColumnSnake,
    /// Square windows row by row, and row by row inside each (LocalMamba). Where height or width is no multiple of `side`,
    /// the windows go beyond the map, and a token out there is a step with zero input that decays the state all the same.
    Windows {
        /// Tokens along a window's side.
        side: usize,
    },
    /// The same steps, with the state set back to the start at every window (MambaVision).
    SeparateWindows {
        /// Tokens along a window's side.
        side: usize,
    },
    /// Every second row and column only, so that four phases visit each token once (EfficientVMamba). Phases are those of
    /// the released code: 0 starts at the first row and column and goes by rows, 1 at the second row by columns, 2 at the
    /// second column by rows, 3 at the second row and column by columns.
    Atrous {
        /// 0 to 3.
        phase: usize,
    },
    /// Row by row, with the state set back to the start at every token: each sees the start and itself (HMNet's QIM).
    SeparateTokens,
}

/// VMamba's four scans, in the order of its parameters: rows, columns, and both from the end.
pub const CROSS_SCAN: [ScanOrder; 4] =
    [ScanOrder::ROWS, ScanOrder::COLUMNS, ScanOrder::ROWS.reversed(), ScanOrder::COLUMNS.reversed()];

impl ScanOrder {
    /// Row by row.
    pub const ROWS: Self = Self::along(Path::Rows);
    /// Column by column.
    pub const COLUMNS: Self = Self::along(Path::Columns);

    /// A path from its start.
    pub const fn along(path: Path) -> Self {
        Self { path, direction: Direction::Forward }
    }

    /// The same path from the other end.
    pub const fn reversed(self) -> Self {
        let direction = match self.direction {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        };
        Self { direction, ..self }
    }

    /// How many steps it takes over a map of `height` rows and `width` columns, padding included.
    ///
    /// # Errors
    /// [`Error::Shape`] for windows of side 0, a phase beyond 3, an empty map, or more than 2³² - 2 tokens or steps.
    pub fn count(self, height: usize, width: usize) -> Result<usize> {
        const OPERATOR: &str = "scan order";
        if height == 0 || width == 0 {
            return Err(Error::shape(OPERATOR, "at least one row and one column", format_args!("{height}x{width}")));
        }
        let extents = match self.path {
            Path::Windows { side: 0 } | Path::SeparateWindows { side: 0 } => {
                return Err(Error::shape(OPERATOR, "windows of at least one token", 0));
            }
            Path::Atrous { phase: phase @ 4.. } => return Err(Error::shape(OPERATOR, "a phase from 0 to 3", phase)),
            Path::Windows { side } | Path::SeparateWindows { side } => {
                height.checked_next_multiple_of(side).zip(width.checked_next_multiple_of(side))
            }
            _ => Some((height, width)),
        };
        let steps = extents.and_then(|(rows, columns)| rows.checked_mul(columns));
        match (steps.filter(|&steps| steps <= Steps::MOST), self.path) {
            (Some(_), Path::Atrous { phase }) => Ok((height + 1 - phase % 2) / 2 * ((width + 1 - phase / 2) / 2)),
            (Some(steps), _) => Ok(steps),
            (None, path) => {
                let found = format!("{path:?} over {height}x{width}");
                Err(Error::shape(OPERATOR, format_args!("at most {} steps", Steps::MOST), found))
            }
        }
    }

    /// The steps over a map of `height` rows and `width` columns.
    ///
    /// # Errors
    /// Those of [`count`](Self::count).
    pub fn steps(self, height: usize, width: usize) -> Result<Steps> {
        self.count(height, width)?;
        let (visits, segments) = self.path.visits(height, width);
        let steps = Steps::new(visits, segments, height * width)?;
        Ok(match self.direction {
            Direction::Forward => steps,
            Direction::Backward => steps.reversed(),
        })
    }
}

impl Path {
    /// The token of every step, none beyond the map, and the steps at which segments start.
    fn visits(self, height: usize, width: usize) -> (Vec<Option<usize>>, Vec<usize>) {
        let token = |row: usize, column: usize| (row < height && column < width).then_some(row * width + column);
        let by_rows = |top: usize, left: usize, rows: usize, columns: usize, step: usize| {
            let row = move |row| (left..left + columns).step_by(step).map(move |column| token(row, column));
            (top..top + rows).step_by(step).flat_map(row)
        };
        let by_columns = |top: usize, left: usize, step: usize| {
            (left..width)
                .step_by(step)
                .flat_map(move |column| (top..height).step_by(step).map(move |r| token(r, column)))
        };
        let windows = |side: usize| {
            let columns = (0..width).step_by(side);
            let corners = (0..height).step_by(side).flat_map(move |top| columns.clone().map(move |left| (top, left)));
            corners.flat_map(move |(top, left)| by_rows(top, left, side, side, 1)).collect::<Vec<_>>()
        };
        match self {
            Path::Rows => (by_rows(0, 0, height, width, 1).collect(), vec![0]),
            Path::Columns => (by_columns(0, 0, 1).collect(), vec![0]),
            Path::RowSnake => {
                let column = |row: usize, i: usize| if row.is_multiple_of(2) { i } else { width - 1 - i };
                let row = |row: usize| (0..width).map(move |i| token(row, column(row, i)));
                ((0..height).flat_map(row).collect(), vec![0])
            }
            Path::ColumnSnake => {
                let row = |column: usize, i: usize| if column.is_multiple_of(2) { i } else { height - 1 - i };
                let column = |column: usize| (0..height).map(move |i| token(row(column, i), column));
                ((0..width).flat_map(column).collect(), vec![0])
            }
            Path::Windows { side } => (windows(side), vec![0]),
            Path::SeparateWindows { side } => {
                let visits = windows(side);
                let starts = (0..visits.len()).step_by(side * side).collect();
                (visits, starts)
            }
            Path::Atrous { phase } => {
                let (top, left) = (phase % 2, phase / 2);
                let visits = match top {
                    0 => by_rows(0, left, height, width.saturating_sub(left), 2).collect(),
                    _ => by_columns(top, left, 2).collect(),
                };
                (visits, vec![0])
            }
            Path::SeparateTokens => (by_rows(0, 0, height, width, 1).collect(), (0..height * width).collect()),
        }
    }
}

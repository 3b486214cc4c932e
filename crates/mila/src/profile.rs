//! Where the time of a pass goes: the observer that has the clock which the executor lacks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mila::cpu::Observer;
use mila::ops::Dims;

/// What is neither in one operator nor in another: the executor's own work, and what the body does between its calls.
pub(crate) const BETWEEN: &str = "between operators";

/// Adds up the time of every operator by its name and the extent of its output.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<(&'static str, Instant)>,
    rows: Vec<Sum>,
}

#[derive(Debug)]
struct Sum {
    operator: &'static str,
    output: [usize; 3],
    calls: usize,
    time: Duration,
}

/// The calls of one operator that give maps of one extent, in a mean pass.
#[derive(Debug)]
pub(crate) struct Row {
    /// The operator, or [`BETWEEN`].
    pub(crate) operator: &'static str,
    /// Height, width and channels of its output; [`BETWEEN`] has none.
    pub(crate) output: Option<[usize; 3]>,
    /// How often a pass calls it.
    pub(crate) calls: usize,
    /// Milliseconds of a pass.
    pub(crate) ms: f64,
    /// Fraction of the pass.
    pub(crate) share: f64,
}

impl Profile {
    /// The rows, from the longest, of `passes` passes that took `total` together. They add up to `total / passes`.
    pub(crate) fn rows(&self, passes: usize, total: Duration) -> Vec<Row> {
        let state = self.state();
        let row = |operator, output, calls: usize, time: Duration| Row {
            operator,
            output,
            calls: calls / passes.max(1),
            ms: 1e3 * time.as_secs_f64() / passes.max(1) as f64,
            share: time.as_secs_f64() / total.as_secs_f64().max(1e-9),
        };
        let inside = state.rows.iter().map(|sum| sum.time).sum();
        let operators = state.rows.iter().map(|sum| row(sum.operator, Some(sum.output), sum.calls, sum.time));
        let mut rows: Vec<Row> = operators.collect();
        rows.push(row(BETWEEN, None, 0, total.saturating_sub(inside)));
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        rows
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Profile {
    fn begin(&self, operator: &'static str) {
        self.state().open = Some((operator, Instant::now()));
    }

    fn end(&self, output: Dims) {
        let ended = Instant::now();
        let mut state = self.state();
        let Some((operator, begun)) = state.open.take() else { return };
        let time = ended - begun;
        let output = [output.height, output.width, output.channels];
        match state.rows.iter_mut().find(|sum| sum.operator == operator && sum.output == output) {
            Some(sum) => {
                sum.calls += 1;
                sum.time += time;
            }
            None => state.rows.push(Sum { operator, output, calls: 1, time }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_and_add_up() {
        let profile = Profile::default();
        let started = Instant::now();
        for _ in 0..2 {
            for (operator, side) in [("linear", 4), ("mul", 4), ("linear", 4), ("linear", 2)] {
                profile.begin(operator);
                profile.end(Dims::new(3, side, side, 8));
            }
        }
        profile.end(Dims::new(9, 9, 9, 9));
        let total = started.elapsed();
        let rows = profile.rows(2, total);
        assert!(rows.is_sorted_by(|a, b| a.ms >= b.ms), "{rows:?}");
        let calls =
            |operator, output| rows.iter().find(|r| r.operator == operator && r.output == output).map(|r| r.calls);
        assert_eq!(rows.len(), 4, "{rows:?}");
        assert_eq!(calls("linear", Some([4, 4, 8])), Some(2));
        assert_eq!(calls("linear", Some([2, 2, 8])), Some(1));
        assert_eq!(calls("mul", Some([4, 4, 8])), Some(1));
        assert_eq!(calls(BETWEEN, None), Some(0));
        let sum: f64 = rows.iter().map(|row| row.ms).sum();
        assert!((sum - 1e3 * total.as_secs_f64() / 2.0).abs() < 1e-9, "{sum}, {total:?}");
        assert!((rows.iter().map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-9, "{rows:?}");
    }
}

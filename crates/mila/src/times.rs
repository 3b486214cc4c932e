//! Times of repeated calls, and their percentiles.

use std::time::Duration;

/// Times of calls, from the shortest; at least one.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// `None` without a call.
    pub(crate) fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self(times))
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.0.len()
    }

    /// The shortest time that at least `percent` of a hundred calls did not exceed, in milliseconds (nearest rank: always the
    /// time of a call, never one between two).
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (percent * self.0.len()).div_ceil(100).clamp(1, self.0.len());
        1e3 * self.0[rank - 1].as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(times: impl IntoIterator<Item = u64>) -> [f64; 3] {
        let times = Times::new(times.into_iter().map(Duration::from_millis).collect()).expect("a call");
        [50, 95, 99].map(|percent| times.percentile_ms(percent))
    }

    #[test]
    fn percentiles_are_times_of_calls() {
        assert_eq!(percentiles([7]), [7.0; 3]);
        assert_eq!(percentiles([9, 1]), [1.0, 9.0, 9.0]);
        assert_eq!(percentiles([5, 4, 3, 2, 1]), [3.0, 5.0, 5.0]);
        assert_eq!(percentiles((1..=100).rev()), [50.0, 95.0, 99.0]);
        assert_eq!(percentiles(1..=200), [100.0, 190.0, 198.0]);
        assert_eq!(percentiles(1..=1000), [500.0, 950.0, 990.0]);
    }

    #[test]
    fn no_call_has_no_percentile() {
        assert!(Times::new(Vec::new()).is_none());
    }
}

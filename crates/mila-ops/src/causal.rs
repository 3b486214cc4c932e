//! Causal depthwise convolutions along a scan order.

use crate::{Executor, Steps};

/// A depthwise convolution along an order, whose last tap is the step itself: Mamba's `conv1d`.
///
/// [`Builder::causal_conv`](crate::Builder::causal_conv) makes it; its weight is `[channels, 1, taps]`.
pub struct CausalConv<E: Executor> {
    /// As the executor keeps it.
    pub conv: E::Conv,
    /// Steps that each output sees, its own included.
    pub taps: usize,
}

impl Steps {
    /// For each token and tap of a causal convolution, the token that the tap reads, `[tokens, taps]`, or
    /// [`PAD`](Self::PAD): before the segment that the token lies in, beyond the map, or for a token that is not visited.
    pub fn sources(&self, taps: usize) -> Vec<u32> {
        self.neighbours(taps, |step, tap, segment| {
            (step + tap + 1).checked_sub(taps).filter(|source| segment.contains(source))
        })
    }

    /// For each token and tap, the token whose tap reads it, `[tokens, taps]`, or [`PAD`](Self::PAD): the inverse of
    /// [`sources`](Self::sources), for gradients.
    pub fn readers(&self, taps: usize) -> Vec<u32> {
        self.neighbours(taps, |step, tap, segment| {
            Some(step + taps - 1 - tap).filter(|reader| segment.contains(reader))
        })
    }

    fn neighbours(
        &self,
        taps: usize,
        neighbour: impl Fn(usize, usize, &std::ops::Range<usize>) -> Option<usize>,
    ) -> Vec<u32> {
        let mut table = vec![Self::PAD; self.tokens() * taps];
        for segment in self.segments() {
            for step in segment.clone().filter(|&step| self.index()[step] != Self::PAD) {
                let row = &mut table[self.index()[step] as usize * taps..][..taps];
                for (tap, entry) in row.iter_mut().enumerate() {
                    *entry = neighbour(step, tap, &segment).map_or(Self::PAD, |step| self.index()[step]);
                }
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScanOrder;
    use crate::recurrence::Path;

    const P: u32 = Steps::PAD;

    #[test]
    fn taps_read_the_steps_before() {
        let sources = |order: ScanOrder| order.steps(2, 2).expect("an order").sources(3);
        assert_eq!(sources(ScanOrder::ROWS), [P, P, 0, P, 0, 1, 0, 1, 2, 1, 2, 3]);
        assert_eq!(sources(ScanOrder::ROWS.reversed()), [2, 1, 0, 3, 2, 1, P, 3, 2, P, P, 3]);
        // Tokens 0, 2, 1, 3.
        assert_eq!(sources(ScanOrder::COLUMNS), [P, P, 0, 0, 2, 1, P, 0, 2, 2, 1, 3]);
        let separate = ScanOrder::along(Path::SeparateTokens);
        assert_eq!(sources(separate), [P, P, 0, P, P, 1, P, P, 2, P, P, 3]);
    }

    #[test]
    fn readers_are_the_inverse_of_sources() {
        for path in [Path::Rows, Path::ColumnSnake, Path::Windows { side: 2 }, Path::SeparateWindows { side: 2 }] {
            for order in [ScanOrder::along(path), ScanOrder::along(path).reversed()] {
                let steps = order.steps(3, 5).expect("an order");
                let (sources, readers) = (steps.sources(4), steps.readers(4));
                for (at, &source) in sources.iter().enumerate().filter(|&(_, &source)| source != P) {
                    let (token, tap) = (at / 4, at % 4);
                    assert_eq!(readers[source as usize * 4 + tap], token as u32, "{order:?}, token {token}, tap {tap}");
                }
                let known = |table: &[u32]| table.iter().filter(|&&token| token != P).count();
                assert_eq!(known(&sources), known(&readers), "{order:?}");
            }
        }
    }

    /// Padding beyond the map takes the place of tokens: 2x2 windows over 3x3 make the steps 0 1 3 4 | 2 P 5 P | 6 7 P P | 8.
    #[test]
    fn padding_is_a_step_of_zeros() {
        let steps = ScanOrder::along(Path::Windows { side: 2 }).steps(3, 3).expect("an order");
        let sources = steps.sources(3);
        assert_eq!(sources[5 * 3..][..3], [2, P, 5]);
        assert_eq!(sources[2 * 3..][..3], [3, 4, 2]);
        assert_eq!(sources[8 * 3..][..3], [P, P, 8]);
    }
}

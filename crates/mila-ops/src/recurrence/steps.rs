//! A scan order, resolved for a grid.

use crate::{Error, Result};

/// The steps of a recurrence over a map: which token each one visits, and where the state is set back to the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    index: Vec<u32>,
    starts: Vec<u32>,
    tokens: usize,
}

impl Steps {
    /// In [`index`](Self::index), a step that visits no token: zero input, which decays the state.
    pub const PAD: u32 = u32::MAX;
    /// As many steps as an order can have.
    pub const MOST: usize = u32::MAX as usize - 1;

    /// The steps that visit `visits` of a map of `tokens`, in segments that begin at the steps `starts`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a token lies beyond the map or is visited twice, if there are more than [`MOST`](Self::MOST)
    /// steps, or if `starts` does not begin with step 0 and grow, each below the number of steps. (An order without steps
    /// has the one start 0.)
    pub fn new(visits: Vec<Option<usize>>, starts: Vec<usize>, tokens: usize) -> Result<Self> {
        const OPERATOR: &str = "scan order";
        if visits.len() > Self::MOST || tokens > Self::MOST {
            return Err(Error::shape(OPERATOR, format_args!("at most {} steps", Self::MOST), visits.len().max(tokens)));
        }
        let mut seen = vec![false; tokens];
        let mut index = Vec::with_capacity(visits.len());
        for visit in visits {
            let Some(token) = visit else {
                index.push(Self::PAD);
                continue;
            };
            match seen.get_mut(token) {
                None => return Err(Error::shape(OPERATOR, format_args!("tokens below {tokens}"), token)),
                Some(true) => {
                    return Err(Error::shape(
                        OPERATOR,
                        "every token once at most",
                        format_args!("token {token} twice"),
                    ));
                }
                Some(seen) => *seen = true,
            }
            index.push(token as u32);
        }
        let within = |starts: &[usize]| starts.iter().all(|&start| start < index.len().max(1));
        if starts.first() != Some(&0) || !starts.is_sorted_by(|a, b| a < b) || !within(&starts) {
            let expected = format!("segments that begin at step 0 and grow, within {} steps", index.len());
            return Err(Error::shape(OPERATOR, expected, format_args!("{starts:?}")));
        }
        let starts = starts.into_iter().map(|start| start as u32).collect();
        Ok(Self { index, starts, tokens })
    }

    /// The token of every step, or [`PAD`](Self::PAD).
    pub fn index(&self) -> &[u32] {
        &self.index
    }

    /// The steps before which the state is set back to the start; the first is 0.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none, as in a phase of an atrous order over a map of one row.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Tokens of the map.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The steps of each segment.
    pub fn segments(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let ends = self.starts[1..].iter().map(|&start| start as usize).chain([self.len()]);
        self.starts.iter().map(|&start| start as usize).zip(ends).map(|(start, end)| start..end)
    }

    /// The same steps from the other end.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        let starts = self.segments().map(|segment| (self.index.len() - segment.end) as u32);
        self.starts = starts.collect();
        self.starts.reverse();
        self.index.reverse();
        self
    }

    /// The step that visits each token; none for a token that no step visits.
    pub fn inverse(&self) -> Vec<Option<u32>> {
        let mut steps = vec![None; self.tokens];
        for (step, &token) in self.index.iter().enumerate().filter(|&(_, &token)| token != Self::PAD) {
            steps[token as usize] = Some(step as u32);
        }
        steps
    }
}

//! The gated linear recurrence: linear attention with decay, selective state spaces (S6), and what lies between.
//!
//! For each image and head, with a state S of `keys` rows and `values` columns, walking the tokens in a given order:
//!
//! ```text
//! u_t = Δ_t ⊙ v_t      S_t = G_t ⊙ S_{t-1} + k_tᵀ u_t      o_t = q_t S_t      y_t = o_t / n_t + D ⊙ x_t
//! ```
//!
//! Tokens are read and written where they stand in the map; nothing is copied into the order of the walk but the chunk at
//! hand. Threads share the work by image, head and block of channels; the state of a block stays in the cache.
//!
//! The normaliser n is a recurrence of its own, whose values are all one. Backward keeps the state before
//! every chunk and computes the states inside a chunk again, so no array grows with tokens · keys · values ([`backward`]).

mod all_tokens;
mod backward;
mod block;
mod forward;
mod normaliser;
mod stage;
mod sums;
#[cfg(test)]
mod tests;
mod update;

pub use backward::{Gradients, backward};
pub use forward::forward;

/// Some channels of every row of a map.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The map, `[rows, stride]`; rows are tokens, counted over all images.
    pub values: &'a [f32],
    /// Channels of the map.
    pub stride: usize,
    /// The first of these channels.
    pub first: usize,
}

/// In an index, a step that visits no token: zero input, which decays the state.
pub const PAD: u32 = u32::MAX;

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug)]
pub enum Walk<'a> {
    /// Those before it.
    Steps {
        /// The token of every step, or [`PAD`]; each at most once.
        index: &'a [u32],
        /// The steps at which the state is set back to the start, from 0 on.
        starts: &'a [u32],
        /// After how many steps the state is returned.
        until: usize,
    },
    /// All, from an empty state and without decay.
    All {
        /// What the sum of all writes is multiplied by.
        share: f32,
    },
}

/// Step sizes: softplus(raw + bias).
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// `[channels]` or `[heads]` a row.
    pub raw: Rows<'a>,
    /// As many.
    pub bias: Option<&'a [f32]>,
}

/// Logarithms of the gates, at most 0.
#[derive(Clone, Copy, Debug)]
pub enum Decay<'a> {
    /// No decay.
    None,
    /// Gates themselves, `[heads]`, in (0, 1].
    Constant(&'a [f32]),
    /// `[heads]` a row.
    Scalar(Rows<'a>),
    /// `[heads, keys]` a row.
    Keys(Rows<'a>),
    /// `[heads, values]` a row.
    Values(Rows<'a>),
    /// Step sizes `[heads, values]` a row, times −exp(a_log), `[heads, values, keys]`.
    Factored {
        /// Δ.
        delta: Delta<'a>,
        /// ln(−A).
        a_log: &'a [f32],
    },
}

/// What values are multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Nothing.
    None,
    /// The step sizes of [`Decay::Factored`].
    OfDecay,
    /// `[heads, values]` a row.
    Channel(Delta<'a>),
    /// `[heads]` a row.
    Head(Delta<'a>),
}

/// What the output is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normaliser {
    /// Nothing.
    None,
    /// The sum of keys that decays as the state does, plus ε.
    Decaying(f32),
    /// The sum of keys that does not decay, plus ε.
    Constant(f32),
}

/// A recurrence over the tokens of some images.
#[derive(Clone, Debug)]
pub struct Recurrence<'a> {
    /// Images.
    pub batch: usize,
    /// Tokens of an image.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Rows of a head's state.
    pub keys: usize,
    /// Columns of a head's state.
    pub values: usize,
    /// Which tokens are seen.
    pub walk: Walk<'a>,
    /// `[heads, keys]` a row.
    pub q: Rows<'a>,
    /// `[heads, keys]` a row.
    pub k: Rows<'a>,
    /// `[heads, values]` a row.
    pub v: Rows<'a>,
    /// How the state decays.
    pub decay: Decay<'a>,
    /// What gates the input.
    pub input: Input<'a>,
    /// `[heads, keys]`: the state is read before the write, and the token sees itself by these weights.
    pub bonus: Option<&'a [f32]>,
    /// What divides.
    pub normaliser: Normaliser,
    /// D, `[heads, values]`, and x, as many a row.
    pub shortcut: Option<(&'a [f32], Rows<'a>)>,
    /// The state before the first step of every segment, `[batch, heads, keys, values + sums]`; zero without one.
    pub start: Option<&'a [f32]>,
}

impl Recurrence<'_> {
    /// Columns of the normaliser's state of a head.
    pub fn sums(&self) -> usize {
        match self.normaliser {
            Normaliser::None => 0,
            _ if self.has_one_sum() => 1,
            _ => self.values,
        }
    }

    /// Whether the columns of a head share a normaliser.
    fn has_one_sum(&self) -> bool {
        match self.normaliser {
            Normaliser::None => false,
            Normaliser::Decaying(_) => !matches!(self.decay, Decay::Values(_) | Decay::Factored { .. }),
            Normaliser::Constant(_) => true,
        }
    }

    /// Floats of all states: `[batch, heads, keys, values + sums]`.
    pub fn state_len(&self) -> usize {
        self.batch * self.heads * self.keys * (self.values + self.sums())
    }

    fn channels(&self) -> usize {
        self.heads * self.values
    }

    fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Panics unless every length fits.
    fn check(&self) {
        let (rows, keys, values) = (self.rows(), self.heads * self.keys, self.channels());
        assert!(keys > 0 && values > 0, "recurrence: heads, keys and values of at least one");
        let map = |map: Rows<'_>, width: usize, what: &str| {
            assert!(map.first + width <= map.stride, "recurrence: {what} has {width} channels");
            assert_eq!(map.values.len(), rows * map.stride, "recurrence: rows of {what}");
        };
        let delta = |delta: Delta<'_>, width: usize| {
            map(delta.raw, width, "step sizes");
            assert_eq!(delta.bias.map_or(width, <[f32]>::len), width, "recurrence: bias of the step sizes");
        };
        map(self.q, keys, "q");
        map(self.k, keys, "k");
        map(self.v, values, "v");
        match self.decay {
            Decay::None => {}
            Decay::Constant(gates) => assert_eq!(gates.len(), self.heads, "recurrence: constant gates"),
            Decay::Scalar(log) => map(log, self.heads, "gates"),
            Decay::Keys(log) => map(log, keys, "gates"),
            Decay::Values(log) => map(log, values, "gates"),
            Decay::Factored { delta: step, a_log } => {
                delta(step, values);
                assert_eq!(a_log.len(), values * self.keys, "recurrence: a_log");
            }
        }
        match (self.input, self.decay) {
            (Input::None, _) | (Input::OfDecay, Decay::Factored { .. }) => {}
            (Input::OfDecay, _) => panic!("recurrence: the decay has no step sizes"),
            (Input::Channel(step), _) => delta(step, values),
            (Input::Head(step), _) => delta(step, self.heads),
        }
        assert_eq!(self.bonus.map_or(keys, <[f32]>::len), keys, "recurrence: bonus");
        if let Some((d, x)) = self.shortcut {
            assert_eq!(d.len(), values, "recurrence: D");
            map(x, values, "the shortcut");
        }
        assert_eq!(self.start.map_or(self.state_len(), <[f32]>::len), self.state_len(), "recurrence: start");
        match self.walk {
            Walk::Steps { index, starts, until } => {
                let mut seen = vec![false; self.tokens];
                for &token in index.iter().filter(|&&token| token != PAD) {
                    assert!(!std::mem::replace(&mut seen[token as usize], true), "recurrence: token {token} twice");
                }
                assert_eq!(starts.first(), Some(&0), "recurrence: the first segment starts at step 0");
                assert!(until <= index.len(), "recurrence: a state after {until} of {} steps", index.len());
            }
            Walk::All { .. } => {
                let plain = matches!(self.decay, Decay::None) && self.bonus.is_none() && self.start.is_none();
                assert!(plain, "recurrence: all tokens have no order");
            }
        }
    }
}

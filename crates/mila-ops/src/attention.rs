//! Which linear attention: how many groups of queries and keys, whether they turn with their positions, what divides.

/// The choices of [`crate::Executor::linear_attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearAttention {
    /// Groups of queries and keys, each with its contiguous share of the values' channels. One group is Mamba's design:
    /// all channels share it (arXiv 2405.16605, section 4, "multi-head").
    pub heads: usize,
    /// What queries and keys know of positions.
    pub positions: Positions,
    /// What the sum over keys is divided by.
    pub normalisation: Normalisation,
}

/// What queries and keys know of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Positions {
    /// Nothing: any order of the tokens gives the same.
    Absent,
    /// They turn by row and column, [`crate::rope2d`], in the sum and not in what it is divided by.
    Rotary,
}

/// What the sum over keys is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalisation {
    /// The number of tokens only, as a state space model does.
    Absent,
    /// The sum of the weights `q . k`, so that they add up to one: `Q_i Z_i` of the paper's equation (2).
    Weights,
}

impl LinearAttention {
    /// MILA's: rotary positions, normalised.
    pub const fn mila(heads: usize) -> Self {
        Self { positions: Positions::Rotary, ..Self::plain(heads) }
    }

    /// Linear attention as such, equation (2) of the paper: no positions, normalised.
    pub const fn plain(heads: usize) -> Self {
        Self { heads, positions: Positions::Absent, normalisation: Normalisation::Weights }
    }
}

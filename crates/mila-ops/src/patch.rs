//! Patches: where a class token stands among them, and how one is laid out.

/// The place of a class token in a row of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// Before all patches.
    First,
    /// Behind the first half of the patches, rounded down (Vim).
    Middle,
}

impl TokenPlace {
    /// Its index beside `patches` patches, which is also that of its first successor among them.
    pub const fn index(self, patches: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Middle => patches / 2,
        }
    }
}

/// How a patch of 2x2 tokens lays out its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchOrder {
    /// Token by token, the left column first: channel `c` of the token at `row` and `column` is `(2 column + row) channels + c`
    /// (Swin, VMamba).
    Tokens,
    /// Channel by channel, each by rows: `4 c + 2 row + column` (mmpretrain's merging, Mamba-ND).
    Channels,
}

impl PatchOrder {
    /// The place of channel `c` of the token at `row` and `column` in a patch of tokens of `channels`.
    pub const fn index(self, (row, column): (usize, usize), c: usize, channels: usize) -> usize {
        match self {
            Self::Tokens => (2 * column + row) * channels + c,
            Self::Channels => 4 * c + 2 * row + column,
        }
    }
}

//! What a layer does to its tokens, told to a tap.

use crate::{Executor, LinearAttention, RecurrenceOn, TokenPlace};

/// What a layer is about to do to its tokens, with the operands where they stand.
///
/// A map says nothing of what it is for. Here the model says it, so that whoever draws or measures gates and attention needs no
/// list of models: see [`Tap::mechanism`](crate::Tap::mechanism).
pub enum Mechanism<'a, E: Executor> {
    /// From here on the tokens of an image stand in a row: those of a grid, by rows, with a class token among them.
    Row {
        /// Rows and columns of the grid.
        grid: [usize; 2],
        /// Where the class token stands.
        class_token: TokenPlace,
    },
    /// Values are multiplied by this map before they are mixed, `[batch, height, width, channels]`. The input gate of a
    /// recurrence is the recurrence's.
    InputGate(&'a E::Map),
    /// Every token looks at all tokens; see [`Executor::linear_attention`].
    LinearAttention {
        /// Queries, then keys, before ELU + 1.
        qk: &'a E::Map,
        /// Heads, positions, normalisation.
        form: LinearAttention,
    },
    /// Recurrences whose outputs are added up; see [`crate::recurrence`].
    Recurrences(&'a [RecurrenceOn<'a, E>]),
    /// Every token looks at its neighbours: a convolution, or softmax attention within windows.
    Local,
}

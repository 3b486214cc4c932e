//! The gated linear recurrence: linear attention, selective state spaces (S6) and what lies between them.
//!
//! Per head, a state `S [keys, values]` is carried from token to token. With rows `q_t, k_t [keys]` and `v_t [values]`:
//!
//! ```text
//! u_t = Δ_t ⊙ v_t                           input gate
//! S_t = G_t ⊙ S_{t-1} + k_tᵀ u_t            forget gate, write
//! o_t = q_t S_t                             read
//! y_t = o_t / n_t + D ⊙ x_t                 normaliser, shortcut
//! ```
//!
//! | here | MILA paper (arXiv 2405.16605, eq. 11 and 12) | state-space papers |
//! |---|---|---|
//! | `keys`, `values` | d, C / heads | N (d_state), channels |
//! | q, k, v | Q, K, V | C, B, x |
//! | G | Ã | Ā = exp(Δ A) |
//! | S | S | h |
//!
//! [`Recurrence`] says which of these there are; [`Executor::recurrence`] computes it. Where
//! several directions are scanned, each is a recurrence of its own, and
//! [`Executor::recurrences`] adds them up.
//!
//! The definition is [`recurrent`], over the operands of one image along its steps ([`Sequence`]); equal to it are the forms
//! [`chunked`] (gates that do not differ along the values), [`associative`] and [`quadratic`], whose matrices are the
//! attention that a recurrence implies. [`all_tokens`] is the non-causal one.
//!
//! Softmax attention, recurrences that are not linear in the state (TTT), gates that are matrices (DeltaNet), and mLSTM, whose
//! input gate is an exponential that a running maximum keeps in bounds and whose normaliser is a maximum too, are not this
//! operator.

pub mod all_tokens;
pub mod associative;
pub mod chunked;
mod operands;
mod order;
pub mod quadratic;
pub mod recurrent;
mod sequence;
mod sizes;
mod steps;

use std::ops::Range;

pub use order::{CROSS_SCAN, Direction, Path, ScanOrder};
pub use recurrent::Gradients;
pub use sequence::{At, Decay, Sequence};
pub use sizes::{RecurrenceSizes, Resolved, resolve, sizes};
pub use steps::Steps;

use crate::Executor;

/// A map or a parameter, or a part of one that is read where it stands.
pub enum Part<'a, T> {
    /// All of it.
    All(&'a T),
    /// Of a map these channels; of a parameter these of its values, row-major.
    Range(&'a T, Range<usize>),
}

impl<'a, T> From<&'a T> for Part<'a, T> {
    fn from(whole: &'a T) -> Self {
        Part::All(whole)
    }
}

impl<'a, T> Part<'a, T> {
    /// What it is a part of.
    pub fn whole(&self) -> &'a T {
        match self {
            Part::All(whole) | Part::Range(whole, _) => whole,
        }
    }

    /// Which channels or values it is, of `available`.
    pub fn range(&self, available: usize) -> Range<usize> {
        match self {
            Part::All(_) => 0..available,
            Part::Range(_, range) => range.clone(),
        }
    }
}

impl<T> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Part::All(whole) => Part::All(whole),
            Part::Range(whole, range) => Part::Range(whole, range.clone()),
        }
    }
}

/// A recurrence: its operands, and what they do. `M` is what stands for a map of the tokens, `P` for a parameter, `S` for a
/// state: parts of an executor's own in [`RecurrenceOn`], which is what models make.
///
/// All maps have the batch, height and width of `v`. A channel `c` of `v` belongs to head `c / values`; a channel of `q`
/// and `k` to head `c / keys`. The feature map of linear attention (ELU + 1) and a factor such as `keys^-½` are applied
/// before.
///
/// ```
/// # use mila_ops::recurrence::{Delta, Gate, InputGate, Part, Shortcut};
/// # use mila_ops::{Executor, Recurrence, Result, ScanOrder};
/// /// S6 (Mamba): `projected` holds B and C behind `rank` channels that became `delta`.
/// fn s6<E: Executor>(e: &E, x: &E::Map, delta: &E::Map, projected: &E::Map, p: &Parameters<E>) -> Result<E::Map> {
///     let [b, c] = [0, 1].map(|i| p.rank + i * p.states..p.rank + (i + 1) * p.states);
///     let delta = Delta { raw: delta.into(), bias: Some((&p.dt_bias).into()) };
///     let recurrence = Recurrence {
///         gate: Gate::Factored { delta, a_log: (&p.a_log).into() },
///         input_gate: InputGate::OfGate,
///         shortcut: Shortcut::Value((&p.d).into()),
///         ..Recurrence::causal(Part::Range(projected, c), Part::Range(projected, b), x.into(), ScanOrder::ROWS)
///     };
///     Ok(e.recurrence(&recurrence)?.0)
/// }
/// # struct Parameters<E: Executor> { rank: usize, states: usize, dt_bias: E::Parameter, a_log: E::Parameter, d: E::Parameter }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrence<M, P, S> {
    /// What reads the state, `[batch, height, width, heads * keys]`: Q, or C of S6.
    pub q: M,
    /// Where values are written, `[batch, height, width, heads * keys]`: K, or B of S6.
    pub k: M,
    /// What is written, `[batch, height, width, heads * values]`: V, or x of S6.
    pub v: M,
    /// Heads, each with a state of its own; S6 has one.
    pub heads: usize,
    /// Which tokens a token sees, and in which order.
    pub course: Course,
    /// How the state decays.
    pub gate: Gate<M, P>,
    /// How much of the values is written.
    pub input_gate: InputGate<M, P>,
    /// What the output is divided by.
    pub normaliser: Normaliser,
    /// When the state is read.
    pub read: Read<P>,
    /// What is added to the output.
    pub shortcut: Shortcut<M, P>,
    /// The state before the first token, and before the first token of every segment.
    pub start: Start<S>,
    /// Which state is returned.
    pub state: StateAt,
}

/// A recurrence as an executor takes it.
pub type RecurrenceOn<'a, E> =
    Recurrence<Part<'a, <E as Executor>::Map>, Part<'a, <E as Executor>::Parameter>, &'a <E as Executor>::Map>;

impl<M, P, S> Recurrence<M, P, S> {
    /// Causal linear attention along `order`, with one head, from an empty state, and nothing else.
    pub fn causal(q: M, k: M, v: M, order: ScanOrder) -> Self {
        Self {
            q,
            k,
            v,
            heads: 1,
            course: Course::Causal(order),
            gate: Gate::None,
            input_gate: InputGate::None,
            normaliser: Normaliser::None,
            read: Read::AfterWrite,
            shortcut: Shortcut::None,
            start: Start::Zeros,
            state: StateAt::Last,
        }
    }

    /// Linear attention in which every token sees all tokens, with one head and nothing else.
    pub fn non_causal(q: M, k: M, v: M, state: NonCausal) -> Self {
        Self { course: Course::NonCausal(state), ..Self::causal(q, k, v, ScanOrder::ROWS) }
    }
}

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Those before it along an order, and itself. Tokens that the order does not visit have zero output.
    Causal(ScanOrder),
    /// All: every token reads one state. Without gate, read after the write, from an empty state.
    NonCausal(NonCausal),
}

/// The one state of a non-causal recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonCausal {
    /// `S = Σ k_jᵀ u_j`; with a normaliser `n_i = q_i · Σ k_j + tokens * eps`.
    Sum,
    /// `S = 1/tokens Σ k_jᵀ u_j`, the form of MILA; with a normaliser `n_i = q_i · 1/tokens Σ k_j + eps`.
    Mean,
}

/// The step sizes of a gate, positive by construction: `Δ = softplus(raw + bias)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta<M, P> {
    /// Before the softplus, `[batch, height, width, channels]`.
    pub raw: M,
    /// Added to every token's, `[channels]`. It belongs here rather than into the linear map before, because a step over
    /// padding has a `raw` of zero and still decays by `softplus(bias)`.
    pub bias: Option<P>,
}

/// How the state decays from token to token; no gate can make it grow. Logarithms of gates are at most 0, and an infinite
/// one clears the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate<M, P> {
    /// Not at all: `G = 1`.
    None,
    /// By a number per head, in `(0, 1]` (RetNet).
    Constant(Vec<f32>),
    /// By a number per head and token; the logarithm, `[batch, height, width, heads]` (Mamba-2).
    Scalar(M),
    /// By a vector along the keys; the logarithm, `[batch, height, width, heads * keys]` (GLA, HGRN2, RWKV-6).
    Keys(M),
    /// By a vector along the values; the logarithm, `[batch, height, width, heads * values]` (RG-LRU, HGRN).
    Values(M),
    /// By a matrix in two factors, `G[n, c] = exp(Δ_c A[c, n])` with `A = -exp(a_log)` (Mamba's S6).
    Factored {
        /// Step sizes per channel of `v`.
        delta: Delta<M, P>,
        /// `[heads * values, keys]`, as the checkpoints of the Mamba families hold it.
        a_log: P,
    },
}

/// What the values are multiplied by before they are written.
#[derive(Clone, Debug, PartialEq)]
pub enum InputGate<M, P> {
    /// Nothing.
    None,
    /// The step sizes of [`Gate::Factored`], as S6 has it.
    OfGate,
    /// Step sizes per channel of `v`.
    Channel(Delta<M, P>),
    /// Step sizes per head.
    Head(Delta<M, P>),
}

/// What the output is divided by: `n_t = q_t · z_t + eps`, where `z` sums up the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normaliser {
    /// Nothing.
    None,
    /// `z` decays as the state does: it is the recurrence of values that are all one. With [`Gate::Values`] and
    /// [`Gate::Factored`] it has a column per channel, else one per head.
    Gated {
        /// Added to the normaliser; MILA's is `1e-6`. Above 0 and finite as an f32 too.
        eps: f64,
    },
    /// `z` does not decay, as in eq. 4 of the MILA paper. It has one column per head.
    Ungated {
        /// Added to the normaliser, as that of [`Normaliser::Gated`].
        eps: f64,
    },
}

/// When the state is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Read<P> {
    /// After the token is written: it sees itself.
    AfterWrite,
    /// Before, and the token sees itself by a weight: `o_t = q_t (S_{t-1} + diag(bonus) k_tᵀ u_t)` (RWKV-6).
    BeforeWrite {
        /// `[heads * keys]`.
        bonus: P,
    },
}

/// What is added to the output: `D ⊙ x`, at the tokens that the order visits.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortcut<M, P> {
    /// Nothing.
    None,
    /// `D ⊙ v`, with `D [heads * values]`; v before the input gate.
    Value(P),
    /// `D ⊙ x` for another map.
    Map {
        /// `[heads * values]`.
        d: P,
        /// `[batch, height, width, heads * values]`.
        x: M,
    },
}

/// The state that a recurrence starts from.
///
/// A state is a map `[batch, heads, keys, values + sums]`: `sums` columns of the normaliser's `z` stand behind those of S;
/// there are none without a normaliser (see [`RecurrenceSizes::sums`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start<S> {
    /// Zero.
    Zeros,
    /// What an earlier recurrence returned.
    Carried(S),
}

/// Which state a recurrence returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAt {
    /// The last one; of a non-causal recurrence the only one.
    Last,
    /// The one after so many steps of the order; after none it is the start.
    After(usize),
}

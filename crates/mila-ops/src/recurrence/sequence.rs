//! A recurrence of numbers: what the forms compute.

use std::ops::Range;

use crate::reference::Real;

/// The operands of a recurrence along its steps, for one image: what is written and read, without normaliser and shortcut.
///
/// Rows are steps; every slice is row-major.
#[derive(Clone, Debug)]
pub struct Sequence<T> {
    /// Heads.
    pub heads: usize,
    /// Rows of a head's state.
    pub keys: usize,
    /// Columns of a head's state.
    pub values: usize,
    /// The steps of every segment; the state is set back to `start` before each.
    pub segments: Vec<Range<usize>>,
    /// `[steps, heads * keys]`.
    pub q: Vec<T>,
    /// `[steps, heads * keys]`.
    pub k: Vec<T>,
    /// What is written, after the input gate, `[steps, heads * values]`.
    pub u: Vec<T>,
    /// How the state decays.
    pub decay: Decay<T>,
    /// The weights, `[heads * keys]`, of a token in its own output, where the state is read before the write.
    pub bonus: Option<Vec<T>>,
    /// `[heads, keys, values]`.
    pub start: Vec<T>,
}

/// Logarithms of gates, at most 0.
#[derive(Clone, Debug)]
pub enum Decay<T> {
    /// All 0.
    None,
    /// `[heads]`.
    Constant(Vec<T>),
    /// `[steps, heads]`.
    Scalar(Vec<T>),
    /// `[steps, heads * keys]`.
    Keys(Vec<T>),
    /// `[steps, heads * values]`.
    Values(Vec<T>),
    /// The products of `delta [steps, heads * values]` and `a [heads * values, keys]`.
    Factored {
        /// Step sizes.
        delta: Vec<T>,
        /// Rates, below 0.
        a: Vec<T>,
    },
}

/// An element of the state.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Its head.
    pub head: usize,
    /// Its row.
    pub key: usize,
    /// Its column.
    pub value: usize,
}

impl<T: Real> Sequence<T> {
    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.k.len() / (self.heads * self.keys)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.k.is_empty()
    }

    /// Numbers in the state.
    pub fn state(&self) -> usize {
        self.heads * self.keys * self.values
    }

    /// The logarithm of the gate of an element of the state at step `t`.
    pub fn log_gate(&self, t: usize, at: At) -> T {
        let (n, c) = (self.key(at), self.value(at));
        match &self.decay {
            Decay::None => T::zero(),
            Decay::Constant(log) => log[at.head],
            Decay::Scalar(log) => log[t * self.heads + at.head],
            Decay::Keys(log) => log[t * self.heads * self.keys + n],
            Decay::Values(log) => log[t * self.heads * self.values + c],
            Decay::Factored { delta, a } => delta[t * self.heads * self.values + c] * a[c * self.keys + at.key],
        }
    }

    /// Every element of the state, in the order in which it is stored.
    pub fn elements(&self) -> impl Iterator<Item = At> + use<T> {
        let (heads, keys, values) = (self.heads, self.keys, self.values);
        let rows = (0..heads).flat_map(move |head| (0..keys).map(move |key| (head, key)));
        rows.flat_map(move |(head, key)| (0..values).map(move |value| At { head, key, value }))
    }

    /// Where an element stands in the state.
    pub fn element(&self, at: At) -> usize {
        (at.head * self.keys + at.key) * self.values + at.value
    }

    /// The channel of q and k that belongs to an element.
    pub fn key(&self, at: At) -> usize {
        at.head * self.keys + at.key
    }

    /// The channel of u and of the output that belongs to an element.
    pub fn value(&self, at: At) -> usize {
        at.head * self.values + at.value
    }

    pub(crate) fn q_at(&self, t: usize, at: At) -> T {
        self.q[t * self.heads * self.keys + self.key(at)]
    }

    pub(crate) fn k_at(&self, t: usize, at: At) -> T {
        self.k[t * self.heads * self.keys + self.key(at)]
    }

    pub(crate) fn u_at(&self, t: usize, at: At) -> T {
        self.u[t * self.heads * self.values + self.value(at)]
    }

    /// The sequence whose output is `q_t · z_t`, the normaliser without its eps: all that is written is one. Either it
    /// decays as this one does, with a column per channel where channels decay by themselves, or not at all; else it has
    /// one column per head. `start` is `z` before the first step.
    #[must_use]
    pub fn sums(&self, decays: bool, start: Vec<T>) -> Self {
        let (decay, values) = match (&self.decay, decays) {
            (_, false) => (Decay::None, 1),
            (Decay::Values(_) | Decay::Factored { .. }, true) => (self.decay.clone(), self.values),
            (_, true) => (self.decay.clone(), 1),
        };
        let u = vec![T::one(); self.len() * self.heads * values];
        Self { values, u, decay, start, ..self.clone() }
    }
}

//! The recurrence by chunks of steps: products of matrices inside a chunk, a state between chunks.

use std::ops::Range;

use super::{At, Decay, Sequence};
use crate::reference::Real;
use crate::{Error, Result};

/// Steps of a block inside a chunk. Between two blocks, the decay is taken apart at the start of the later one.
const BLOCK: usize = 16;
/// The logarithm that stands for that of zero: its exponential is zero too, and a difference of sums of it is a number.
const ZERO: f64 = -1000.0;

/// The outputs `[steps, heads * values]`, and the last state `[heads, keys, values]`, by chunks of `size` steps.
///
/// With `b_t` the sum of the logarithms of the gates of a chunk up to step t, and S_in the state before it:
///
/// ```text
/// o_t   = (q_t ⊙ e^{b_t}) S_in + Σ_{s ≤ t} (Σ_n q_tn k_sn e^{b_tn - b_sn}) u_s
/// S_out = e^{b_last} ⊙ S_in + Σ_s (k_s ⊙ e^{b_last - b_s})ᵀ u_s
/// ```
///
/// No exponent is positive.
///
/// # Errors
/// [`Error::Unsupported`] for gates along the values, which no product of matrices has; [`Error::Shape`] for chunks of 0.
pub fn forward<T: Real>(s: &Sequence<T>, size: usize) -> Result<(Vec<T>, Vec<T>)> {
    if matches!(s.decay, Decay::Values(_) | Decay::Factored { .. }) {
        let why = "its gates differ along the values".into();
        return Err(Error::Unsupported { what: "the chunked form of this recurrence".into(), why });
    }
    if size == 0 {
        return Err(Error::shape("chunked recurrence", "chunks of at least one step", 0));
    }
    let mut outputs = vec![T::zero(); s.u.len()];
    let mut state = s.start.clone();
    for segment in &s.segments {
        state.clone_from(&s.start);
        for start in segment.clone().step_by(size) {
            let chunk = start..(start + size).min(segment.end);
            for head in 0..s.heads {
                Chunk::new(s, head, chunk.clone()).pass(&mut state, &mut outputs);
            }
        }
    }
    Ok((outputs, state))
}

/// A chunk of one head.
struct Chunk<'a, T> {
    s: &'a Sequence<T>,
    head: usize,
    steps: Range<usize>,
    /// Sums of the logarithms of the gates before the chunk's first step (zero), up to it, and so on, `[steps + 1, keys]`.
    sums: Vec<T>,
}

impl<'a, T: Real> Chunk<'a, T> {
    fn new(s: &'a Sequence<T>, head: usize, steps: Range<usize>) -> Self {
        let mut sums = vec![T::zero(); s.keys];
        for t in steps.clone() {
            for key in 0..s.keys {
                let log = s.log_gate(t, At { head, key, value: 0 });
                let log = if log < T::of(ZERO) { T::of(ZERO) } else { log };
                sums.push(sums[(t - steps.start) * s.keys + key] + log);
            }
        }
        Self { s, head, steps, sums }
    }

    fn at(&self, key: usize) -> At {
        At { head: self.head, key, value: 0 }
    }

    /// The sum up to the `count`th step of the chunk.
    fn sum(&self, count: usize, key: usize) -> T {
        self.sums[count * self.s.keys + key]
    }

    /// The sum at which step `i` of the chunk reads: its own gate is not in it where it reads before the write.
    fn read(&self, i: usize, key: usize) -> T {
        self.sum(if self.s.bonus.is_none() { i + 1 } else { i }, key)
    }

    fn pass(&self, state: &mut [T], outputs: &mut [T]) {
        let (s, len) = (self.s, self.steps.len());
        let width = s.heads * s.values;
        let weights = self.weights();
        for i in 0..len {
            let t = self.steps.start + i;
            for value in 0..s.values {
                let c = self.head * s.values + value;
                let mut o = T::zero();
                for key in 0..s.keys {
                    let at = At { value, ..self.at(key) };
                    o = o + s.q_at(t, at) * self.read(i, key).exp() * state[s.element(at)];
                }
                for j in 0..=i {
                    o = o + weights[i * len + j] * s.u[(self.steps.start + j) * width + c];
                }
                outputs[t * width + c] = o;
            }
        }
        for key in 0..s.keys {
            for value in 0..s.values {
                let at = At { value, ..self.at(key) };
                let written = (0..len).map(|j| {
                    let t = self.steps.start + j;
                    s.k_at(t, at) * (self.sum(len, key) - self.sum(j + 1, key)).exp() * s.u_at(t, at)
                });
                let kept = self.sum(len, key).exp() * state[s.element(at)];
                state[s.element(at)] = kept + written.sum::<T>();
            }
        }
    }

    /// `[steps, steps]`: what each step of the chunk takes of each.
    fn weights(&self) -> Vec<T> {
        let (s, len) = (self.s, self.steps.len());
        let mut weights = vec![T::zero(); len * len];
        for first in (0..len).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(len);
            // Of the steps before this block: a product of two matrices, each with its own share of the decay.
            let scaled = |t: usize, key: usize, log: T, of: &[T]| {
                of[(self.steps.start + t) * s.heads * s.keys + s.key(self.at(key))] * log.exp()
            };
            for i in rows.clone() {
                for j in 0..first {
                    let term = |key: usize| {
                        let apart = self.sum(first, key);
                        let q = scaled(i, key, self.read(i, key) - apart, &s.q);
                        q * scaled(j, key, apart - self.sum(j + 1, key), &s.k)
                    };
                    weights[i * len + j] = (0..s.keys).map(term).sum();
                }
                for j in first..=i {
                    let term = |key: usize| {
                        let kept = match &s.bonus {
                            Some(bonus) if j == i => bonus[s.key(self.at(key))],
                            _ => (self.read(i, key) - self.sum(j + 1, key)).exp(),
                        };
                        scaled(i, key, T::zero(), &s.q) * scaled(j, key, T::zero(), &s.k) * kept
                    };
                    weights[i * len + j] = (0..s.keys).map(term).sum();
                }
            }
        }
        weights
    }
}

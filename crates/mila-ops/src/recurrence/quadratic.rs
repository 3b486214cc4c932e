//! The recurrence as the attention matrix that it implies: quadratic in the steps, and without a state.

use super::{At, Sequence};
use crate::reference::Real;

/// The outputs `[steps, heads * values]`, and the last state `[heads, keys, values]`.
///
/// ```text
/// o_t = Σ_{s ≤ t} M_ts u_s + (what is left of the start)     M_ts = Σ_n q_tn k_sn Π_{s < r ≤ t} G_rn
/// ```
pub fn forward<T: Real>(s: &Sequence<T>) -> (Vec<T>, Vec<T>) {
    let mut outputs = vec![T::zero(); s.u.len()];
    let width = s.heads * s.values;
    for head in 0..s.heads {
        for value in 0..s.values {
            let c = head * s.values + value;
            let attention = attention(s, head, value);
            for (t, weights) in attention.chunks_exact(s.len().max(1)).enumerate() {
                let seen: T = weights.iter().enumerate().map(|(j, &weight)| weight * s.u[j * width + c]).sum();
                outputs[t * width + c] = seen + from_start(s, t, head, value);
            }
        }
    }
    let mut state = s.start.clone();
    if let Some(segment) = s.segments.last().filter(|segment| !segment.is_empty()) {
        for at in s.elements() {
            let written = segment.clone().map(|j| s.k_at(j, at) * s.u_at(j, at) * product(s, j + 1..segment.end, at));
            state[s.element(at)] = written.sum::<T>() + s.start[s.element(at)] * product(s, segment.clone(), at);
        }
    }
    (outputs, state)
}

/// The matrix `[steps, steps]` by which a channel of a head attends: what is read at a row is the sum over the columns of
/// their weights times u. It is zero above the diagonal and between segments. All channels of a head share it unless they
/// decay by themselves.
pub fn attention<T: Real>(s: &Sequence<T>, head: usize, value: usize) -> Vec<T> {
    let len = s.len();
    let mut matrix = vec![T::zero(); len * len];
    for segment in &s.segments {
        for t in segment.clone() {
            for key in 0..s.keys {
                let at = At { head, key, value };
                // The sum of the logarithms of the gates between j and what t reads. Summed, not a difference of sums,
                // which would not be a number after a gate of zero.
                let mut log = T::zero();
                for j in (segment.start..=t).rev() {
                    let kept = match &s.bonus {
                        Some(bonus) if j == t => bonus[s.key(at)],
                        _ => log.exp(),
                    };
                    matrix[t * len + j] = matrix[t * len + j] + s.q_at(t, at) * s.k_at(j, at) * kept;
                    if s.bonus.is_none() || j < t {
                        log = log + s.log_gate(j, at);
                    }
                }
            }
        }
    }
    matrix
}

fn from_start<T: Real>(s: &Sequence<T>, t: usize, head: usize, value: usize) -> T {
    let first = s.segments.iter().rev().find(|segment| segment.start <= t).map_or(0, |segment| segment.start);
    let end = if s.bonus.is_none() { t + 1 } else { t };
    let key = |key: usize| {
        let at = At { head, key, value };
        s.q_at(t, at) * s.start[s.element(at)] * product(s, first..end, at)
    };
    (0..s.keys).map(key).sum()
}

fn product<T: Real>(s: &Sequence<T>, steps: std::ops::Range<usize>, at: At) -> T {
    steps.map(|r| s.log_gate(r, at)).sum::<T>().exp()
}

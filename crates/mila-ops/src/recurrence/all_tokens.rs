//! The non-causal recurrence: one state for all tokens.

use super::{Decay, Gradients, NonCausal, Sequence};
use crate::reference::Real;

/// The outputs `q_t S` `[steps, heads * values]`, and the state `[heads, keys, values]`, the sum or mean of `k_tᵀ u_t`.
///
/// There is one segment; decay, bonus and start of `s` are not looked at.
pub fn forward<T: Real>(s: &Sequence<T>, form: NonCausal) -> (Vec<T>, Vec<T>) {
    let share = share(s, form);
    let element = |at| (0..s.len()).map(|t| s.k_at(t, at) * s.u_at(t, at)).sum::<T>() * share;
    let state: Vec<T> = s.elements().map(element).collect();
    let mut outputs = vec![T::zero(); s.u.len()];
    for t in 0..s.len() {
        for at in s.elements() {
            let o = &mut outputs[t * s.heads * s.values + s.value(at)];
            *o = *o + s.q_at(t, at) * state[s.element(at)];
        }
    }
    (outputs, state)
}

/// The gradients for the cotangents of the outputs and of the state:
///
/// ```text
/// S̄ = S̄ + Σ q_tᵀ ō_t     q̄_t = S ō_t     k̄_t = share S̄ u_t     ū_t = share S̄ᵀ k_t
/// ```
pub fn backward<T: Real>(s: &Sequence<T>, form: NonCausal, outputs: &[T], state: &[T]) -> Gradients<T> {
    let share = share(s, form);
    let (_, kv) = forward(s, form);
    let o_at = |t: usize, at| outputs[t * s.heads * s.values + s.value(at)];
    let sbar = |at| state[s.element(at)] + (0..s.len()).map(|t| s.q_at(t, at) * o_at(t, at)).sum::<T>();
    let sbar: Vec<T> = s.elements().map(sbar).collect();
    let zeros = |x: &[T]| vec![T::zero(); x.len()];
    let (mut q, mut k, mut u) = (zeros(&s.q), zeros(&s.k), zeros(&s.u));
    for t in 0..s.len() {
        for at in s.elements() {
            let i = s.element(at);
            let (row, column) = (t * s.heads * s.keys + s.key(at), t * s.heads * s.values + s.value(at));
            q[row] = q[row] + kv[i] * outputs[column];
            k[row] = k[row] + share * sbar[i] * s.u[column];
            u[column] = u[column] + share * sbar[i] * s.k[row];
        }
    }
    let bonus = vec![T::zero(); s.heads * s.keys];
    Gradients { q, k, u, decay: Decay::None, bonus, start: zeros(&s.start) }
}

fn share<T: Real>(s: &Sequence<T>, form: NonCausal) -> T {
    match form {
        NonCausal::Sum => T::one(),
        NonCausal::Mean => T::of(s.len() as f64).recip(),
    }
}

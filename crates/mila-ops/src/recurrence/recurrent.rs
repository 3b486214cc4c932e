//! The recurrence step by step: its definition, and its gradients.

use super::{Decay, Sequence};
use crate::reference::Real;

/// The outputs `[steps, heads * values]`, and the state `[heads, keys, values]` after `until` steps.
pub fn forward<T: Real>(s: &Sequence<T>, until: usize) -> (Vec<T>, Vec<T>) {
    let mut outputs = vec![T::zero(); s.u.len()];
    let states = states(s, |t, before, after| {
        let o = &mut outputs[t * s.heads * s.values..][..s.heads * s.values];
        for at in s.elements() {
            let c = s.value(at);
            let seen = match &s.bonus {
                None => after[s.element(at)],
                Some(bonus) => before[s.element(at)] + bonus[s.key(at)] * s.k_at(t, at) * s.u_at(t, at),
            };
            o[c] = o[c] + s.q_at(t, at) * seen;
        }
    });
    let state = if until == 0 { s.start.clone() } else { states[until - 1].clone() };
    (outputs, state)
}

/// The state after every step; `seen` is told of each step, the state before it and the state after it.
fn states<T: Real>(s: &Sequence<T>, mut seen: impl FnMut(usize, &[T], &[T])) -> Vec<Vec<T>> {
    let mut states: Vec<Vec<T>> = Vec::with_capacity(s.len());
    for segment in &s.segments {
        let mut state = s.start.clone();
        for t in segment.clone() {
            let before = state.clone();
            for at in s.elements() {
                let i = s.element(at);
                state[i] = s.log_gate(t, at).exp() * before[i] + s.k_at(t, at) * s.u_at(t, at);
            }
            seen(t, &before, &state);
            states.push(state.clone());
        }
    }
    states
}

/// Gradients with respect to the operands of a [`Sequence`], in their shapes.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    /// Of q.
    pub q: Vec<T>,
    /// Of k.
    pub k: Vec<T>,
    /// Of u.
    pub u: Vec<T>,
    /// Of the logarithms of the gates, or of their factors.
    pub decay: Decay<T>,
    /// Of the bonus; zeros without one.
    pub bonus: Vec<T>,
    /// Of the start.
    pub start: Vec<T>,
}

/// The gradients for `outputs`, the cotangent of the outputs, and `state`, that of the state after `until` steps.
///
/// The adjoint is the same recurrence from the end: with `S̄_t` the cotangent of `S_t`, all later uses included,
///
/// ```text
/// S̄_t = q_tᵀ ō_t + G_{t+1} ⊙ S̄_{t+1}
/// q̄_t = S_t ō_t     k̄_t = S̄_t u_t     ū_t = S̄_tᵀ k_t     ḡ_t = S̄_t ⊙ G_t ⊙ S_{t-1}  (of log G_t)
/// ```
///
/// and, where the state is read before the write with a bonus b, `S̄_{t-1} = G_t ⊙ S̄_t + q_tᵀ ō_t` and
///
/// ```text
/// q̄_t = S_{t-1} ō_t + b ⊙ k_t (u_t · ō_t)     k̄_t = S̄_t u_t + b ⊙ q_t (u_t · ō_t)
/// ū_t = S̄_tᵀ k_t + (Σ q_t ⊙ b ⊙ k_t) ō_t      b̄ = Σ_t q_t ⊙ k_t (u_t · ō_t)
/// ```
pub fn backward<T: Real>(s: &Sequence<T>, outputs: &[T], state: &[T], until: usize) -> Gradients<T> {
    let zeros = |x: &[T]| vec![T::zero(); x.len()];
    let mut g = Gradients {
        q: zeros(&s.q),
        k: zeros(&s.k),
        u: zeros(&s.u),
        decay: zero_decay(&s.decay),
        bonus: vec![T::zero(); s.heads * s.keys],
        start: if until == 0 { state.to_vec() } else { zeros(&s.start) },
    };
    let states = states(s, |_, _, _| ());
    for segment in s.segments.iter().rev() {
        // G_{t+1} ⊙ S̄_{t+1}, and what a read before the write of t + 1 adds to it.
        let mut later = vec![T::zero(); s.state()];
        for t in segment.clone().rev() {
            let before = if t == segment.start { &s.start } else { &states[t - 1] };
            for at in s.elements() {
                let i = s.element(at);
                let (row, column) = (t * s.heads * s.keys + s.key(at), t * s.heads * s.values + s.value(at));
                let (q, k, u, o) = (s.q[row], s.k[row], s.u[column], outputs[column]);
                let gate = s.log_gate(t, at).exp();
                let last = if t + 1 == until { state[i] } else { T::zero() };
                let sbar = later[i] + last + if s.bonus.is_none() { q * o } else { T::zero() };
                g.k[row] = g.k[row] + sbar * u;
                g.u[column] = g.u[column] + sbar * k;
                match &s.bonus {
                    None => g.q[row] = g.q[row] + states[t][i] * o,
                    Some(bonus) => {
                        let b = bonus[s.key(at)];
                        g.q[row] = g.q[row] + before[i] * o + b * k * u * o;
                        g.k[row] = g.k[row] + b * q * u * o;
                        g.u[column] = g.u[column] + b * q * k * o;
                        g.bonus[s.key(at)] = g.bonus[s.key(at)] + q * k * u * o;
                    }
                }
                add_decay(s, &mut g.decay, t, at, sbar * gate * before[i]);
                later[i] = gate * sbar + if s.bonus.is_none() { T::zero() } else { q * o };
            }
        }
        g.start.iter_mut().zip(&later).for_each(|(start, &later)| *start = *start + later);
    }
    g
}

fn zero_decay<T: Real>(decay: &Decay<T>) -> Decay<T> {
    let zeros = |x: &[T]| vec![T::zero(); x.len()];
    match decay {
        Decay::None => Decay::None,
        Decay::Constant(log) => Decay::Constant(zeros(log)),
        Decay::Scalar(log) => Decay::Scalar(zeros(log)),
        Decay::Keys(log) => Decay::Keys(zeros(log)),
        Decay::Values(log) => Decay::Values(zeros(log)),
        Decay::Factored { delta, a } => Decay::Factored { delta: zeros(delta), a: zeros(a) },
    }
}

/// Adds the gradient of one element's log-gate to that of what it is made of.
fn add_decay<T: Real>(s: &Sequence<T>, gradient: &mut Decay<T>, t: usize, at: super::At, of_log: T) {
    let (n, c) = (s.key(at), s.value(at));
    let add = |x: &mut T, y: T| *x = *x + y;
    match (gradient, &s.decay) {
        (Decay::Constant(g), _) => add(&mut g[at.head], of_log),
        (Decay::Scalar(g), _) => add(&mut g[t * s.heads + at.head], of_log),
        (Decay::Keys(g), _) => add(&mut g[t * s.heads * s.keys + n], of_log),
        (Decay::Values(g), _) => add(&mut g[t * s.heads * s.values + c], of_log),
        (Decay::Factored { delta: gd, a: ga }, Decay::Factored { delta, a }) => {
            let (d, r) = (t * s.heads * s.values + c, c * s.keys + at.key);
            add(&mut gd[d], of_log * a[r]);
            add(&mut ga[r], of_log * delta[d]);
        }
        _ => {}
    }
}

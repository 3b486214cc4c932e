//! The recurrence as a scan with an associative operation, which can be computed in logarithmic depth.

use super::Sequence;
use crate::reference::Real;

/// A map of states, `S -> gate ⊙ S + written`.
#[derive(Clone)]
struct Step<T> {
    gate: Vec<T>,
    written: Vec<T>,
}

impl<T: Real> Step<T> {
    /// `self`, then `later`: `(a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂)`.
    fn then(&self, later: &Self) -> Self {
        let pairs = || later.gate.iter().zip(&self.gate);
        let written = later.gate.iter().zip(&self.written).zip(&later.written);
        Self {
            gate: pairs().map(|(&a2, &a1)| a2 * a1).collect(),
            written: written.map(|((&a2, &b1), &b2)| a2 * b1 + b2).collect(),
        }
    }
}

/// The outputs `[steps, heads * values]`, and the last state `[heads, keys, values]`.
pub fn forward<T: Real>(s: &Sequence<T>) -> (Vec<T>, Vec<T>) {
    let mut steps: Vec<Step<T>> = Vec::with_capacity(s.len());
    for segment in &s.segments {
        for t in segment.clone() {
            let mut step = Step {
                gate: s.elements().map(|at| s.log_gate(t, at).exp()).collect(),
                written: s.elements().map(|at| s.k_at(t, at) * s.u_at(t, at)).collect(),
            };
            if t == segment.start {
                // A segment forgets what was before it and begins from the start.
                for i in 0..s.state() {
                    step.written[i] = step.gate[i] * s.start[i] + step.written[i];
                    step.gate[i] = T::zero();
                }
            }
            steps.push(step);
        }
    }
    scan(&mut steps);
    let mut outputs = vec![T::zero(); s.u.len()];
    for segment in &s.segments {
        for t in segment.clone() {
            for at in s.elements() {
                let i = s.element(at);
                let seen = match &s.bonus {
                    None => steps[t].written[i],
                    Some(bonus) => {
                        let before = if t == segment.start { s.start[i] } else { steps[t - 1].written[i] };
                        before + bonus[s.key(at)] * s.k_at(t, at) * s.u_at(t, at)
                    }
                };
                let o = &mut outputs[t * s.heads * s.values + s.value(at)];
                *o = *o + s.q_at(t, at) * seen;
            }
        }
    }
    (outputs, steps.pop().map_or_else(|| s.start.clone(), |last| last.written))
}

/// Replaces every step by the composition of all up to it: both halves by themselves, then the first half's last before
/// each of the second.
fn scan<T: Real>(steps: &mut [Step<T>]) {
    if steps.len() < 2 {
        return;
    }
    let (first, second) = steps.split_at_mut(steps.len() / 2);
    scan(first);
    scan(second);
    let Some(before) = first.last() else { return };
    second.iter_mut().for_each(|step| *step = before.then(step));
}

//! The gradients of the recurrence.
//!
//! With ō the cotangent of what is read and S̄_t that of the state, all later uses included, from the last step to the first:
//!
//! ```text
//! S̄_t = q_tᵀ ō_t + G_{t+1} ⊙ S̄_{t+1}
//! q̄_t = S_t ō_t     k̄_t = S̄_t u_t     ū_t = S̄_tᵀ k_t     (log G_t)¯ = S̄_t ⊙ G_t ⊙ S_{t-1}
//! ```
//!
//! and for a read before the write with the bonus b, S̄_{t-1} = G_t ⊙ S̄_t + q_tᵀ ō_t, q̄_t = S_{t-1} ō_t + b ⊙ k_t (u_t · ō_t),
//! k̄_t = S̄_t u_t + b ⊙ q_t (u_t · ō_t), ū_t = S̄_tᵀ k_t + (Σ q_t ⊙ b ⊙ k_t) ō_t, b̄ = Σ_t q_t ⊙ k_t (u_t · ō_t).
//!
//! Sums over the columns of a head (q̄, k̄, gates along the keys) are partial by block, and added up in the order of the blocks.

mod adjoint;
mod back;
mod chain;
mod shared;
mod sums;
mod through_normaliser;
mod totals;

use super::{Decay, Input, Normaliser, Recurrence, Rows, block::Core, normaliser::Normalisers};
use crate::isa::Isa;
use totals::{Cotangents, Totals};

/// Where [`backward`] writes its results; what an operand does not exist for is empty.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[rows, stride]`, the layout of the map that all rows of the recurrence are parts of; no two of them overlap, unless
    /// the shortcut's rows are those of v.
    pub map: &'a mut [f32],
    /// Of the bias of the decay's step sizes, `[heads * values]`.
    pub decay_bias: &'a mut [f32],
    /// `[heads, values, keys]`.
    pub a_log: &'a mut [f32],
    /// Of the bias of the input gate's own step sizes, `[heads * values]` or `[heads]`.
    pub input_bias: &'a mut [f32],
    /// `[heads, keys]`.
    pub bonus: &'a mut [f32],
    /// D, `[heads * values]`.
    pub d: &'a mut [f32],
    /// `[batch, heads, keys, values + sums]`.
    pub start: &'a mut [f32],
}

/// Writes the gradients of [`forward`](super::forward) of one recurrence for `dy`, the cotangent of the output, and `dstates`,
/// that of the states.
///
/// # Panics
/// If a length does not fit, or the rows are not parts of maps of one stride.
pub fn backward(isa: Isa, r: &Recurrence<'_>, dy: &[f32], dstates: &[f32], gradients: &mut Gradients<'_>) {
    r.check();
    assert_eq!(dy.len(), r.rows() * r.channels(), "recurrence: length of dy");
    assert_eq!(dstates.len(), r.state_len(), "recurrence: length of the states' cotangent");
    assert_eq!(gradients.map.len(), r.rows() * r.q.stride, "recurrence: length of the map's gradient");
    assert_eq!(gradients.start.len(), r.start.map_or(0, <[f32]>::len), "recurrence: length of the start's gradient");
    check_map(r);
    check_parameters(r, gradients);
    gradients.map.fill(0.0);
    gradients.start.fill(0.0);
    let values = Core::of_values(isa, r);
    let mut totals = Totals::new(r);
    let outputs = Rows { values: dy, stride: r.channels(), first: 0 };
    if r.normaliser == Normaliser::None {
        totals.add(isa, &values, Cotangents { dy, outputs, dstates, normalisers: None }, gradients);
    } else {
        let normalisers = Normalisers::new(isa, r, None);
        let mut of_normalisers = vec![0.0; r.rows() * r.heads * r.sums()];
        let both = Some((&normalisers, &mut of_normalisers[..]));
        totals.add(isa, &values, Cotangents { dy, outputs, dstates, normalisers: both }, gradients);
        let sums = Core::of_sums(isa, r);
        if sums.is_one_sum() {
            totals.add_sums(isa, &sums, &of_normalisers, dstates, gradients);
        } else {
            let outputs = Rows { values: &of_normalisers, stride: sums.channels(), first: 0 };
            totals.add(isa, &sums, Cotangents { dy, outputs, dstates, normalisers: None }, gradients);
        }
    }
    totals.write(gradients);
}

/// Panics unless the gradients of the parameters are as long as these.
fn check_parameters(r: &Recurrence<'_>, gradients: &Gradients<'_>) {
    let len = |of: Option<&[f32]>| of.map_or(0, <[f32]>::len);
    let (decay_bias, a_log) = match r.decay {
        Decay::Factored { delta, a_log } => (len(delta.bias), a_log.len()),
        _ => (0, 0),
    };
    let input_bias = match r.input {
        Input::Channel(delta) | Input::Head(delta) => len(delta.bias),
        Input::None | Input::OfDecay => 0,
    };
    let wanted = [decay_bias, a_log, input_bias, len(r.bonus), len(r.shortcut.map(|(d, _)| d))];
    let Gradients { decay_bias, a_log, input_bias, bonus, d, .. } = gradients;
    let found = [decay_bias, a_log, input_bias, bonus, d].map(|of| of.len());
    assert_eq!(found, wanted, "recurrence: lengths of the gradients of biases, A, bonus and D");
}

/// Panics unless all rows are parts of maps of one stride, and those that several threads write share no channel.
fn check_map(r: &Recurrence<'_>) {
    let (keys, values) = (r.heads * r.keys, r.heads * r.values);
    let mut parts = vec![(r.q, keys), (r.k, keys), (r.v, values)];
    match r.decay {
        Decay::None | Decay::Constant(_) => {}
        Decay::Scalar(log) => parts.push((log, r.heads)),
        Decay::Keys(log) => parts.push((log, keys)),
        Decay::Values(log) => parts.push((log, values)),
        Decay::Factored { delta, .. } => parts.push((delta.raw, values)),
    }
    match r.input {
        Input::None | Input::OfDecay => {}
        Input::Channel(delta) => parts.push((delta.raw, values)),
        Input::Head(delta) => parts.push((delta.raw, r.heads)),
    }
    // The shortcut's rows may be those of v, whose blocks are the same.
    parts.extend(r.shortcut.map(|(_, x)| (x, values)).filter(|(x, _)| x.first != r.v.first));
    parts.sort_by_key(|(rows, _)| rows.first);
    for pair in parts.windows(2) {
        let [(a, width), (b, _)] = [pair[0], pair[1]];
        assert_eq!(a.stride, b.stride, "recurrence: strides of a gradient's parts");
        assert!(a.first + width <= b.first, "recurrence: parts of a gradient overlap");
    }
}

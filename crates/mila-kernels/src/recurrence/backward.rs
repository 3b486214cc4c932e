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
mod chain;
mod totals;

use super::{
    Decay, Input, Normaliser, Recurrence, Rows,
    block::Core,
    forward::{Pass, clear},
    normaliser::Normalisers,
};
use crate::{columns::Columns, isa::Isa, threads};
use totals::Totals;

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
    gradients.map.fill(0.0);
    gradients.start.fill(0.0);
    let values = Core::of_values(isa, r);
    let mut totals = Totals::new(r);
    if r.normaliser == Normaliser::None {
        let outputs = Rows { values: dy, stride: r.channels(), first: 0 };
        totals.add(isa, &values, dy, outputs, dstates, gradients);
    } else {
        let (outputs, normalisers) = through_normaliser(isa, &values, dy);
        let rows = |values, stride| Rows { values, stride, first: 0 };
        totals.add(isa, &values, dy, rows(&outputs, r.channels()), dstates, gradients);
        let sums = Core::of_sums(isa, r);
        totals.add(isa, &sums, dy, rows(&normalisers, sums.channels()), dstates, gradients);
    }
    totals.write(gradients);
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

/// The cotangents of what is read and of its normalisers: ō = ȳ / n, and n̄ = −ō · o / n over the columns that share n.
fn through_normaliser(isa: Isa, core: &Core<'_>, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let r = core.r;
    let normalisers = Normalisers::new(isa, r, None);
    let mut outputs = vec![0.0; dy.len()];
    let y = Columns::new(&mut outputs, core.channels());
    threads::each(core.blocks(), |_, block| {
        clear(core, block, y);
        Pass { isa, core, normalisers: None, block, y, states: None }.run();
    });
    let mut of_normalisers = vec![0.0; normalisers.values.len()];
    let (per_row, channels) = (r.heads * r.sums(), core.channels());
    let shared = r.values / r.sums();
    let size = threads::piece_rows(channels);
    let pieces = outputs.chunks_mut(size * channels).zip(of_normalisers.chunks_mut(size * per_row));
    threads::each(pieces, |piece, (outputs, of_normalisers)| {
        let dy = &dy[piece * size * channels..];
        let n = &normalisers.values[piece * size * per_row..];
        for (i, (o, dy)) in outputs.iter_mut().zip(dy).enumerate() {
            let n = n[i / shared];
            let cotangent = dy / n;
            of_normalisers[i / shared] -= cotangent * *o / n;
            *o = cotangent;
        }
    });
    (outputs, of_normalisers)
}

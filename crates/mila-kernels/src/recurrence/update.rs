//! One step of the state.

use super::{
    Decay,
    block::{Block, Core},
    stage::Stage,
};
use crate::{arithmetic::Arithmetic, math};

/// Takes step `t` of a chunk: the state `s`, `[keys, width]`, becomes the next one, and `o`, `[width]`, is what is read.
#[inline(always)]
pub(super) fn advance<A: Arithmetic>(
    core: &Core<'_>,
    block: Block,
    stage: &Stage<'_>,
    t: usize,
    s: &mut [f32],
    o: &mut [f32],
) {
    let (keys, width) = (core.r.keys, block.width);
    let u = &stage.u[t * width..][..width];
    let along = &stage.along[t * width..][..width];
    o.fill(0.0);
    for (n, s) in s.chunks_exact_mut(width).enumerate() {
        let (q, k) = (stage.q[t * keys + n], stage.k[t * keys + n]);
        let bonus = core.r.bonus.map(|bonus| bonus[block.head * keys + n]);
        match core.decay {
            Decay::Values(_) => row::<A>(Along(along), bonus, (q, k), u, s, o),
            Decay::Factored { .. } => {
                let rates = &core.rates[(block.head * keys + n) * core.r.values + block.first..][..width];
                row::<A>(Power { delta: along, rates }, bonus, (q, k), u, s, o);
            }
            _ => row::<A>(Even(stage.even[t * keys + n]), bonus, (q, k), u, s, o),
        }
    }
}

/// Writes the gates of row `n` of the state at step `t` of a chunk.
#[inline(always)]
pub(super) fn gates<A: Arithmetic>(
    core: &Core<'_>,
    block: Block,
    stage: &Stage<'_>,
    (t, n): (usize, usize),
    g: &mut [f32],
) {
    let (keys, width) = (core.r.keys, block.width);
    let along = &stage.along[t * width..][..width];
    match core.decay {
        Decay::Values(_) => g.copy_from_slice(along),
        Decay::Factored { .. } => {
            let rates = &core.rates[(block.head * keys + n) * core.r.values + block.first..][..width];
            for ((g, delta), rate) in g.iter_mut().zip(along).zip(rates) {
                *g = math::exp2_decay::<A>(delta * rate);
            }
        }
        _ => g.fill(stage.even[t * keys + n]),
    }
}

/// A gate of every column. A trait and no closure, which might be compiled for itself, without the instruction set.
trait Gate {
    fn at<A: Arithmetic>(&self, column: usize) -> f32;
}

/// One for all.
struct Even(f32);
/// One for each.
struct Along<'a>(&'a [f32]);
/// 2 to the power of a product.
struct Power<'a> {
    delta: &'a [f32],
    rates: &'a [f32],
}

impl Gate for Even {
    #[inline(always)]
    fn at<A: Arithmetic>(&self, _: usize) -> f32 {
        self.0
    }
}

impl Gate for Along<'_> {
    #[inline(always)]
    fn at<A: Arithmetic>(&self, column: usize) -> f32 {
        self.0[column]
    }
}

impl Gate for Power<'_> {
    #[inline(always)]
    fn at<A: Arithmetic>(&self, column: usize) -> f32 {
        math::exp2_decay::<A>(self.delta[column] * self.rates[column])
    }
}

/// One row of the state: s = g s + k u; o += q s, or q (s + bonus k u) of the state before.
#[inline(always)]
fn row<A: Arithmetic>(
    gate: impl Gate,
    bonus: Option<f32>,
    (q, k): (f32, f32),
    u: &[f32],
    s: &mut [f32],
    o: &mut [f32],
) {
    // Lengths that the compiler knows to be equal.
    let (s, o) = (&mut s[..u.len()], &mut o[..u.len()]);
    match bonus {
        None => {
            for c in 0..u.len() {
                s[c] = A::mul_add(gate.at::<A>(c), s[c], k * u[c]);
                o[c] = A::mul_add(q, s[c], o[c]);
            }
        }
        Some(bonus) => {
            for c in 0..u.len() {
                let written = k * u[c];
                o[c] = A::mul_add(q, A::mul_add(bonus, written, s[c]), o[c]);
                s[c] = A::mul_add(gate.at::<A>(c), s[c], written);
            }
        }
    }
}

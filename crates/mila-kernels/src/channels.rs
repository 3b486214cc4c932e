//! Some of a map's channels taken out, put side by side with others, or gated by the ones before them.

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    threads,
};

/// `y` = the channels `range` of every token of `x`, `[tokens, channels]`.
///
/// # Panics
/// If a length does not fit.
pub fn take(x: &[f32], channels: usize, range: Range<usize>, y: &mut [f32]) {
    assert!(range.start < range.end && range.end <= channels, "channels: {range:?} of {channels}");
    assert!(x.len().is_multiple_of(channels), "channels: x is tokens of {channels} channels");
    assert_eq!(y.len(), x.len() / channels * range.len(), "channels: lengths of x and y");
    let rows = threads::piece_rows(range.len());
    threads::chunks(y, rows * range.len(), |index, y| {
        let x = &x[index * rows * channels..];
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(range.len())) {
            y.copy_from_slice(&x[range.clone()]);
        }
    });
}

/// `y` = the channels of every token of `a`, then those of `b`; `widths` are how many each has.
///
/// # Panics
/// If a length does not fit.
pub fn join([a, b]: [&[f32]; 2], widths: [usize; 2], y: &mut [f32]) {
    let width = widths[0] + widths[1];
    assert!(widths[0] > 0 && widths[1] > 0, "channels: {widths:?} to join");
    assert!(y.len().is_multiple_of(width), "channels: y is tokens of {width} channels");
    assert_eq!(a.len(), y.len() / width * widths[0], "channels: lengths of a and y");
    assert_eq!(b.len(), y.len() / width * widths[1], "channels: lengths of b and y");
    let rows = threads::piece_rows(width);
    threads::chunks(y, rows * width, |index, y| {
        let [a, b] = [(a, widths[0]), (b, widths[1])].map(|(x, width)| x[index * rows * width..].chunks_exact(width));
        for ((a, b), y) in a.zip(b).zip(y.chunks_exact_mut(width)) {
            let (first, second) = y.split_at_mut(widths[0]);
            first.copy_from_slice(a);
            second.copy_from_slice(b);
        }
    });
}

/// Replaces the first half of every token of `x`, `[g | i | c]`, by `activation(g) ⊙ [i | local]`.
///
/// A token of `x` has twice `hidden` floats, one of `local` at most `hidden`; the second half stays as it is.
///
/// # Panics
/// If a length does not fit.
pub fn gate(isa: Isa, x: &mut [f32], hidden: usize, local: &[f32], activation: Activation) {
    assert!(hidden > 0 && x.len().is_multiple_of(2 * hidden), "gate: x is tokens of twice {hidden} floats");
    let tokens = x.len() / (2 * hidden);
    assert!(local.len().is_multiple_of(tokens.max(1)), "gate: tokens of the local channels");
    let width = local.len() / tokens.max(1);
    assert!(width <= hidden, "gate: {width} local channels of {hidden}");
    let rows = threads::piece_rows(2 * hidden);
    threads::chunks(x, rows * 2 * hidden, |index, x| {
        let local = &local[index * rows * width..][..x.len() / (2 * hidden) * width];
        isa.run(Gate { x, hidden, local, width, activation });
    });
}

struct Gate<'a> {
    x: &'a mut [f32],
    hidden: usize,
    local: &'a [f32],
    width: usize,
    activation: Activation,
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Gate { x, hidden, local, width, activation } = self;
        let kept = hidden - width;
        for (token, x) in x.chunks_exact_mut(2 * hidden).enumerate() {
            let (gate, rest) = x.split_at_mut(hidden);
            activation.finish::<A>(gate);
            let (first, second) = gate.split_at_mut(kept);
            first.iter_mut().zip(&*rest).for_each(|(gate, x)| *gate *= x);
            second.iter_mut().zip(&local[token * width..][..width]).for_each(|(gate, x)| *gate *= x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, numbers, unwritten, wide};

    const SHAPES: [(usize, usize, usize); 5] = [(0, 5, 2), (1, 1, 1), (7, 24, 9), (197, 341, 128), (4000, 20, 7)];

    #[test]
    fn parts_are_where_they_were() {
        for (tokens, channels, at) in SHAPES {
            let x = numbers(1, tokens * channels);
            everywhere(
                |_| {
                    let mut first = unwritten(tokens * at);
                    take(&x, channels, 0..at, &mut first);
                    if at == channels {
                        return vec![first];
                    }
                    let mut second = unwritten(tokens * (channels - at));
                    take(&x, channels, at..channels, &mut second);
                    let mut joined = unwritten(x.len());
                    join([&first, &second], [at, channels - at], &mut joined);
                    vec![joined]
                },
                |isa, y| assert!(y[0] == x, "{isa}: {tokens} tokens of {at} of {channels} channels"),
            );
        }
    }

    #[test]
    fn gates_are_the_definition() {
        for (tokens, hidden, width) in SHAPES {
            let (x, local) = (numbers(1, tokens * 2 * hidden), numbers(2, tokens * width));
            let wanted = x.chunks_exact(2 * hidden).zip(local.chunks_exact(width)).flat_map(|(x, local)| {
                let (gate, rest) = x.split_at(hidden);
                let other = rest[..hidden - width].iter().chain(local);
                let gelu = |x: f64| 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
                let pairs = gate.iter().zip(other).map(move |(&g, &o)| (gelu(f64::from(g)) * f64::from(o)) as f32);
                pairs.chain(rest.iter().copied()).collect::<Vec<f32>>()
            });
            let wanted = wide(&wanted.collect::<Vec<f32>>());
            everywhere(
                |isa| {
                    let mut y = x.clone();
                    gate(isa, &mut y, hidden, &local, Activation::Gelu);
                    vec![y]
                },
                |isa, y| assert_close(format!("{isa} {tokens}x{hidden}"), &y[0], &wanted, 1e-6),
            );
        }
    }
}

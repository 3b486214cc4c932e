//! Batch normalisation: y = (x - mean) / sqrt(variance + eps) · weight + bias, per channel.
//!
//! In training the mean and the biased variance are those of the batch; in evaluation they are constants. Sums run over
//! at most a few hundred rows in f32 and over those partial sums in f64; the variance is the mean of squares about the
//! mean.

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    linear, threads,
};

/// What a channel's values are normalised by, `[channels]` each.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    /// The mean.
    pub mean: &'a [f32],
    /// The biased variance.
    pub variance: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl Statistics<'_> {
    /// 1 / sqrt(variance + eps).
    fn scale(&self) -> Vec<f32> {
        self.variance.iter().map(|variance| 1.0 / (variance + self.eps).sqrt()).collect()
    }
}

/// The statistics of a batch, `[channels]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// The mean.
    pub mean: Vec<f32>,
    /// The mean square about the mean, which normalises the batch.
    pub variance: Vec<f32>,
    /// The sum of squares about the mean divided by the rows less one, which the running variance takes. It is NaN for
    /// one row and infinite or NaN for none.
    pub unbiased_variance: Vec<f32>,
}

impl BatchStatistics {
    /// The statistics that normalised the batch.
    pub fn with_eps(&self, eps: f32) -> Statistics<'_> {
        Statistics { mean: &self.mean, variance: &self.variance, eps }
    }
}

/// The statistics of `x`, `[rows, channels]`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn statistics(isa: Isa, x: &[f32], channels: usize) -> BatchStatistics {
    let size = piece(x, channels);
    let rows = (x.len() / channels.max(1)) as f64;
    let mean: Vec<f32> = linear::column_sums(x, channels).iter().map(|sum| (sum / rows) as f32).collect();
    let squares = threads::sum(channels, x.chunks(size), |_, x, sums| isa.run(Squares { x, mean: &mean, sums }));
    BatchStatistics {
        mean,
        variance: squares.iter().map(|sum| (sum / rows) as f32).collect(),
        unbiased_variance: squares.iter().map(|sum| (sum / (rows - 1.0)) as f32).collect(),
    }
}

/// Normalises `x`, `[rows, channels]`, into `y` by constant statistics; `weight` and `bias` are `[channels]`.
///
/// A training step takes the statistics from [`statistics`] first.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], statistics: Statistics<'_>, weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let size = piece(x, weight.len());
    check(statistics, weight.len(), bias.len());
    assert_eq!(x.len(), y.len(), "batch norm: lengths of x and y");
    let scale: Vec<f32> = statistics.scale().iter().zip(weight).map(|(scale, weight)| scale * weight).collect();
    threads::each(x.chunks(size).zip(y.chunks_mut(size)), |_, (x, y)| {
        isa.run(Forward { x, mean: statistics.mean, scale: &scale, bias, y });
    });
}

/// Whether the statistics depend on `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They are those of the batch, and their gradients reach `x`.
    Train,
    /// They are constants.
    Evaluate,
}

/// Where [`backward`] writes its results.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[rows, channels]`.
    pub x: &'a mut [f32],
    /// `[channels]`.
    pub weight: &'a mut [f32],
    /// `[channels]`.
    pub bias: &'a mut [f32],
}

/// The gradients of [`forward`] at `x` for `dy`, both `[rows, channels]`.
///
/// With x̂ the normalised x: dweight = Σ dy x̂, dbias = Σ dy, and dx = (dy - dbias/rows - x̂ dweight/rows) · weight /
/// sqrt(variance + eps), without the two means in [`Mode::Evaluate`].
///
/// # Panics
/// If a length does not fit.
pub fn backward(
    isa: Isa,
    mode: Mode,
    x: &[f32],
    statistics: Statistics<'_>,
    weight: &[f32],
    dy: &[f32],
    gradients: Gradients<'_>,
) {
    let channels = weight.len();
    let size = piece(x, channels);
    check(statistics, channels, gradients.bias.len());
    assert_eq!(x.len(), dy.len(), "batch norm: lengths of x and dy");
    assert_eq!(x.len(), gradients.x.len(), "batch norm: lengths of x and dx");
    assert_eq!(gradients.weight.len(), channels, "batch norm: length of dweight");
    let scale = statistics.scale();
    let mean = statistics.mean;
    let sums = threads::sum(2 * channels, x.chunks(size).zip(dy.chunks(size)), |_, (x, dy), sums| {
        let (dweight, dbias) = sums.split_at_mut(channels);
        isa.run(ParameterSums { x, mean, scale: &scale, dy, dweight, dbias });
    });
    threads::narrow(&sums[..channels], gradients.weight);
    threads::narrow(&sums[channels..], gradients.bias);

    // dx = dy · gain - (x - mean) · slope - shift
    let rows = match mode {
        Mode::Train => (x.len() / channels.max(1)) as f64,
        Mode::Evaluate => f64::INFINITY,
    };
    let gain: Vec<f32> = scale.iter().zip(weight).map(|(scale, weight)| scale * weight).collect();
    let share = |sum: &f64, factor: f32| (sum / rows) as f32 * factor;
    let slope: Vec<f32> = sums.iter().zip(scale.iter().zip(&gain)).map(|(sum, (s, g))| share(sum, s * g)).collect();
    let shift: Vec<f32> = sums[channels..].iter().zip(&gain).map(|(sum, gain)| share(sum, *gain)).collect();
    let pieces = x.chunks(size).zip(dy.chunks(size)).zip(gradients.x.chunks_mut(size));
    threads::each(pieces, |_, ((x, dy), dx)| {
        isa.run(Backward { x, mean, dy, gain: &gain, slope: &slope, shift: &shift, dx });
    });
}

fn check(statistics: Statistics<'_>, channels: usize, bias: usize) {
    assert_eq!(statistics.mean.len(), channels, "batch norm: length of the mean");
    assert_eq!(statistics.variance.len(), channels, "batch norm: length of the variance");
    assert_eq!(bias, channels, "batch norm: length of the bias");
}

/// Floats in a piece of whole rows.
fn piece(x: &[f32], channels: usize) -> usize {
    assert!(x.is_empty() || x.len().is_multiple_of(channels), "batch norm: input is rows of {channels}");
    (threads::piece_rows(channels) * channels).max(1)
}

/// `sums += Σ (x - mean)²`.
struct Squares<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for x in self.x.chunks_exact(self.mean.len()) {
            for ((sum, x), mean) in self.sums.iter_mut().zip(x).zip(self.mean) {
                let d = x - mean;
                *sum = A::mul_add(d, d, *sum);
            }
        }
    }
}

struct Forward<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.mean.len();
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            for ((((y, x), mean), scale), bias) in y.iter_mut().zip(x).zip(self.mean).zip(self.scale).zip(self.bias) {
                *y = A::mul_add(x - mean, *scale, *bias);
            }
        }
    }
}

struct ParameterSums<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    dy: &'a [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl Kernel for ParameterSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.mean.len();
        for (x, dy) in self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels)) {
            self.dbias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            let row = x.iter().zip(dy).zip(self.mean).zip(self.scale);
            for ((((x, dy), mean), scale), sum) in row.zip(self.dweight.iter_mut()) {
                *sum = A::mul_add(*dy, (x - mean) * scale, *sum);
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    dy: &'a [f32],
    gain: &'a [f32],
    slope: &'a [f32],
    shift: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.mean.len();
        let rows = self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let row = x.iter().zip(dy).zip(self.mean).zip(self.gain).zip(self.slope).zip(self.shift);
            for ((((((x, dy), mean), gain), slope), shift), dx) in row.zip(dx) {
                *dx = A::mul_add(*dy, *gain, -A::mul_add(x - mean, *slope, *shift));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

    const EPS: f32 = 1e-5;

    /// Mean and biased variance of every channel.
    fn moments(x: &[f64], channels: usize) -> (Vec<f64>, Vec<f64>) {
        let rows = (x.len() / channels) as f64;
        let column = |c: usize| x.iter().skip(c).step_by(channels);
        let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows).collect();
        let variance = (0..channels).map(|c| column(c).map(|x| (x - mean[c]).powi(2)).sum::<f64>() / rows).collect();
        (mean, variance)
    }

    fn naive(x: &[f64], (mean, variance): &(Vec<f64>, Vec<f64>), weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let normal = |(i, x): (usize, &f64)| {
            let c = i % mean.len();
            (x - mean[c]) / (variance[c] + f64::from(EPS)).sqrt() * weight[c] + bias[c]
        };
        x.iter().enumerate().map(normal).collect()
    }

    #[test]
    fn forward_is_the_definition() {
        for (rows, channels) in [(2, 1), (49, 3), (63, 24), (196, 96), (3_000, 33)] {
            let x: Vec<f32> = numbers(1, rows * channels).iter().map(|x| 2.0 * x + 10.0).collect();
            let (weight, bias) = (numbers(2, channels), numbers(3, channels));
            let (mean, variance) = moments(&wide(&x), channels);
            let unbiased: Vec<f64> = variance.iter().map(|v| v * rows as f64 / (rows as f64 - 1.0)).collect();
            let y = naive(&wide(&x), &(mean.clone(), variance.clone()), &wide(&weight), &wide(&bias));
            everywhere(
                |isa| {
                    let batch = statistics(isa, &x, channels);
                    let mut y = unwritten(x.len());
                    forward(isa, &x, batch.with_eps(EPS), &weight, &bias, &mut y);
                    vec![batch.mean, batch.variance, batch.unbiased_variance, y]
                },
                |isa, got| {
                    for (got, wanted) in got.iter().zip([&mean, &variance, &unbiased, &y]) {
                        assert_close(format!("{isa} {rows}x{channels}"), got, wanted, 2e-6);
                    }
                },
            );
        }
    }

    #[test]
    fn no_rows_make_no_panic() {
        let batch = statistics(Isa::detect(), &[], 3);
        assert!(batch.mean.iter().all(|mean| mean.is_nan()));
        forward(Isa::detect(), &[], batch.with_eps(EPS), &[1.0; 3], &[0.0; 3], &mut []);
    }

    #[test]
    fn backward_is_the_difference_quotient() {
        for (rows, channels) in [(3, 1), (7, 3), (9, 20)] {
            let (x, dy) = (numbers(1, rows * channels), numbers(2, rows * channels));
            let (weight, bias) = (numbers(3, channels), numbers(4, channels));
            let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
            let fixed = moments(&x64, channels);
            let dweight = gradient(&weight, &dy, |weight| naive(&x64, &fixed, weight, &bias64));
            let dbias = gradient(&bias, &dy, |bias| naive(&x64, &fixed, &weight64, bias));
            let dx = [
                gradient(&x, &dy, |x| naive(x, &moments(x, channels), &weight64, &bias64)),
                gradient(&x, &dy, |x| naive(x, &fixed, &weight64, &bias64)),
            ];
            for (mode, dx) in [Mode::Train, Mode::Evaluate].into_iter().zip(&dx) {
                everywhere(
                    |isa| {
                        let batch = statistics(isa, &x, channels);
                        let [mut dx, mut dweight, mut dbias] = [x.len(), channels, channels].map(unwritten);
                        let gradients = Gradients { x: &mut dx, weight: &mut dweight, bias: &mut dbias };
                        backward(isa, mode, &x, batch.with_eps(EPS), &weight, &dy, gradients);
                        vec![dx, dweight, dbias]
                    },
                    |isa, got| {
                        for (got, wanted) in got.iter().zip([dx, &dweight, &dbias]) {
                            assert_close(format!("{isa} {rows}x{channels} {mode:?}"), got, wanted, 3e-6);
                        }
                    },
                );
            }
        }
    }
}

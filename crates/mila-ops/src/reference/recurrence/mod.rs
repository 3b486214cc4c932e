//! The recurrence by its definition: gather the operands along the order, step by step through the tokens, and back.

mod gradients;
mod image;

pub use gradients::RecurrenceGradients;
use image::Image;

use super::{Array, Real, Reference, Table};
use crate::recurrence::{Course, Gate, Normaliser, Part, RecurrenceSizes, Shortcut, Start, Steps};
use crate::{Dims, RecurrenceOn, Result, recurrence};

/// A recurrence whose shapes fit.
struct Checked<'a, T: Real> {
    r: &'a RecurrenceOn<'a, Reference<T>>,
    sizes: RecurrenceSizes,
    /// Of the output.
    dims: Dims,
    steps: Steps,
    /// Steps after which the state is returned.
    until: usize,
}

impl<'a, T: Real> Checked<'a, T> {
    fn new(r: &'a RecurrenceOn<'a, Reference<T>>) -> Result<Self> {
        let resolved = recurrence::resolve::<Reference<T>>(r, |map| map.dims, |table| table.values.len())?;
        if let Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) = &r.gate {
            let range = log.range(log.whole().dims.channels);
            let logs = log.whole().tokens().flat_map(|token| &token[range.clone()]);
            RecurrenceSizes::check_logs(logs.map(|log| log.double()))?;
        }
        let steps = resolved.walk()?;
        Ok(Self { r, sizes: resolved.sizes, dims: resolved.output, steps, until: resolved.until })
    }

    fn state_dims(&self) -> Dims {
        self.sizes.state_dims(self.dims.batch)
    }
}

/// See [`crate::Executor::recurrence`].
pub(super) fn recurrence<T: Real>(r: &RecurrenceOn<'_, Reference<T>>) -> Result<(Array<T>, Array<T>)> {
    let checked = Checked::new(r)?;
    let (mut output, mut states) = (Array::zeros(checked.dims), Array::zeros(checked.state_dims()));
    for b in 0..checked.dims.batch {
        let image = Image::new(&checked, b);
        let core = image.core(&checked);
        let normalised = image.normalised(&checked, &core);
        let channels = checked.sizes.channels();
        for (t, &token) in checked.steps.index().iter().enumerate().filter(|&(_, &token)| token != Steps::PAD) {
            let y = &mut output.values[(b * checked.dims.tokens() + token as usize) * channels..][..channels];
            for c in 0..channels {
                let i = t * channels + c;
                y[c] = normalised[i] + image.d.get(c).map_or(T::zero(), |&d| d * image.x[i]);
            }
        }
        let state = &mut states.values[b * checked.sizes.state()..][..checked.sizes.state()];
        image::join(checked.sizes, &core.state, &core.sums_state, state);
    }
    Ok((output, states))
}

/// The gradients of [`crate::Executor::recurrence`] for `output`, the cotangent of the output, and `state`, that of the state.
///
/// # Errors
/// Those of the recurrence; [`crate::Error::Shape`] for cotangents of another shape.
pub fn recurrence_gradients<T: Real>(
    r: &RecurrenceOn<'_, Reference<T>>,
    output: &Array<T>,
    state: &Array<T>,
) -> Result<RecurrenceGradients<T>> {
    let checked = Checked::new(r)?;
    crate::shape::same("recurrence gradients", &checked.dims, &output.dims)?;
    crate::shape::same("recurrence gradients", &checked.state_dims(), &state.dims)?;
    let mut gradients = RecurrenceGradients::zeros(&checked);
    for b in 0..checked.dims.batch {
        gradients.add_image(&checked, b, output, state);
    }
    Ok(gradients)
}

/// The channels of a part along the steps, `[steps, channels]`; zero where a step visits no token.
fn gathered<T: Real>(part: &Part<'_, Array<T>>, b: usize, steps: &Steps) -> Vec<T> {
    let map = part.whole();
    let range = part.range(map.dims.channels);
    let mut rows = Vec::with_capacity(steps.len() * range.len());
    for &token in steps.index() {
        if token == Steps::PAD {
            rows.resize(rows.len() + range.len(), T::zero());
        } else {
            let row = &map.values[(b * map.dims.tokens() + token as usize) * map.dims.channels..];
            rows.extend_from_slice(&row[range.clone()]);
        }
    }
    rows
}

fn parameter<T: Real>(part: &Part<'_, Table<T>>) -> Vec<T> {
    let values = &part.whole().values;
    values[part.range(values.len())].to_vec()
}

/// `ln(1 + eˣ)`, exact in both tails.
pub fn softplus<T: Real>(x: T) -> T {
    if x > T::zero() { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// Its derivative.
fn sigmoid<T: Real>(x: T) -> T {
    (T::one() + (-x).exp()).recip()
}

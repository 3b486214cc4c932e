//! Operators that see which token is which: causal convolutions and class tokens.

use super::{Array, Real, Reference, activated};
use crate::{Activation, CausalConv, Dims, Result, ScanOrder, Steps, TokenPlace, shape};

/// Step by step through the order.
pub(super) fn causal_conv<T: Real>(
    x: &Array<T>,
    p: &CausalConv<Reference<T>>,
    order: ScanOrder,
    then: Activation,
) -> Result<Array<T>> {
    let (channels, tokens) = (x.dims.channels, x.dims.tokens());
    shape::channels("causal convolution", p.conv.inputs, channels)?;
    let steps = order.steps(x.dims.height, x.dims.width)?;
    let mut out = Array::zeros(x.dims);
    for b in 0..x.dims.batch {
        let at = |step: usize, c: usize| match steps.index()[step] {
            Steps::PAD => T::zero(),
            token => x.values[(b * tokens + token as usize) * channels + c],
        };
        for segment in steps.segments() {
            for t in segment.clone().filter(|&t| steps.index()[t] != Steps::PAD) {
                let y = &mut out.values[(b * tokens + steps.index()[t] as usize) * channels..][..channels];
                for (c, y) in y.iter_mut().enumerate() {
                    let mut sum = p.conv.bias.as_ref().map_or(T::zero(), |bias| bias[c]);
                    for j in 0..p.taps {
                        if let Some(source) = (t + 1 + j).checked_sub(p.taps).filter(|s| segment.contains(s)) {
                            sum = sum + p.conv.weight[c * p.taps + j] * at(source, c);
                        }
                    }
                    *y = activated(sum, then);
                }
            }
        }
    }
    Ok(out)
}

pub(super) fn insert_token<T: Real>(x: &Array<T>, token: &[T], place: TokenPlace) -> Result<Array<T>> {
    let (batch, tokens, channels) = (x.dims.batch, x.dims.tokens(), x.dims.channels);
    shape::channels("class token", token.len(), channels)?;
    let mut values = Vec::with_capacity(batch * (tokens + 1) * channels);
    for image in x.values.chunks_exact(tokens * channels) {
        let (before, after) = image.split_at(place.index(tokens) * channels);
        [before, token, after].iter().for_each(|part| values.extend_from_slice(part));
    }
    Ok(Array { dims: Dims::new(batch, 1, tokens + 1, channels), values })
}

pub(super) fn take_token<T: Real>(x: &Array<T>, place: TokenPlace) -> Result<Array<T>> {
    shape::token_row(&x.dims.height, x.dims.height == 1)?;
    let at = place.index(x.dims.width - 1);
    let values = (0..x.dims.batch).flat_map(|b| x.token(b, 0, at)).copied().collect();
    Ok(Array { dims: Dims { width: 1, ..x.dims }, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;
    use crate::reference::Conv;

    fn row(values: &[f64]) -> Array<f64> {
        Array::new(Dims::new(1, 1, values.len(), 1), values.to_vec())
    }

    #[test]
    fn a_causal_convolution_sees_itself_and_what_came_before() {
        let window = Window { kernel: 3, stride: 1, padding: 2 };
        let (weight, bias) = (vec![100.0, 10.0, 1.0], Some(vec![0.5]));
        let conv = Conv { weight, bias, norm: None, window, groups: 1, inputs: 1, outputs: 1 };
        let p = CausalConv { conv, taps: 3 };
        let x = Array::new(Dims::new(1, 2, 2, 1), vec![1.0, 2.0, 3.0, 4.0]);
        let along = |order| causal_conv(&x, &p, order, Activation::None).expect("a map").values;
        assert_eq!(along(ScanOrder::ROWS), [1.5, 12.5, 123.5, 234.5]);
        assert_eq!(along(ScanOrder::ROWS.reversed()), [432.5 - 111.0, 432.5, 43.5, 4.5]);
        // By columns: 1 3 2 4.
        assert_eq!(along(ScanOrder::COLUMNS), [1.5, 132.5, 13.5, 324.5]);
    }

    #[test]
    fn a_class_token_stands_behind_the_first_half_of_the_patches() {
        let x = Array::new(Dims::new(1, 1, 3, 1), vec![1.0, 2.0, 3.0]);
        for (place, wanted) in [(TokenPlace::Middle, [1.0, 9.0, 2.0, 3.0]), (TokenPlace::First, [9.0, 1.0, 2.0, 3.0])] {
            let y = insert_token(&x, &[9.0], place).expect("a row");
            assert_eq!(y, row(&wanted));
            assert_eq!(take_token(&y, place).expect("a token"), row(&[9.0]));
        }
        let grid = Array::<f64>::zeros(Dims::new(1, 2, 2, 1));
        let error = take_token(&grid, TokenPlace::First).expect_err("no row").to_string();
        assert_eq!(error, "class token: expected one row of tokens, found 2 rows");
    }
}

//! Convolution by its definition.

use super::{Array, Conv, Real};
use crate::{Dims, Result, shape};

/// `y[o] = bias[o] + sum over taps and the group's channels of x * weight`, zeros outside the map.
pub(super) fn convolve<T: Real>(x: &Array<T>, p: &Conv<T>) -> Result<Array<T>> {
    shape::channels("convolution", p.inputs, x.dims.channels)?;
    let (kernel, stride, padding) = (p.window.kernel, p.window.stride, p.window.padding);
    let (group_inputs, group_outputs) = (p.inputs / p.groups, p.outputs / p.groups);
    let (height, width) = (p.window.output(x.dims.height), p.window.output(x.dims.width));
    let mut out = Array::zeros(Dims::new(x.dims.batch, height, width, p.outputs));
    // The input row or column that a tap reads; none where it falls on padding.
    let source =
        |output: usize, tap: usize, extent: usize| (output * stride + tap).checked_sub(padding).filter(|&i| i < extent);
    for b in 0..x.dims.batch {
        for h in 0..height {
            for w in 0..width {
                let y = out.token_mut(b, h, w);
                if let Some(bias) = &p.bias {
                    y.copy_from_slice(bias);
                }
                for kh in 0..kernel {
                    for kw in 0..kernel {
                        let (Some(ih), Some(iw)) = (source(h, kh, x.dims.height), source(w, kw, x.dims.width)) else {
                            continue;
                        };
                        let token = x.token(b, ih, iw);
                        for o in 0..p.outputs {
                            let group = o / group_outputs;
                            for i in 0..group_inputs {
                                let weight = p.weight[((o * group_inputs + i) * kernel + kh) * kernel + kw];
                                y[o] = y[o] + token[group * group_inputs + i] * weight;
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(out)
}

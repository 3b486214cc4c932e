//! Attention within windows as a composition of Burn's own operators, for every device.

use burn::tensor::{Int, Tensor, TensorData, activation};
use mila_ops::Windows;

use crate::portable::padded;

/// What is added to the score of a key that is no token.
const NEVER: f32 = -1e30;

/// An axis cut into windows of one size, with room before and after it.
struct Axis {
    /// Tokens of a window.
    side: usize,
    /// Windows.
    count: usize,
    /// Tokens that the first window lacks.
    before: usize,
}

impl Axis {
    fn new(extent: usize, windows: Windows) -> Self {
        let all: Vec<_> = windows.along(extent).collect();
        let side = windows.side.min(extent);
        // The first window lacks what a shift takes from it; a lone one lacks nothing.
        let before = if all.len() > 1 { side - all[0].len() } else { 0 };
        Self { side, count: all.len(), before }
    }

    fn extent(&self) -> usize {
        self.side * self.count
    }

    /// 1 where there is a token, 0 where there is room.
    fn tokens(&self, extent: usize) -> Vec<f32> {
        (0..self.extent()).map(|at| f32::from(at >= self.before && at - self.before < extent)).collect()
    }
}

/// See [`mila_ops::Executor::window_attention`]; `table` is flat.
pub(crate) fn window_attention(qkv: Tensor<4>, table: Tensor<1>, heads: usize, windows: Windows) -> Tensor<4> {
    let [batch, height, width, channels] = qkv.dims();
    let (d, device) = (channels / 3 / heads, qkv.device());
    let (rows, columns) = (Axis::new(height, windows), Axis::new(width, windows));
    let (count, tokens) = (rows.count * columns.count, rows.side * columns.side);

    let qkv = preceded(preceded(qkv, 1, rows.before), 2, columns.before);
    let cut = padded(qkv, rows.extent(), columns.extent())
        .reshape([batch, rows.count, rows.side, columns.count, columns.side, channels])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch * count, tokens, 3 * heads, d])
        .permute([0, 2, 1, 3]);
    let [q, k, v] = [0, 1, 2].map(|part| cut.clone().narrow(1, part * heads, heads));

    let index = Tensor::<1, Int>::from_data(TensorData::from(offsets(&rows, &columns, windows).as_slice()), &device);
    let bias = table.reshape([windows.offsets(), heads]).select(0, index);
    let bias = bias.reshape([tokens, tokens, heads]).permute([2, 0, 1]).reshape([1, heads, tokens, tokens]);
    let scores = q.matmul(k.swap_dims(2, 3)) / (d as f64).sqrt() + bias;
    let scores =
        scores.reshape([batch, count, heads * tokens, tokens]) + mask(&rows, &columns, [height, width], &device);
    let mixed = activation::softmax(scores, 3).reshape([batch * count, heads, tokens, tokens]).matmul(v);

    let whole = mixed
        .permute([0, 2, 1, 3])
        .reshape([batch, rows.count, columns.count, rows.side, columns.side, heads * d])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch, rows.extent(), columns.extent(), heads * d]);
    whole.narrow(1, rows.before, height).narrow(2, columns.before, width)
}

/// `x` with zeros before it along an axis.
fn preceded(x: Tensor<4>, axis: usize, count: usize) -> Tensor<4> {
    if count == 0 {
        return x;
    }
    let mut extents = x.dims();
    extents[axis] = count;
    let zeros = Tensor::zeros(extents, &x.device());
    Tensor::cat(vec![zeros, x], axis)
}

/// Rows of the table for every query and key of a window.
fn offsets(rows: &Axis, columns: &Axis, windows: Windows) -> Vec<i64> {
    let last = windows.side - 1;
    let tokens = || (0..rows.side).flat_map(|row| (0..columns.side).map(move |column| (row, column)));
    let offset = |(query, key): ((usize, usize), (usize, usize))| {
        windows.offset(query.0 + last - key.0, query.1 + last - key.1) as i64
    };
    tokens().flat_map(|query| tokens().map(move |key| (query, key))).map(offset).collect()
}

/// What is added to the scores of the keys of every window: `[1, windows, 1, tokens]`.
fn mask(rows: &Axis, columns: &Axis, [height, width]: [usize; 2], device: &burn::tensor::Device) -> Tensor<4> {
    let (down, across) = (rows.tokens(height), columns.tokens(width));
    let mut values = Vec::with_capacity(down.len() * across.len());
    for row in down.chunks_exact(rows.side) {
        for column in across.chunks_exact(columns.side) {
            values.extend(row.iter().flat_map(|r| column.iter().map(move |c| (1.0 - r * c) * NEVER)));
        }
    }
    let count = rows.count * columns.count;
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([1, count, 1, rows.side * columns.side])
}

//! Fully connected layers: y = activation(x W + b) + residual.

use rayon::prelude::*;

use crate::{
    cache,
    epilogue::Epilogue,
    format::Format,
    isa::Isa,
    lane::Lane,
    matrix::{PANEL, PackedMatrix},
    product::{self, Left, Product, Right, Start, Target},
    rows::{Norm, Rows},
    scratch, threads,
};

/// `y = activation(x W + bias) + residual`.
///
/// `x` is `[rows, inputs]`, `weight` has depth `inputs` and `outputs` columns, `y` is `[rows, outputs]`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    let layer = Layer::new(x, weight, epilogue, y);
    layer.run(isa, Rows::Plain { x, stride: weight.depth() });
}

/// `y = activation((x ⊙ gate) W + bias) + residual`, with `gate` shaped as `x`: the block's output projection.
///
/// # Panics
/// If a length does not fit.
pub fn forward_gated(isa: Isa, x: &[f32], gate: &[f32], weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    assert_eq!(x.len(), gate.len(), "linear: lengths of x and gate");
    Layer::new(x, weight, epilogue, y).run(isa, Rows::Gated { x, gate });
}

/// `y = activation(norm(x) W + bias) + residual`.
///
/// # Panics
/// If a length does not fit.
pub fn forward_normed(
    isa: Isa,
    x: &[f32],
    norm: Norm<'_>,
    weight: &PackedMatrix,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    norm.check(weight.depth());
    Layer::new(x, weight, epilogue, y).run(isa, Rows::Normed { x, norm });
}

/// [`forward`] of the first floats of rows that are `stride` long.
///
/// # Panics
/// If a length does not fit.
pub fn forward_strided(
    isa: Isa,
    x: &[f32],
    stride: usize,
    weight: &PackedMatrix,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let layer = Layer::checked("linear", weight, epilogue, y);
    assert!(stride >= weight.depth(), "linear: rows of {stride} floats, {} inputs", weight.depth());
    if let Some(rows) = layer.rows() {
        assert_eq!(x.len(), rows * stride, "linear: x is {rows} rows of {stride}");
    }
    layer.run(isa, Rows::Plain { x, stride });
}

/// Two layers of one normalised input, `activation(norm(x) W + bias) + residual` each: the projections into a block.
///
/// The arguments of a layer are those of [`forward`].
///
/// # Panics
/// If a length does not fit.
pub fn forward_normed_pair(
    isa: Isa,
    x: &[f32],
    norm: Norm<'_>,
    [(weight, epilogue, y), (weight_2, epilogue_2, y_2)]: [(&PackedMatrix, Epilogue<'_>, &mut [f32]); 2],
) {
    norm.check(weight.depth());
    let first = Layer::new(x, weight, epilogue, y);
    let second = Layer::new(x, weight_2, epilogue_2, y_2);
    let rows = Rows::Normed { x, norm };
    assert_eq!(weight.depth(), weight_2.depth(), "linear: the two layers have one input");
    assert_eq!(weight.format(), weight_2.format(), "linear: the two layers have one format");
    if x.is_empty() || weight.columns() == 0 || weight_2.columns() == 0 {
        first.run(isa, rows);
        return second.run(isa, rows);
    }
    let count = x.len() / weight.depth();
    let extent = (weight.columns() + weight_2.columns(), weight.depth());
    let Some(height) = piece(isa, weight.format(), count, extent) else {
        return by_panels(isa, rows, count, &mut [first, second]);
    };
    let pieces = first.y.par_chunks_mut(height * weight.columns());
    pieces.zip(second.y.par_chunks_mut(height * weight_2.columns())).enumerate().for_each(|(index, (y, y_2))| {
        let layers = &mut [Layer { weight, epilogue, y }, Layer { weight: weight_2, epilogue: epilogue_2, y: y_2 }];
        piece_of_rows(isa, rows, index * height, layers);
    });
}

/// Rows of a piece for one thread, whole strips, if threads had better share the rows than the columns.
///
/// Where there are few rows the weights are the larger operand, and a thread should read its own part of them.
pub(crate) fn piece(isa: Isa, format: Format, rows: usize, (columns, depth): (usize, usize)) -> Option<usize> {
    /// Multiply-adds that are not worth a second thread.
    const SMALL: usize = 1 << 17;
    let (threads, height) = (rayon::current_num_threads(), format.strip(isa));
    let strips = rows.div_ceil(height);
    if threads == 1 || rows * columns * depth <= SMALL {
        return Some(rows.max(1));
    }
    let few = strips < 4 * threads && columns >= 2 * threads * PANEL;
    // Every piece reads all weights: many small ones only where there are many rows.
    let pieces = threads * (strips / (format.fewest(isa) * threads)).clamp(1, 4);
    (!few).then(|| strips.div_ceil(pieces) * height)
}

/// A layer and where its result goes.
pub(crate) struct Layer<'a> {
    weight: &'a PackedMatrix,
    epilogue: Epilogue<'a>,
    y: &'a mut [f32],
}

impl<'a> Layer<'a> {
    /// Checks the lengths; `x` is `[rows, inputs]`.
    pub(crate) fn new(x: &[f32], weight: &'a PackedMatrix, epilogue: Epilogue<'a>, y: &'a mut [f32]) -> Layer<'a> {
        let layer = Layer::checked("linear", weight, epilogue, y);
        let (inputs, rows) = (weight.depth(), layer.rows());
        if let Some(rows) = rows {
            assert_eq!(x.len(), rows * inputs, "linear: x is {rows} rows of {inputs} inputs");
        }
        layer
    }

    /// Checks what does not depend on the input.
    pub(crate) fn checked(
        kernel: &str,
        weight: &'a PackedMatrix,
        epilogue: Epilogue<'a>,
        y: &'a mut [f32],
    ) -> Layer<'a> {
        let outputs = weight.columns();
        assert!(y.is_empty() || y.len().is_multiple_of(outputs), "{kernel}: y is rows of {outputs} outputs");
        epilogue.check(kernel, outputs, y.len());
        Layer { weight, epilogue, y }
    }

    /// Rows of the result; none if it has no columns.
    fn rows(&self) -> Option<usize> {
        self.y.len().checked_div(self.weight.columns())
    }

    /// Computes the layer for all rows on the caller's thread.
    pub(crate) fn run_here(self, isa: Isa, rows: Rows<'_>) {
        piece_of_rows(isa, rows, 0, &mut [self]);
    }

    /// Computes the layer for all rows.
    pub(crate) fn run(self, isa: Isa, rows: Rows<'_>) {
        let Some(count) = self.rows().filter(|&count| count > 0) else { return };
        let Layer { weight, epilogue, y } = self;
        match piece(isa, weight.format(), count, (weight.columns(), weight.depth())) {
            Some(height) if height >= count => piece_of_rows(isa, rows, 0, &mut [Layer { weight, epilogue, y }]),
            Some(height) => {
                y.par_chunks_mut(height * weight.columns()).enumerate().for_each(|(index, y)| {
                    piece_of_rows(isa, rows, index * height, &mut [Layer { weight, epilogue, y }]);
                });
            }
            None => by_panels(isa, rows, count, &mut [Layer { weight, epilogue, y }]),
        }
    }
}

/// Strips, of `strips`, that are multiplied in one pass over the weights, where the cache holds `fitting`: about as many, but not
/// fewer than `fewest`, and all passes alike, since a last one of a strip or two would read the weights for next to nothing.
pub(crate) fn group(strips: usize, fitting: usize, fewest: usize) -> usize {
    let fitting = fitting.max(fewest);
    strips.div_ceil(((strips + fitting / 2) / fitting).max(1))
}

/// Layers of one input for some rows, of which `first` is the first; their `y` hold these rows, their epilogues all.
fn piece_of_rows(isa: Isa, rows: Rows<'_>, first: usize, layers: &mut [Layer<'_>]) {
    let Some((weight, count)) = layers.first().and_then(|layer| Some((layer.weight, layer.rows()?))) else {
        return;
    };
    let (depth, format) = (weight.depth(), weight.format());
    let (height, lanes) = (format.strip(isa), format.lanes(isa, depth));
    // Rows, as many as whole strips, stay in the second-level cache while the panels pass by.
    let strips = count.div_ceil(height).max(1);
    let fitting = cache::second_level() / 4 / (lanes.max(1) * size_of::<Lane>());
    let group = group(strips, fitting, format.fewest(isa));
    scratch::lanes(format.memory(isa, rows, group, depth), |memory| {
        for begin in (0..count).step_by(group * height) {
            let rows_here = (group * height).min(count - begin);
            let left = format.prepare(isa, rows, (first + begin, rows_here), depth, memory);
            for Layer { weight, epilogue, y } in &mut *layers {
                let columns = weight.columns();
                let product = Product {
                    left,
                    rows: rows_here,
                    right: Right::Packed(weight),
                    panels: 0..weight.panels(),
                    start: Start::bias(epilogue.bias),
                    activation: epilogue.activation,
                    residual: epilogue.residual.map(|residual| &residual[(first + begin) * columns..]),
                    target: Target::Rows { y: &mut y[begin * columns..], stride: columns },
                };
                format.multiply(isa, product);
            }
        }
    });
}

/// Layers of one input with their columns shared out: all rows are made ready first, then come panels, whose results are put
/// together last.
fn by_panels(isa: Isa, rows: Rows<'_>, count: usize, layers: &mut [Layer<'_>]) {
    let (depth, format) =
        layers.first().map_or((0, Format::F32), |layer| (layer.weight.depth(), layer.weight.format()));
    let (height, lanes) = (format.strip(isa), format.lanes(isa, depth));
    let mut all = |left: Left<'_>| {
        for Layer { weight, epilogue, y } in &mut *layers {
            panels(isa, left, count, weight, *epilogue, y);
        }
    };
    if let Some(left) = format.in_place(isa, rows, 0) {
        return all(left);
    }
    scratch::lanes(count.div_ceil(height) * lanes, |memory| {
        memory.par_chunks_mut(lanes.max(1)).enumerate().for_each(|(index, strip)| {
            let first = index * height;
            format.fill(isa, rows, (first, height.min(count - first)), depth, strip);
        });
        all(format.left(isa, memory, depth));
    });
}

/// A layer of some rows, panel by panel.
fn panels(isa: Isa, left: Left<'_>, count: usize, weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    scratch::floats(weight.panels() * count * PANEL, |parts| {
        parts.par_chunks_mut(count * PANEL).enumerate().for_each(|(panel, part)| {
            let product = Product {
                left,
                rows: count,
                right: Right::Packed(weight),
                panels: panel..panel + 1,
                start: Start::bias(epilogue.bias),
                activation: epilogue.activation,
                residual: epilogue.residual,
                target: Target::Rows { y: part, stride: PANEL },
            };
            weight.format().multiply(isa, product);
        });
        for (row, y) in y.chunks_exact_mut(weight.columns()).enumerate() {
            for (panel, y) in y.chunks_mut(PANEL).enumerate() {
                y.copy_from_slice(&parts[(panel * count + row) * PANEL..][..y.len()]);
            }
        }
    });
}

/// Where [`backward`] writes its results; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// `[rows, inputs]`.
    pub x: Option<&'a mut [f32]>,
    /// `[outputs, inputs]`, PyTorch's storage.
    pub weight: Option<&'a mut [f32]>,
    /// `[outputs]`.
    pub bias: Option<&'a mut [f32]>,
}

/// The gradients of `y = x W + b`: dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy.
///
/// `x` is `[rows, inputs]`, `weight` `[outputs, inputs]` (PyTorch's storage) and `dy` `[rows, outputs]`. With an
/// activation, `dy` is first taken through [`activation::backward`](crate::activation::backward) at `x W + b`; a
/// residual's gradient is `dy` itself.
///
/// # Panics
/// If a length does not fit.
pub fn backward(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    (inputs, outputs): (usize, usize),
    dy: &[f32],
    gradients: Gradients<'_>,
) {
    let rows = dy.len().checked_div(outputs).or(x.len().checked_div(inputs)).unwrap_or(0);
    assert_eq!(dy.len(), rows * outputs, "linear: dy is rows of {outputs} outputs");
    assert_eq!(x.len(), rows * inputs, "linear: x is {rows} rows of {inputs} inputs");
    assert_eq!(weight.len(), outputs * inputs, "linear: weight is [{outputs}, {inputs}]");
    if let Some(dx) = gradients.x {
        forward(isa, dy, &PackedMatrix::from_rows(isa, weight, outputs, inputs), Epilogue::default(), dx);
    }
    if let Some(dweight) = gradients.weight {
        assert_eq!(dweight.len(), outputs * inputs, "linear: dweight is [{outputs}, {inputs}]");
        dweight.fill(0.0);
        product::add_transposed_product(isa, dy, x, (outputs, inputs), dweight);
    }
    if let Some(dbias) = gradients.bias {
        assert_eq!(dbias.len(), outputs, "linear: length of dbias");
        threads::narrow(&column_sums(dy, outputs), dbias);
    }
}

/// The sums over the rows of `x`, `[rows, columns]`.
pub(crate) fn column_sums(x: &[f32], columns: usize) -> Vec<f64> {
    let size = threads::piece_rows(columns) * columns;
    threads::sum(columns, x.chunks(size.max(1)), |_, piece, sums| {
        for row in piece.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        activation::Activation,
        testing::{assert_close, everywhere, gradient, numbers, unwritten, wide},
    };

    /// x Wᵀ + b for W `[outputs, inputs]`.
    fn naive(x: &[f64], weight: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            weight.chunks_exact(inputs).zip(bias).map(|(w, bias)| dot(w) + bias).collect()
        };
        x.chunks_exact(inputs).flat_map(row).collect()
    }

    #[test]
    fn passes_over_the_weights_are_alike() {
        for (strips, fitting, wanted) in
            [(1, 0, 1), (9, 3, 9), (17, 3, 9), (17, 10, 9), (20, 10, 10), (131, 40, 44), (4, 99, 4)]
        {
            assert_eq!(group(strips, fitting, 8), wanted, "{strips} strips, {fitting} fit");
        }
        assert_eq!((group(17, 3, 16), group(33, 3, 16), group(131, 40, 16)), (17, 17, 44));
    }

    #[test]
    fn a_layer_without_inputs_is_its_bias() {
        let bias = numbers(1, 40);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let norm = Norm { weight: &[], bias: &[], eps: 1e-5, centre: crate::Centre::Mean };
        for isa in Isa::available() {
            let weight = PackedMatrix::from_columns(isa, &[], 40, 0);
            let mut y = [unwritten(80), unwritten(80), unwritten(80), unwritten(80), unwritten(80)];
            forward(isa, &[], &weight, epilogue, &mut y[0]);
            forward_gated(isa, &[], &[], &weight, epilogue, &mut y[1]);
            forward_normed(isa, &[], norm, &weight, epilogue, &mut y[2]);
            let [.., first, second] = &mut y;
            forward_normed_pair(isa, &[], norm, [(&weight, epilogue, first), (&weight, epilogue, second)]);
            for y in y {
                assert_eq!(y, [&bias[..], &bias].concat(), "{isa}");
            }
        }
    }

    #[test]
    fn forward_is_the_definition() {
        let shapes = [
            (0, 8, 8),
            (1, 1, 1),
            (1, 3, 1000),
            (7, 24, 96),
            (49, 64, 60),
            (49, 1024, 128),
            (13, 600, 70),
            (63, 32, 33),
            (60, 3, 32),
            (196, 96, 24),
            (500, 64, 64),
            (784, 40, 130),
        ];
        for (rows, inputs, outputs) in shapes {
            let (x, gate) = (numbers(1, rows * inputs), numbers(2, rows * inputs));
            let (weight, bias) = (numbers(3, outputs * inputs), numbers(4, outputs));
            let residual = numbers(5, rows * outputs);
            let plain = naive(&wide(&x), &wide(&weight), &wide(&bias), inputs);
            let gated: Vec<f64> = wide(&x).iter().zip(&gate).map(|(x, &gate)| x * f64::from(gate)).collect();
            let gated: Vec<f64> = naive(&gated, &wide(&weight), &vec![0.0; outputs], inputs)
                .iter()
                .zip(&residual)
                .map(|(y, &residual)| y.max(0.0) + f64::from(residual))
                .collect();
            everywhere(
                |isa| {
                    let packed = PackedMatrix::from_columns(isa, &weight, outputs, inputs);
                    let mut y = [(); 3].map(|()| unwritten(rows * outputs));
                    forward(isa, &x, &packed, Epilogue { bias: Some(&bias), ..Epilogue::default() }, &mut y[0]);
                    let epilogue = Epilogue { bias: None, activation: Activation::Relu, residual: Some(&residual) };
                    forward_gated(isa, &x, &gate, &packed, epilogue, &mut y[1]);
                    let spaced: Vec<f32> = x.chunks_exact(inputs).flat_map(|x| [x, &[f32::NAN; 3]].concat()).collect();
                    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                    forward_strided(isa, &spaced, inputs + 3, &packed, epilogue, &mut y[2]);
                    y.to_vec()
                },
                |isa, y| {
                    assert_close(format!("{isa} {rows}x{inputs}x{outputs}"), &y[0], &plain, 2e-6);
                    assert_close(format!("{isa} {rows}x{inputs}x{outputs} gated"), &y[1], &gated, 2e-6);
                    assert_close(format!("{isa} {rows}x{inputs}x{outputs} strided"), &y[2], &plain, 2e-6);
                },
            );
        }
    }

    #[test]
    fn both_packings_are_one_matrix() {
        let (inputs, outputs) = (9, 37);
        let columns = numbers(1, outputs * inputs);
        let rows: Vec<f32> = (0..inputs * outputs).map(|i| columns[i % outputs * inputs + i / outputs]).collect();
        let (isa, x) = (Isa::detect(), numbers(2, 5 * inputs));
        let [a, b] = [
            PackedMatrix::from_columns(isa, &columns, outputs, inputs),
            PackedMatrix::from_rows(isa, &rows, inputs, outputs),
        ]
        .map(|weight| {
            let mut y = unwritten(5 * outputs);
            forward(isa, &x, &weight, Epilogue::default(), &mut y);
            y
        });
        assert_eq!(a, b);
    }

    #[test]
    fn backward_is_the_difference_quotient() {
        for (rows, inputs, outputs) in [(1, 1, 3), (7, 24, 5), (19, 33, 14)] {
            let (x, dy) = (numbers(1, rows * inputs), numbers(2, rows * outputs));
            let (weight, bias) = (numbers(3, outputs * inputs), numbers(4, outputs));
            let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
            let wanted = [
                gradient(&x, &dy, |x| naive(x, &weight64, &bias64, inputs)),
                gradient(&weight, &dy, |weight| naive(&x64, weight, &bias64, inputs)),
                gradient(&bias, &dy, |bias| naive(&x64, &weight64, bias, inputs)),
            ];
            check_backward(&x, &weight, (inputs, outputs), &dy, &wanted);
        }
    }

    /// More rows than one chain of sums, against the sums themselves.
    #[test]
    fn backward_adds_over_many_rows() {
        for (rows, inputs, outputs) in [(0, 3, 4), (2_500, 30, 70)] {
            let (x, dy) = (numbers(1, rows * inputs), numbers(2, rows * outputs));
            let weight = numbers(3, outputs * inputs);
            let transposed: Vec<f64> =
                (0..inputs * outputs).map(|i| f64::from(weight[i % outputs * inputs + i / outputs])).collect();
            let mut dweight = vec![0.0; outputs * inputs];
            let mut dbias = vec![0.0; outputs];
            for (x, dy) in x.chunks_exact(inputs).zip(dy.chunks_exact(outputs)) {
                for (o, &dy) in dy.iter().enumerate() {
                    dbias[o] += f64::from(dy);
                    for (i, &x) in x.iter().enumerate() {
                        dweight[o * inputs + i] += f64::from(dy) * f64::from(x);
                    }
                }
            }
            let dx = naive(&wide(&dy), &transposed, &vec![0.0; inputs], outputs);
            check_backward(&x, &weight, (inputs, outputs), &dy, &[dx, dweight, dbias]);
        }
    }

    fn check_backward(x: &[f32], weight: &[f32], extent: (usize, usize), dy: &[f32], wanted: &[Vec<f64>; 3]) {
        everywhere(
            |isa| {
                let [mut dx, mut dweight, mut dbias] = [x.len(), weight.len(), extent.1].map(unwritten);
                let gradients = Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: Some(&mut dbias) };
                backward(isa, x, weight, extent, dy, gradients);
                vec![dx, dweight, dbias]
            },
            |isa, got| {
                for ((name, got), wanted) in ["dx", "dweight", "dbias"].iter().zip(&got).zip(wanted) {
                    assert_close(format!("{isa} {extent:?} {name}"), got, wanted, 3e-6);
                }
            },
        );
    }
}

//! Operands along the steps of a recurrence, and its output back on the map.

use mila_ops::Result;
use mila_ops::recurrence::{Course, Direction, Path, RecurrenceSizes, Start, Steps};

use super::refused;
use crate::Id;
use crate::onnx::dim::{Dim, Extents};
use crate::onnx::file::{Setting, Value};
use crate::onnx::lower::Lowering;
use crate::onnx::maps::Layout;
use crate::recurrence::{Delta, MapPart, Recorded, TensorPart};

/// A recurrence on its way.
pub(super) struct Walk<'r> {
    pub(super) path: String,
    pub(super) inputs: &'r [Id],
    pub(super) recorded: &'r Recorded,
    pub(super) order: Order,
    /// The node of its state, if something uses it.
    pub(super) state: Option<Id>,
    /// Extent of the batch, which separate segments are a part of, and steps of each.
    pub(super) batch: Dim,
    pub(super) steps: Dim,
}

/// How steps are taken from a map.
pub(super) enum Order {
    /// As they stand.
    Rows,
    /// As they stand in the transposed map.
    Columns,
    /// By token, in segments of one length.
    Listed { steps: Steps, segment: usize },
}

impl Walk<'_> {
    pub(super) fn name(&self, part: &str) -> String {
        format!("{}/{part}", self.path)
    }

    /// `[batch, steps]` and these extents.
    pub(super) fn dims(&self, inner: &[usize]) -> Vec<Dim> {
        [self.batch.clone(), self.steps.clone()].into_iter().chain(inner.iter().map(|&n| n.into())).collect()
    }

    /// `[batch]` and these extents.
    pub(super) fn step_dims(&self, inner: &[usize]) -> Vec<Dim> {
        [self.batch.clone()].into_iter().chain(inner.iter().map(|&n| n.into())).collect()
    }

    pub(super) fn sizes(&self) -> RecurrenceSizes {
        self.recorded.sizes
    }

    pub(super) fn backward(&self) -> bool {
        let Course::Causal(order) = self.recorded.r.course else { return false };
        // Lists are reversed already.
        order.direction == Direction::Backward && !matches!(self.order, Order::Listed { .. })
    }
}

impl Lowering<'_> {
    pub(super) fn walk<'r>(&mut self, id: Id, recorded: &'r Recorded, inputs: &'r [Id]) -> Result<Walk<'r>> {
        let (path, state) = (self.path(id).to_owned(), self.state_of(id));
        let [batch, height, width] = [0, 1, 2].map(|axis| self.extents.of(&self.trace.nodes()[id.0].extents[axis]));
        let steps = height.times(&width);
        let Course::Causal(order) = recorded.r.course else {
            return Ok(Walk { path, inputs, recorded, order: Order::Rows, state, batch, steps });
        };
        let (order, batch, steps) = match (order.path, self.extents) {
            (Path::Rows, _) => (Order::Rows, batch, steps),
            (Path::Columns, _) => (Order::Columns, batch, steps),
            (_, Extents::Dynamic) => {
                return Err(refused(&path, "its order is a list of tokens, for one size of the input"));
            }
            (_, Extents::Fixed(sizes)) => {
                let [height, width] = [1, 2].map(|axis| self.trace.nodes()[id.0].extents[axis].at(sizes));
                let steps = order.steps(height, width)?;
                let (count, len) = (steps.starts().len(), steps.len());
                if steps.is_empty() {
                    return Err(refused(&path, "its order takes no step at this size"));
                }
                if steps.segments().any(|segment| segment.len() * count != len) {
                    return Err(refused(&path, "its segments are not of one length"));
                }
                if count > 1 && matches!(recorded.r.start, Start::Carried(_)) {
                    return Err(refused(&path, "its segments start from a carried state"));
                }
                let segment = if count > 1 { len / count } else { 0 };
                (Order::Listed { steps, segment }, Dim::from(count).times(&batch), (len / count).into())
            }
        };
        Ok(Walk { path, inputs, recorded, order, state, batch, steps })
    }

    /// Some channels of a map along the steps, `[batch, steps, channels]`.
    pub(super) fn along(&mut self, walk: &Walk<'_>, part: &MapPart) -> Result<Value> {
        let id = walk.inputs[part.input];
        let mut map = self.form(id, Layout::Last)?;
        if self.file.dims(map).len() == 2 {
            return Err(refused(&walk.path, "a pooled map has no rows and columns"));
        }
        let channels = part.channels.len();
        if channels < self.trace.nodes()[id.0].channels {
            let bounds = [part.channels.start, part.channels.end].map(|n| self.list(&[n as i64]));
            let axis = self.list(&[3]);
            let mut dims = self.file.dims(map).to_vec();
            dims[3] = channels.into();
            map = self.file.node(&walk.name("part"), "Slice", &[map, bounds[0], bounds[1], axis], &[], dims);
        }
        if let Order::Columns = walk.order {
            map = self.transposed(walk, map);
        }
        let dims = self.file.dims(map).to_vec();
        let tokens = vec![dims[0].clone(), dims[1].times(&dims[2]), channels.into()];
        let view = self.list(&[0, -1, channels as i64]);
        let rows = self.file.node(&walk.name("tokens"), "Reshape", &[map, view], &[], tokens);
        let Order::Listed { steps, segment } = &walk.order else { return Ok(rows) };
        let index = steps.index().iter().map(|&token| i64::from(token.min(steps.tokens() as u32))).collect();
        let listed = self.listed(walk, rows, index);
        Ok(match segment {
            0 => listed,
            segment => {
                let view = self.list(&[-1, *segment as i64, channels as i64]);
                self.file.node(&walk.name("segments"), "Reshape", &[listed, view], &[], walk.dims(&[channels]))
            }
        })
    }

    /// The rows `index` of `[batch, rows, channels]`; the row behind the last is zeros.
    pub(super) fn listed(&mut self, walk: &Walk<'_>, rows: Value, index: Vec<i64>) -> Value {
        let mut dims = self.file.dims(rows).to_vec();
        let mut rows = rows;
        if let Dim::Number(count) = dims[1]
            && index.contains(&(count as i64))
        {
            let pads = self.list(&[0, 0, 0, 0, 1, 0]);
            dims[1] = (count + 1).into();
            rows = self.file.node(&walk.name("padded"), "Pad", &[rows, pads], &[], dims.clone());
        }
        dims[1] = index.len().into();
        let index = self.list(&index);
        self.file.node(&walk.name("ordered"), "Gather", &[rows, index], &[("axis", Setting::Integer(1))], dims)
    }

    pub(super) fn transposed(&mut self, walk: &Walk<'_>, map: Value) -> Value {
        let mut dims = self.file.dims(map).to_vec();
        dims.swap(1, 2);
        let order = [("perm", Setting::Integers(vec![0, 2, 1, 3]))];
        self.file.node(&walk.name("transposed"), "Transpose", &[map], &order, dims)
    }

    /// `[batch, steps, channels]` at the tokens of the map of `id`.
    pub(super) fn on_the_map(&mut self, walk: &Walk<'_>, id: Id, y: Value) -> Result<Value> {
        let dims = self.dims(id, Layout::Last);
        let channels = walk.sizes().channels();
        let mut grid = dims.clone();
        let mut y = y;
        match &walk.order {
            Order::Rows => {}
            Order::Columns => grid.swap(1, 2),
            Order::Listed { steps, segment } => {
                if *segment > 0 {
                    let view = self.list(&[-1, steps.len() as i64, channels as i64]);
                    let whole = vec![dims[0].clone(), steps.len().into(), channels.into()];
                    y = self.file.node(&walk.name("joined"), "Reshape", &[y, view], &[], whole);
                }
                // A token that no step visits takes the row of zeros behind the last.
                let row = |step: Option<u32>| step.map_or(steps.len() as i64, i64::from);
                let index = steps.inverse().into_iter().map(row).collect();
                y = self.listed(walk, y, index);
            }
        }
        let shape = self.shape(walk, &grid)?;
        let y = self.file.node(&walk.path, "Reshape", &[y, shape], &[], grid);
        Ok(if let Order::Columns = walk.order { self.transposed(walk, y) } else { y })
    }

    /// The extents `dims` of a map like `v`, whose rows and columns may be swapped, as a tensor.
    pub(super) fn shape(&mut self, walk: &Walk<'_>, dims: &[Dim]) -> Result<Value> {
        let number = |dim: &Dim| if let Dim::Number(n) = dim { Some(*n as i64) } else { None };
        if let Some(known) = dims.iter().map(number).collect::<Option<Vec<_>>>() {
            return Ok(self.list(&known));
        }
        let v = self.form(walk.inputs[walk.recorded.r.v.input], Layout::Last)?;
        let shape = self.file.integer_node(&walk.name("shape"), "Shape", &[v], &[], vec![4.into()]);
        let axes = self.list(if let Order::Columns = walk.order { &[0, 2, 1] } else { &[0, 1, 2] });
        let axis = [("axis", Setting::Integer(0))];
        let lead = self.file.integer_node(&walk.name("grid"), "Gather", &[shape, axes], &axis, vec![3.into()]);
        let channels = self.list(&[walk.sizes().channels() as i64]);
        Ok(self.file.integer_node(&walk.name("extents"), "Concat", &[lead, channels], &axis, vec![4.into()]))
    }

    /// `[batch, steps, ..]` with other extents behind.
    pub(super) fn reshaped(&mut self, walk: &Walk<'_>, name: &str, value: Value, inner: &[usize]) -> Value {
        let view: Vec<i64> = [0, 0].into_iter().chain(inner.iter().map(|&n| n as i64)).collect();
        let view = self.list(&view);
        self.file.node(&walk.name(name), "Reshape", &[value, view], &[], walk.dims(inner))
    }

    /// softplus(raw + bias) along the steps.
    pub(super) fn step_sizes(&mut self, walk: &Walk<'_>, delta: &Delta) -> Result<Value> {
        let mut x = self.along(walk, &delta.raw)?;
        let dims = self.file.dims(x).to_vec();
        if let Some(bias) = &delta.bias {
            let bias = self.values(walk, bias);
            x = self.file.node(&walk.name("biased"), "Add", &[x, bias], &[], dims.clone());
        }
        Ok(self.file.node(&walk.name("step_sizes"), "Softplus", &[x], &[], dims))
    }

    /// Values of a parameter as a vector.
    pub(super) fn values(&mut self, walk: &Walk<'_>, part: &TensorPart) -> Value {
        let wanted = &self.trace.manifest()[part.tensor.0];
        let (rank, volume) = (wanted.shape.len(), wanted.volume());
        let mut values = self.stored(part.tensor);
        if rank != 1 {
            let flat = self.list(&[-1]);
            values = self.file.node(&walk.name("flat"), "Reshape", &[values, flat], &[], vec![volume.into()]);
        }
        if part.values.len() < volume {
            let [start, end] = [part.values.start, part.values.end].map(|n| self.list(&[n as i64]));
            let dims = vec![part.values.len().into()];
            values = self.file.node(&walk.name("values"), "Slice", &[values, start, end], &[], dims);
        }
        values
    }

    /// A parameter's values in another shape.
    pub(super) fn shaped(&mut self, walk: &Walk<'_>, part: &TensorPart, shape: &[usize]) -> Value {
        let values = self.values(walk, part);
        let view: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let view = self.list(&view);
        let dims = shape.iter().map(|&n| n.into()).collect();
        self.file.node(&walk.name("parameter"), "Reshape", &[values, view], &[], dims)
    }
}

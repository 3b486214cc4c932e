//! Linear attention, with rotary positions in real arithmetic, without a transposed map: channels stay before tokens.
//!
//! Queries and keys that turn are a 1x1 convolution of the planes, whose rows are stored so that a head's even channels come before
//! its odd ones ([`Content::PairedRows`]). A dot product of queries and keys does not see the order, and a rotation is two
//! products of contiguous halves:
//!
//! ```text
//! [B, 2 C, H, W] as [B, 2, heads, d, N];  elu + 1;  even, odd = halves of d
//! rotated = [even cos - odd sin, even sin + odd cos]
//! o = (V K_rotated^T / N) Q_rotated / (mean_n(K)^T Q + 1e-6)          V: [B, 1, heads, d, N]
//! ```

use mila_ops::{Error, LinearAttention, Normalisation, Positions, Result};

use super::content::{Content, Part};
use super::dim::{Dim, Extents};
use super::file::{Setting, Value};
use super::lower::{Lowering, conv_settings};
use super::maps::Layout;
use crate::{Id, Operator};

/// Added to the normaliser, as the definition of the operator has it.
const EPS: f32 = 1e-6;

impl Lowering<'_> {
    pub(super) fn attention(&mut self, id: Id, qk: Id, v: Id, form: LinearAttention) -> Result<()> {
        let path = self.path(id).to_owned();
        let heads = form.heads;
        let [keys_width, width] = [self.trace.nodes()[qk.0].channels / 2, self.trace.nodes()[id.0].channels];
        let (keys_width, width) = (keys_width / heads, width / heads);
        let tokens = {
            let dims = self.dims(id, Layout::Planes);
            dims[2].times(&dims[3])
        };
        let batch = self.dims(id, Layout::Planes)[0].clone();
        let shaped = |parts: usize, rows: Dim, columns: Dim| {
            vec![batch.clone(), Dim::Number(parts), Dim::Number(heads), rows, columns]
        };
        let all = shaped(2, keys_width.into(), tokens.clone());
        let one = shaped(1, width.into(), tokens.clone());

        let planes = match form.positions {
            Positions::Absent => self.form(qk, Layout::Planes)?,
            Positions::Rotary => self.queries_and_keys(&path, qk, heads)?,
        };
        let view = self.list(&[0, 2, heads as i64, keys_width as i64, -1]);
        let x = self.file.node(&format!("{path}/Reshape"), "Reshape", &[planes, view], &[], all.clone());
        let elu = self.file.node(&format!("{path}/Elu"), "Elu", &[x], &[], all.clone());
        let unit = self.scalar(1.0);
        let positive = self.file.node(&format!("{path}/positive"), "Add", &[elu, unit], &[], all);
        let [q, k] = self.file.split(&path, positive, 1, 1, ["q", "k"]);

        let [q_placed, k_placed] = match form.positions {
            Positions::Absent => [q, k],
            Positions::Rotary => {
                let rotated = self.rotated(&path, (id, heads * keys_width), positive, heads)?;
                self.file.split(&path, rotated, 1, 1, ["q_rotated", "k_rotated"])
            }
        };

        let values = self.form(v, Layout::Planes)?;
        let view = self.list(&[0, 1, heads as i64, width as i64, -1]);
        let values = self.file.node(&format!("{path}/values"), "Reshape", &[values, view], &[], one.clone());
        let order = [("perm", Setting::Integers(vec![0, 1, 2, 4, 3]))];
        let dims = shaped(1, tokens.clone(), keys_width.into());
        let keys = self.file.node(&format!("{path}/Transpose"), "Transpose", &[k_placed], &order, dims);
        let square = shaped(1, width.into(), keys_width.into());
        let state = self.file.node(&format!("{path}/state"), "MatMul", &[values, keys], &[], square.clone());
        let state = self.per_token(&path, id, state, square)?;
        let sums = self.file.node(&format!("{path}/sums"), "MatMul", &[state, q_placed], &[], one.clone());

        let quotient = match form.normalisation {
            Normalisation::Absent => sums,
            Normalisation::Weights => {
                // The mean key of each head, as a row.
                let mean = [("axes", Setting::Integers(vec![4])), ("keepdims", Setting::Integer(1))];
                let column = shaped(1, keys_width.into(), 1.into());
                let mean = self.file.node(&format!("{path}/ReduceMean"), "ReduceMean", &[k], &mean, column);
                let view = self.list(&[0, 1, heads as i64, 1, keys_width as i64]);
                let row = shaped(1, 1.into(), keys_width.into());
                let mean = self.file.node(&format!("{path}/mean"), "Reshape", &[mean, view], &[], row);
                let norm = shaped(1, 1.into(), tokens);
                let product = self.file.node(&format!("{path}/weights"), "MatMul", &[mean, q], &[], norm.clone());
                let eps = self.scalar(EPS);
                let norm = self.file.node(&format!("{path}/normaliser"), "Add", &[product, eps], &[], norm);
                self.file.node(&format!("{path}/Div"), "Div", &[sums, norm], &[], one)
            }
        };
        let dims = self.dims(id, Layout::Planes);
        let planes = self.form(v, Layout::Planes)?;
        let shape = self.shape_of(&path, planes);
        let y = self.file.node(&path, "Reshape", &[quotient, shape], &[], dims);
        self.set(id, Layout::Planes, y);
        Ok(())
    }

    /// The linear map of queries and keys as a convolution of planes, with the pairs that turn taken apart.
    fn queries_and_keys(&mut self, path: &str, qk: Id, heads: usize) -> Result<Value> {
        let refused = |why: &str| Error::Unsupported { what: format!("`{path}` in ONNX"), why: why.into() };
        if !(self.trace.nodes()[qk.0].channels / 2 / heads).is_multiple_of(2) {
            return Err(refused("the pairs of a rotation lie in two heads"));
        }
        if self.maps[qk.0].last.is_some() || self.maps[qk.0].planes.is_some() {
            return Err(refused("its queries and keys are no linear map of their own"));
        }
        let node = &self.trace.nodes()[qk.0];
        let (Operator::Linear { weight, bias, .. }, &[x]) = (&node.operator, node.inputs.as_slice()) else {
            let what = format!("`{}` in ONNX", self.path(qk));
            return Err(Error::Unsupported { what, why: "queries and keys are no linear map".into() });
        };
        let (weight, bias, inputs, outputs) = (weight.clone(), *bias, self.trace.nodes()[x.0].channels, node.channels);
        if weight.values.len() != self.trace.manifest()[weight.tensor.0].volume() {
            let what = format!("`{}` in ONNX", self.path(qk));
            return Err(Error::Unsupported { what, why: "queries and keys are rows of a larger weight".into() });
        }
        let weight = weight.tensor;
        let mut operands = vec![self.form(x, Layout::Planes)?];
        operands.push(self.parameter(weight, &[outputs, inputs, 1, 1], Content::PairedRows { tensor: weight, heads }));
        operands.extend(bias.map(|bias| self.parameter(bias, &[outputs], Content::PairedRows { tensor: bias, heads })));
        let path = self.path(qk).to_owned();
        Ok(self.file.node(&path, "Conv", &operands, &conv_settings(1, 1, 1, [0; 4]), self.dims(qk, Layout::Planes)))
    }

    /// `x` of `[batch, 2, heads, d, N]`, turned.
    fn rotated(&mut self, path: &str, (id, channels): (Id, usize), x: Value, heads: usize) -> Result<Value> {
        let path = &format!("{path}/rope");
        let [cos, sin] = self.table(path, (id, channels), heads)?;
        let [even, odd] = self.file.split(path, x, 3, channels / heads / 2, ["even", "odd"]);
        let half = self.file.dims(even).to_vec();
        let mut apply = |name: &str, operator: &'static str, a: Value, b: Value| {
            self.file.node(&format!("{path}/{name}"), operator, &[a, b], &[], half.clone())
        };
        let (even_cos, odd_sin) = (apply("even_cos", "Mul", even, cos), apply("odd_sin", "Mul", odd, sin));
        let turned_even = apply("turned_even", "Sub", even_cos, odd_sin);
        let (even_sin, odd_cos) = (apply("even_sin", "Mul", even, sin), apply("odd_cos", "Mul", odd, cos));
        let turned_odd = apply("turned_odd", "Add", even_sin, odd_cos);
        let dims = self.file.dims(x).to_vec();
        Ok(self.file.node(path, "Concat", &[turned_even, turned_odd], &[("axis", Setting::Integer(3))], dims))
    }

    /// `state / N`.
    fn per_token(&mut self, path: &str, id: Id, state: Value, dims: Vec<Dim>) -> Result<Value> {
        let extents = self.trace.nodes()[id.0].extents.clone();
        let (operator, by) = match self.extents {
            Extents::Fixed(sizes) => {
                let tokens = extents[1].at(sizes) * extents[2].at(sizes);
                ("Mul", self.scalar(1.0 / tokens as f32))
            }
            Extents::Dynamic => ("Div", self.token_count(path, id)?),
        };
        Ok(self.file.node(&format!("{path}/mean_state"), operator, &[state, by], &[], dims))
    }

    /// The tokens of a map as a scalar of f32.
    fn token_count(&mut self, path: &str, id: Id) -> Result<Value> {
        let grid = self.grid_of(path, id)?;
        let settings = [("axes", Setting::Integers(vec![0])), ("keepdims", Setting::Integer(0))];
        let count = self.file.integer_node(&format!("{path}/tokens"), "ReduceProd", &[grid], &settings, vec![]);
        Ok(self.file.node(&format!("{path}/token_count"), "Cast", &[count], &[("to", Setting::Integer(1))], vec![]))
    }

    /// `[height, width]` of the values that the attention `id` mixes.
    fn grid_of(&mut self, path: &str, id: Id) -> Result<Value> {
        let values = self.trace.nodes()[id.0].inputs[1];
        let planes = self.form(values, Layout::Planes)?;
        Ok(self.rows_and_columns(path, planes, Layout::Planes))
    }

    /// The four extents of planes as a tensor.
    pub(super) fn shape_of(&mut self, path: &str, planes: Value) -> Value {
        let number = |dim: &Dim| match dim {
            Dim::Number(n) => Some(*n as i64),
            Dim::Text(_) => None,
        };
        let known: Option<Vec<i64>> = self.file.dims(planes).iter().map(number).collect();
        match known {
            Some(numbers) => self.list(&numbers),
            None => self.file.integer_node(&format!("{path}/shape"), "Shape", &[planes], &[], vec![4.into()]),
        }
    }

    /// Cosines and sines for the attention `id` of `channels` in its keys, `[heads, d / 2, N]`: made once for each of a
    /// model's resolutions.
    fn table(&mut self, path: &str, (id, channels): (Id, usize), heads: usize) -> Result<[Value; 2]> {
        let node = &self.trace.nodes()[id.0];
        let key = (node.extents[1..].to_vec(), channels, heads);
        if let Some(&found) = self.tables.get(&key) {
            return Ok(found);
        }
        let table = match self.extents {
            Extents::Fixed(sizes) => {
                let [height, width] = [1, 2].map(|axis| node.extents[axis].at(sizes));
                let dims = [heads, channels / heads / 2, height * width];
                [(Part::Cos, "cos"), (Part::Sin, "sin")].map(|(part, name)| {
                    let content = Content::Rotation { height, width, channels, part };
                    self.file.initialiser(&format!("{path}/{name}"), &dims, content)
                })
            }
            Extents::Dynamic => self.computed_table(path, (id, channels), heads)?,
        };
        self.tables.insert(key, table);
        Ok(table)
    }

    /// A table from the extents of the map: a quarter of the channels see the row, another the column.
    fn computed_table(&mut self, path: &str, (id, channels): (Id, usize), heads: usize) -> Result<[Value; 2]> {
        let quarter = channels / 4;
        let dims = self.dims(id, Layout::Planes);
        let [height, width] = [dims[2].clone(), dims[3].clone()];
        let grid = self.grid_of(path, id)?;
        // The angles of position 1 are the frequencies themselves.
        let first = self.constant(&[quarter, 1, 1], Content::Floats(frequencies(channels)));
        let rows = self.angles(path, grid, 0, first, vec![quarter.into(), height.clone(), 1.into()])?;
        let columns = self.angles(path, grid, 1, first, vec![quarter.into(), 1.into(), width.clone()])?;
        let lead = self.list(&[quarter as i64]);
        let axis = [("axis", Setting::Integer(0))];
        let shape = self.file.integer_node(&format!("{path}/shape"), "Concat", &[lead, grid], &axis, vec![3.into()]);
        let view = self.list(&[heads as i64, (channels / heads / 2) as i64, -1]);
        let mut table = |part: Part| {
            let operator = part.operator();
            let mut spread = |name: &str, angles: Value| {
                let dims = self.file.dims(angles).to_vec();
                let turns = self.file.node(&format!("{path}/{name}/{operator}"), operator, &[angles], &[], dims);
                let dims = vec![quarter.into(), height.clone(), width.clone()];
                self.file.node(&format!("{path}/{name}/Expand"), "Expand", &[turns, shape], &[], dims)
            };
            let both = [spread("rows", rows), spread("columns", columns)];
            let dims = vec![(channels / 2).into(), height.clone(), width.clone()];
            let whole = self.file.node(&format!("{path}/Concat"), "Concat", &both, &axis, dims);
            let dims = vec![heads.into(), (channels / heads / 2).into(), height.times(&width)];
            self.file.node(&format!("{path}/{operator}"), "Reshape", &[whole, view], &[], dims)
        };
        Ok([table(Part::Cos), table(Part::Sin)])
    }

    /// Position times frequency for every position of an axis.
    fn angles(&mut self, path: &str, grid: Value, axis: usize, first: Value, dims: Vec<Dim>) -> Result<Value> {
        let path = format!("{path}/{}", ["rows", "columns"][axis]);
        let at = self.constant(&[], Content::Integers(vec![axis as i64]));
        let settings = [("axis", Setting::Integer(0))];
        let limit = self.file.integer_node(&format!("{path}/limit"), "Gather", &[grid, at], &settings, vec![]);
        let [start, step] = [0, 1].map(|n| self.constant(&[], Content::Integers(vec![n])));
        let extent = dims[axis + 1].clone();
        let range =
            self.file.integer_node(&format!("{path}/Range"), "Range", &[start, limit, step], &[], vec![extent.clone()]);
        let settings = [("to", Setting::Integer(1))];
        let positions = self.file.node(&format!("{path}/positions"), "Cast", &[range], &settings, vec![extent.clone()]);
        // [H] as [H, 1] for rows; [W] broadcasts as it is.
        let positions = if axis == 0 {
            let view = self.list(&[-1, 1]);
            self.file.node(&format!("{path}/column"), "Reshape", &[positions, view], &[], vec![extent, 1.into()])
        } else {
            positions
        };
        Ok(self.file.node(&format!("{path}/angles"), "Mul", &[first, positions], &[], dims))
    }
}

/// The angles of position 1, as [`mila_ops::rope2d`] has them.
fn frequencies(channels: usize) -> Vec<f32> {
    let quarter = channels / 4;
    (0..quarter).map(|k| 1.0 / 10_000_f32.powf(k as f32 / quarter as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second row of a table of one column turns by the frequencies.
    #[test]
    fn frequencies_are_those_of_the_definition() {
        for channels in [4, 32, 60, 512] {
            let table = mila_ops::rope2d::rotations(2, 1, channels);
            let turns = frequencies(channels).into_iter().flat_map(|angle| [angle.cos(), angle.sin()]);
            assert_eq!(table[channels..][..channels / 2], turns.collect::<Vec<f32>>(), "{channels} channels");
        }
    }
}

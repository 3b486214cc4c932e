//! The recurrence along an order: one `Scan`.

use mila_ops::Result;
use mila_ops::recurrence::{Gate, Normaliser, Read, RecurrenceSizes, Start};

use super::along::Walk;
use crate::onnx::content::Content;
use crate::onnx::dim::Dim;
use crate::onnx::file::{Setting, Value};
use crate::onnx::lower::Lowering;
use crate::onnx::maps::Layout;

/// How the state decays in the body of a scan.
enum Gates {
    None,
    /// By one tensor, `[heads, 1, 1]`.
    Fixed(Value),
    /// By one of each step, `[batch, steps, heads, ..]`: gates, or step sizes that rates make into the logarithms of gates.
    Scanned {
        gates: Value,
        rates: Option<Value>,
    },
}

impl Lowering<'_> {
    /// Outputs `[batch, steps, heads, 1, values]`, and the state if something uses it.
    pub(super) fn scanned(
        &mut self,
        walk: &Walk<'_>,
        (q, k, u): (Value, Value, Value),
        steps: Option<Value>,
    ) -> Result<(Value, Option<Value>)> {
        let RecurrenceSizes { heads, keys, values, sums } = walk.sizes();
        let r = &walk.recorded.r;
        let decaying = matches!(r.normaliser, Normaliser::Gated { .. });
        let columns = if decaying { values + sums } else { values };
        let u = if decaying { self.with_ones(walk, u) } else { u };
        let gate = self.gates(walk, steps, decaying.then_some(sums))?;
        let start = self.start(walk)?;
        let first = match (start, decaying || sums == 0) {
            (Some(start), true) => start,
            (Some(start), false) => self.columns(walk, start, 3, 0..values),
            (None, _) => self.zeros(walk, k, columns),
        };

        let name = |part: &str| walk.name(&format!("step/{part}"));
        let names = ["state", "q", "k", "u"].map(name);
        let square = walk.step_dims(&[heads, keys, columns]);
        let inputs = [
            (names[0].as_str(), square.clone()),
            (names[1].as_str(), walk.step_dims(&[heads, 1, keys])),
            (names[2].as_str(), walk.step_dims(&[heads, keys, 1])),
            (names[3].as_str(), walk.step_dims(&[heads, 1, columns])),
        ];
        let bonus = match &r.read {
            Read::AfterWrite => None,
            Read::BeforeWrite { bonus } => Some(self.shaped(walk, bonus, &[heads, keys, 1])),
        };
        let gate_name = name("gate");
        let [s, q_step, k_step, u_step] = self.file.open_body(inputs);
        let mut body_inputs = vec![s, q_step, k_step, u_step];
        let mut scanned = vec![q, k, u];
        let written = self.file.node(&name("written"), "Mul", &[k_step, u_step], &[], square.clone());
        let kept = match gate {
            Gates::None => s,
            Gates::Fixed(gate) => self.file.node(&name("kept"), "Mul", &[s, gate], &[], square.clone()),
            Gates::Scanned { gates, rates } => {
                let mut dims = self.file.dims(gates).to_vec();
                dims.remove(1);
                let mut gate = self.file.body_input(&gate_name, dims);
                body_inputs.push(gate);
                scanned.push(gates);
                if let Some(rates) = rates {
                    gate = self.file.node(&name("log"), "Mul", &[gate, rates], &[], square.clone());
                    gate = self.file.node(&name("Exp"), "Exp", &[gate], &[], square.clone());
                }
                self.file.node(&name("kept"), "Mul", &[s, gate], &[], square.clone())
            }
        };
        let next = self.file.node(&name("next"), "Add", &[kept, written], &[], square.clone());
        let seen = match bonus {
            None => next,
            Some(bonus) => {
                let own = self.file.node(&name("own"), "Mul", &[written, bonus], &[], square.clone());
                self.file.node(&name("seen"), "Add", &[s, own], &[], square.clone())
            }
        };
        let read = walk.step_dims(&[heads, 1, columns]);
        let o = self.file.node(&name("read"), "MatMul", &[q_step, seen], &[], read);
        let body = self.file.close_body(body_inputs, vec![next, o]);

        let direction = i64::from(walk.backward());
        let settings = [
            ("body", body),
            ("num_scan_inputs", Setting::Integer(scanned.len() as i64)),
            ("scan_input_axes", Setting::Integers(vec![1; scanned.len()])),
            ("scan_input_directions", Setting::Integers(vec![direction; scanned.len()])),
            ("scan_output_axes", Setting::Integers(vec![1])),
            ("scan_output_directions", Setting::Integers(vec![direction])),
        ];
        let operands: Vec<Value> = [first].into_iter().chain(scanned).collect();
        let outputs = [("state", square), ("outputs", walk.dims(&[heads, 1, columns]))];
        let [state, o] = self.file.node_with(&walk.name("Scan"), "Scan", &operands, &settings, outputs);
        let state = walk.state.map(|_| state);
        match r.normaliser {
            Normaliser::None => Ok((o, state)),
            Normaliser::Gated { eps } => {
                let n = self.columns(walk, o, 4, values..values + sums);
                let o = self.columns(walk, o, 4, 0..values);
                Ok((self.divided(walk, o, n, eps), state))
            }
            Normaliser::Ungated { eps } => {
                let n = self.undecayed(walk, (q, k), bonus, start);
                let state = state.map(|state| {
                    let z = self.last_sums(walk, k, start);
                    let dims = walk.step_dims(&[heads, keys, values + sums]);
                    let axis = [("axis", Setting::Integer(3))];
                    self.file.node(&walk.name("with_sums"), "Concat", &[state, z], &axis, dims)
                });
                Ok((self.divided(walk, o, n, eps), state))
            }
        }
    }

    /// `q_t · z_t` of sums that do not decay, `[batch, steps, heads, 1, 1]`.
    fn undecayed(
        &mut self,
        walk: &Walk<'_>,
        (q, k): (Value, Value),
        bonus: Option<Value>,
        start: Option<Value>,
    ) -> Value {
        let RecurrenceSizes { heads, keys, values, .. } = walk.sizes();
        let dims = walk.dims(&[heads, keys, 1]);
        let axis = self.constant(&[], Content::Integers(vec![1]));
        let settings = [
            ("exclusive", Setting::Integer(i64::from(bonus.is_some()))),
            ("reverse", Setting::Integer(i64::from(walk.backward()))),
        ];
        let mut z = self.file.node(&walk.name("sums"), "CumSum", &[k, axis], &settings, dims.clone());
        if let Some(start) = start {
            let before = self.columns(walk, start, 3, values..values + 1);
            let view = self.list(&[0, 1, heads as i64, keys as i64, 1]);
            let one = [walk.batch.clone(), 1.into(), heads.into(), keys.into(), 1.into()].to_vec();
            let before = self.file.node(&walk.name("sums_before"), "Reshape", &[before, view], &[], one);
            z = self.file.node(&walk.name("sums_from"), "Add", &[z, before], &[], dims.clone());
        }
        if let Some(bonus) = bonus {
            let own = self.file.node(&walk.name("own_keys"), "Mul", &[k, bonus], &[], dims.clone());
            z = self.file.node(&walk.name("sums_seen"), "Add", &[z, own], &[], dims);
        }
        self.file.node(&walk.name("weights"), "MatMul", &[q, z], &[], walk.dims(&[heads, 1, 1]))
    }

    /// The last of the sums that do not decay, `[batch, heads, keys, 1]`.
    fn last_sums(&mut self, walk: &Walk<'_>, k: Value, start: Option<Value>) -> Value {
        let RecurrenceSizes { heads, keys, values, .. } = walk.sizes();
        let (axes, keep) = (self.list(&[1]), [("keepdims", Setting::Integer(0))]);
        let dims = walk.step_dims(&[heads, keys, 1]);
        let sums = self.file.node(&walk.name("last_sum"), "ReduceSum", &[k, axes], &keep, dims.clone());
        let Some(start) = start else { return sums };
        let before = self.columns(walk, start, 3, values..values + 1);
        self.file.node(&walk.name("all_sums"), "Add", &[sums, before], &[], dims)
    }

    /// `o / (n + eps)`.
    fn divided(&mut self, walk: &Walk<'_>, o: Value, n: Value, eps: f64) -> Value {
        let eps = self.scalar(eps as f32);
        let dims = self.file.dims(n).to_vec();
        let n = self.file.node(&walk.name("normaliser"), "Add", &[n, eps], &[], dims);
        let dims = self.file.dims(o).to_vec();
        self.file.node(&walk.name("divided"), "Div", &[o, n], &[], dims)
    }

    /// Some of the last extent, `axis`, of a value.
    fn columns(&mut self, walk: &Walk<'_>, value: Value, axis: usize, range: std::ops::Range<usize>) -> Value {
        let mut dims = self.file.dims(value).to_vec();
        dims[axis] = range.len().into();
        let inputs = [range.start, range.end, axis].map(|n| self.list(&[n as i64]));
        let inputs = [value, inputs[0], inputs[1], inputs[2]];
        self.file.node(&walk.name("columns"), "Slice", &inputs, &[], dims)
    }

    /// `u` with a column of ones for each of the sums.
    fn with_ones(&mut self, walk: &Walk<'_>, u: Value) -> Value {
        let RecurrenceSizes { heads, values, sums, .. } = walk.sizes();
        let pads = self.list(&[0, 0, 0, 0, 0, 0, 0, 0, 0, sums as i64]);
        let one = self.scalar(1.0);
        self.file.node(&walk.name("with_ones"), "Pad", &[u, pads, one], &[], walk.dims(&[heads, 1, values + sums]))
    }

    /// The gates; where the sums decay by channel, their columns have those of the values.
    fn gates(&mut self, walk: &Walk<'_>, steps: Option<Value>, sums: Option<usize>) -> Result<Gates> {
        let RecurrenceSizes { heads, keys, values, .. } = walk.sizes();
        let twice = |this: &mut Self, value: Value, dims: Vec<Dim>, axis: i64| match sums {
            None => value,
            Some(_) => {
                let axis = [("axis", Setting::Integer(axis))];
                this.file.node(&walk.name("twice"), "Concat", &[value, value], &axis, dims)
            }
        };
        let columns = values + sums.unwrap_or(0);
        let (log, inner) = match &walk.recorded.r.gate {
            Gate::None => return Ok(Gates::None),
            Gate::Constant(gates) => {
                return Ok(Gates::Fixed(self.constant(&[heads, 1, 1], Content::Floats(gates.clone()))));
            }
            Gate::Factored { a_log, .. } => {
                let Some(steps) = steps else { return Ok(Gates::None) };
                let delta = self.reshaped(walk, "delta", steps, &[heads, 1, values]);
                let delta = twice(self, delta, walk.dims(&[heads, 1, columns]), 4);
                let a = self.shaped(walk, a_log, &[heads, values, keys]);
                let dims: Vec<Dim> = vec![heads.into(), keys.into(), values.into()];
                let order = [("perm", Setting::Integers(vec![0, 2, 1]))];
                let a = self.file.node(&walk.name("a_log"), "Transpose", &[a], &order, dims.clone());
                let a = self.file.node(&walk.name("minus_a"), "Exp", &[a], &[], dims.clone());
                let a = self.file.node(&walk.name("a"), "Neg", &[a], &[], dims);
                let rates = twice(self, a, vec![heads.into(), keys.into(), columns.into()], 2);
                return Ok(Gates::Scanned { gates: delta, rates: Some(rates) });
            }
            Gate::Scalar(log) => (log, [heads, 1, 1]),
            Gate::Keys(log) => (log, [heads, keys, 1]),
            Gate::Values(log) => (log, [heads, 1, values]),
        };
        let log = self.along(walk, log)?;
        let dims = self.file.dims(log).to_vec();
        let gates = self.file.node(&walk.name("gates"), "Exp", &[log], &[], dims);
        let gates = self.reshaped(walk, "gates", gates, &inner);
        let along = matches!(walk.recorded.r.gate, Gate::Values(_));
        let gates = if along { twice(self, gates, walk.dims(&[heads, 1, columns]), 4) } else { gates };
        Ok(Gates::Scanned { gates, rates: None })
    }

    /// The state carried in.
    fn start(&mut self, walk: &Walk<'_>) -> Result<Option<Value>> {
        match walk.recorded.r.start {
            Start::Zeros => Ok(None),
            Start::Carried(input) => self.form(walk.inputs[input], Layout::Last).map(Some),
        }
    }

    /// `[batch, heads, keys, columns]` of zeros, where `like` has the batch.
    fn zeros(&mut self, walk: &Walk<'_>, like: Value, columns: usize) -> Value {
        let RecurrenceSizes { heads, keys, .. } = walk.sizes();
        let dims = walk.step_dims(&[heads, keys, columns]);
        if let Dim::Number(batch) = dims[0] {
            let zeros = vec![0.0; batch * heads * keys * columns];
            return self.constant(&[batch, heads, keys, columns], Content::Floats(zeros));
        }
        let shape = self.file.integer_node(&walk.name("shape_of_keys"), "Shape", &[like], &[], vec![5.into()]);
        let (first, axis) = (self.list(&[0]), [("axis", Setting::Integer(0))]);
        let batch = self.file.integer_node(&walk.name("batch"), "Gather", &[shape, first], &axis, vec![1.into()]);
        let inner = self.list(&[heads as i64, keys as i64, columns as i64]);
        let shape = self.file.integer_node(&walk.name("state_shape"), "Concat", &[batch, inner], &axis, vec![4.into()]);
        self.file.node(&walk.name("zeros"), "ConstantOfShape", &[shape], &[], dims)
    }
}

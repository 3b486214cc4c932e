//! Recurrences: a `Scan` over the steps, around a body of a few products.
//!
//! The body carries the state `[batch, heads, keys, columns]`; what it takes of a step is reshaped before:
//!
//! ```text
//! q [batch, steps, heads, 1, keys]   k [.., keys, 1]   u [.., 1, columns]   gates that broadcast to [.., keys, columns]
//! S = S gate + k u;   o = q S
//! ```
//!
//! A normaliser that decays is a column of ones behind the values, one that does not is a cumulative sum of the keys. Rows and
//! columns are walked in either direction at any size; other orders are lists of tokens, for a size that is known.

mod along;
mod scan;

use mila_ops::recurrence::{Course, Gate, InputGate, NonCausal, Normaliser, RecurrenceSizes, Shortcut, StateAt};
use mila_ops::{Error, Result};

use super::content::Content;
use super::dim::Dim;
use super::file::{Setting, Value};
use super::lower::Lowering;
use super::maps::Layout;
use crate::recurrence::Recorded;
use crate::{Id, Operator};
use along::{Order, Walk};

impl Lowering<'_> {
    pub(super) fn recurrence(&mut self, id: Id, recorded: &Recorded, inputs: &[Id]) -> Result<()> {
        let walk = self.walk(id, recorded, inputs)?;
        let (r, sizes) = (&recorded.r, recorded.sizes);
        let segmented = matches!(walk.order, Order::Listed { segment, .. } if segment > 0);
        if walk.state.is_some() && (r.state != StateAt::Last || segmented) {
            return Err(refused(&walk.path, "only a last state of one segment can be had"));
        }
        let RecurrenceSizes { heads, keys, values, .. } = sizes;
        let v = self.along(&walk, &r.v)?;
        let k = self.along(&walk, &r.k)?;
        let q = self.along(&walk, &r.q)?;
        let gate_steps = match &r.gate {
            Gate::Factored { delta, .. } => Some(self.step_sizes(&walk, delta)?),
            _ => None,
        };
        let input_steps = match &r.input_gate {
            InputGate::None => None,
            InputGate::OfGate => gate_steps,
            InputGate::Channel(delta) | InputGate::Head(delta) => Some(self.step_sizes(&walk, delta)?),
        };
        let mut u = self.reshaped(&walk, "u", v, &[heads, 1, values]);
        if let Some(steps) = input_steps {
            let columns = if matches!(r.input_gate, InputGate::Head(_)) { 1 } else { values };
            let steps = self.reshaped(&walk, "input_gate", steps, &[heads, 1, columns]);
            u = self.file.node(&walk.name("gated"), "Mul", &[u, steps], &[], walk.dims(&[heads, 1, values]));
        }
        let q = self.reshaped(&walk, "q", q, &[heads, 1, keys]);
        let k = self.reshaped(&walk, "k", k, &[heads, keys, 1]);
        let (o, state) = match r.course {
            Course::Causal(_) => self.scanned(&walk, (q, k, u), gate_steps)?,
            Course::NonCausal(form) => self.all_tokens(&walk, form, (q, k, u)),
        };
        let mut y = self.reshaped(&walk, "read", o, &[sizes.channels()]);
        if let Shortcut::Value(d) | Shortcut::Map { d, .. } = &r.shortcut {
            let x = if let Shortcut::Map { x, .. } = &r.shortcut { self.along(&walk, x)? } else { v };
            let d = self.values(&walk, d);
            let dims = walk.dims(&[sizes.channels()]);
            let x = self.file.node(&walk.name("shortcut"), "Mul", &[x, d], &[], dims.clone());
            y = self.file.node(&walk.name("with_shortcut"), "Add", &[y, x], &[], dims);
        }
        let y = self.on_the_map(&walk, id, y)?;
        self.set(id, Layout::Last, y);
        if let (Some(node), Some(state)) = (walk.state, state) {
            self.set(node, Layout::Last, state);
        }
        Ok(())
    }

    /// The node of a recurrence's state, if something uses it.
    fn state_of(&self, id: Id) -> Option<Id> {
        let state = |user: &&Id| matches!(self.trace.nodes()[user.0].operator, Operator::State);
        let node = *self.users[id.0].iter().find(state)?;
        (!self.users[node.0].is_empty() || self.trace.is_output(node.0)).then_some(node)
    }

    /// The same where every token sees one state.
    fn all_tokens(
        &mut self,
        walk: &Walk<'_>,
        form: NonCausal,
        (q, k, u): (Value, Value, Value),
    ) -> (Value, Option<Value>) {
        let RecurrenceSizes { heads, keys, values, sums } = walk.sizes();
        let by_head = |this: &mut Self, name: &str, value: Value, order: [i64; 5], rows: Dim, columns: Dim| {
            let order = [("perm", Setting::Integers(order.to_vec()))];
            let dims = vec![walk.batch.clone(), heads.into(), 1.into(), rows, columns];
            this.file.node(&walk.name(name), "Transpose", &[value], &order, dims)
        };
        let steps = walk.steps.clone();
        // [batch, steps, heads, keys, 1] as [batch, heads, 1, keys, steps], and so on.
        let k_rows = by_head(self, "k_rows", k, [0, 2, 4, 3, 1], keys.into(), steps.clone());
        let u_rows = by_head(self, "u_rows", u, [0, 2, 3, 1, 4], steps.clone(), values.into());
        let q_rows = by_head(self, "q_rows", q, [0, 2, 3, 1, 4], steps, keys.into());
        let square = vec![walk.batch.clone(), heads.into(), 1.into(), keys.into(), values.into()];
        let mut state = self.file.node(&walk.name("state"), "MatMul", &[k_rows, u_rows], &[], square.clone());
        let normaliser = walk.recorded.r.normaliser;
        // A plain sum does not depend on how many there are.
        let counts = form == NonCausal::Mean || normaliser != Normaliser::None;
        let tokens = counts.then(|| self.token_number(walk, k));
        if let (NonCausal::Mean, Some(tokens)) = (form, tokens) {
            state = self.file.node(&walk.name("mean_state"), "Div", &[state, tokens], &[], square);
        }
        let rows = vec![walk.batch.clone(), heads.into(), 1.into(), walk.steps.clone(), values.into()];
        let o = self.file.node(&walk.name("reads"), "MatMul", &[q_rows, state], &[], rows);
        let order = [("perm", Setting::Integers(vec![0, 3, 1, 2, 4]))];
        let mut o = self.file.node(&walk.name("by_token"), "Transpose", &[o], &order, walk.dims(&[heads, 1, values]));
        let sums_of_keys = match (normaliser, tokens) {
            (Normaliser::None, _) | (_, None) => None,
            (Normaliser::Gated { eps } | Normaliser::Ungated { eps }, Some(tokens)) => {
                let (n, z) = self.of_all_keys(walk, (form, tokens), (q, k), eps);
                o = self.file.node(&walk.name("divided"), "Div", &[o, n], &[], walk.dims(&[heads, 1, values]));
                Some(z)
            }
        };
        if walk.state.is_none() {
            return (o, None);
        }
        let view = self.list(&[0, heads as i64, keys as i64, values as i64]);
        let dims = walk.step_dims(&[heads, keys, values]);
        let mut state = self.file.node(&walk.name("last_state"), "Reshape", &[state, view], &[], dims);
        if let Some(z) = sums_of_keys {
            let (dims, axis) = (walk.step_dims(&[heads, keys, values + sums]), [("axis", Setting::Integer(3))]);
            state = self.file.node(&walk.name("with_sums"), "Concat", &[state, z], &axis, dims);
        }
        (o, Some(state))
    }

    /// The normaliser of every token, `[batch, steps, heads, 1, 1]`, and what sums up the keys, `[batch, heads, keys, 1]`.
    fn of_all_keys(
        &mut self,
        walk: &Walk<'_>,
        (form, tokens): (NonCausal, Value),
        (q, k): (Value, Value),
        eps: f64,
    ) -> (Value, Value) {
        let RecurrenceSizes { heads, keys, .. } = walk.sizes();
        let (axes, keep) = (self.list(&[1]), [("keepdims", Setting::Integer(0))]);
        let column = walk.step_dims(&[heads, keys, 1]);
        let mut z = self.file.node(&walk.name("sums"), "ReduceSum", &[k, axes], &keep, column.clone());
        let mut eps = self.scalar(eps as f32);
        match form {
            NonCausal::Mean => z = self.file.node(&walk.name("mean_key"), "Div", &[z, tokens], &[], column),
            NonCausal::Sum => eps = self.file.node(&walk.name("eps"), "Mul", &[eps, tokens], &[], vec![]),
        }
        let view = self.list(&[0, 1, heads as i64, keys as i64, 1]);
        let one = vec![walk.batch.clone(), 1.into(), heads.into(), keys.into(), 1.into()];
        let sums_of_all = self.file.node(&walk.name("sums_of_all"), "Reshape", &[z, view], &[], one);
        let dims = walk.dims(&[heads, 1, 1]);
        let n = self.file.node(&walk.name("weights"), "MatMul", &[q, sums_of_all], &[], dims.clone());
        (self.file.node(&walk.name("normaliser"), "Add", &[n, eps], &[], dims), z)
    }

    /// How many steps there are, as a scalar of f32.
    fn token_number(&mut self, walk: &Walk<'_>, rows: Value) -> Value {
        if let Dim::Number(n) = walk.steps {
            return self.scalar(n as f32);
        }
        let shape = self.file.integer_node(&walk.name("shape_of_keys"), "Shape", &[rows], &[], vec![5.into()]);
        let (one, axis) = (self.constant(&[], Content::Integers(vec![1])), [("axis", Setting::Integer(0))]);
        let count = self.file.integer_node(&walk.name("count"), "Gather", &[shape, one], &axis, vec![]);
        self.file.node(&walk.name("token_count"), "Cast", &[count], &[("to", Setting::Integer(1))], vec![])
    }
}

fn refused(path: &str, why: &str) -> Error {
    Error::Unsupported { what: format!("the recurrence `{path}` in ONNX"), why: why.into() }
}

//! The recurrence in Burn's own operators, step by step, for every device.

use burn::tensor::{Int, Tensor};
use mila_ops::Recurrence;
use mila_ops::recurrence::{
    Course, Delta, Gate, InputGate, NonCausal, Normaliser, Read, RecurrenceSizes, Resolved, Shortcut, Start, Steps,
};

use crate::portable::softplus;

type Operands = Recurrence<Tensor<4>, Tensor<1>, Tensor<4>>;

/// What is carried from step to step: `[batch, heads, keys, columns]` a step.
struct Core {
    /// `[batch, steps, heads, keys, 1]`
    q: Tensor<5>,
    /// `[batch, steps, heads, keys, 1]`
    k: Tensor<5>,
    /// `[batch, steps, heads, 1, columns]`
    u: Tensor<5>,
    /// Gates that broadcast to `[batch, steps, heads, keys, columns]`; none if the state does not decay.
    gates: Option<Tensor<5>>,
    /// `[1, heads, keys, 1]`
    bonus: Option<Tensor<4>>,
    /// `[batch, heads, keys, columns]`
    start: Tensor<4>,
}

/// The output and the state.
pub(super) fn recurrence(r: &Operands, resolved: &Resolved, steps: &Steps) -> (Tensor<4>, Tensor<4>) {
    let RecurrenceSizes { heads, keys, values, sums } = resolved.sizes;
    let (dims, len, device) = (resolved.output, steps.len(), r.v.device());
    let batch = dims.batch;
    let order = Order { steps };
    let rows = |map: &Tensor<4>| order.gathered(map).reshape([batch, len, heads, keys, 1]);
    let columns = |map: Tensor<3>| map.reshape([batch, len, heads, 1, values]);
    let gate_delta = match &r.gate {
        Gate::Factored { delta, .. } => Some(order.step_sizes(delta)),
        _ => None,
    };
    let v = order.gathered(&r.v);
    let u = match (&r.input_gate, &gate_delta) {
        (InputGate::None, _) | (InputGate::OfGate, None) => columns(v.clone()),
        (InputGate::OfGate, Some(delta)) => columns(v.clone() * delta.clone()),
        (InputGate::Channel(delta), _) => columns(v.clone() * order.step_sizes(delta)),
        (InputGate::Head(delta), _) => columns(v.clone()) * order.step_sizes(delta).reshape([batch, len, heads, 1, 1]),
    };
    let gates = match &r.gate {
        Gate::None => None,
        Gate::Constant(gates) => Some(Tensor::<1>::from_floats(gates.as_slice(), &device).reshape([1, 1, heads, 1, 1])),
        Gate::Scalar(log) => Some(order.gathered(log).exp().reshape([batch, len, heads, 1, 1])),
        Gate::Keys(log) => Some(order.gathered(log).exp().reshape([batch, len, heads, keys, 1])),
        Gate::Values(log) => Some(columns(order.gathered(log).exp())),
        Gate::Factored { a_log, .. } => gate_delta.map(|delta| {
            let a = a_log.clone().exp().neg().reshape([1, 1, heads, values, keys]).swap_dims(3, 4);
            (columns(delta) * a).exp()
        }),
    };
    let bonus = match &r.read {
        Read::AfterWrite => None,
        Read::BeforeWrite { bonus } => Some(bonus.clone().reshape([1, heads, keys, 1])),
    };
    let start = match &r.start {
        Start::Zeros => Tensor::zeros([batch, heads, keys, values + sums], &device),
        Start::Carried(start) => start.clone(),
    };
    let (q, k) = (rows(&r.q), rows(&r.k));
    let core = Core { q, k, u, gates, bonus, start: start.clone().narrow(3, 0, values) };
    let pass = |core: &Core| match r.course {
        Course::Causal(_) => core.step_by_step(steps, resolved.until),
        Course::NonCausal(form) => core.all_tokens(form),
    };
    let (mut o, mut state) = pass(&core);
    if let Normaliser::Gated { eps } | Normaliser::Ungated { eps } = r.normaliser {
        let gates = core.gates.clone().filter(|_| matches!(r.normaliser, Normaliser::Gated { .. }));
        let u = Tensor::ones([batch, len, heads, 1, sums], &device);
        let of_sums = Core { u, gates, start: start.narrow(3, values, sums), ..core };
        let (n, z) = pass(&of_sums);
        let tokens = if r.course == Course::NonCausal(NonCausal::Sum) { len as f64 } else { 1.0 };
        o = o / (n + eps * tokens);
        state = Tensor::cat(vec![state, z], 3);
    }
    let channels = dims.channels;
    let mut y = o.reshape([batch, len, channels]);
    if let Shortcut::Value(d) | Shortcut::Map { d, .. } = &r.shortcut {
        let x = if let Shortcut::Map { x, .. } = &r.shortcut { order.gathered(x) } else { v };
        y = y + x * d.clone().reshape([1, 1, channels]);
    }
    (order.scattered(y).reshape([batch, dims.height, dims.width, channels]), state)
}

impl Core {
    /// Outputs `[batch, steps, heads, columns]`, and the state after `until` steps.
    fn step_by_step(&self, steps: &Steps, until: usize) -> (Tensor<4>, Tensor<4>) {
        let [batch, len, heads, _, columns] = self.u.dims();
        let at = |map: &Tensor<5>, t: usize| map.clone().narrow(1, t.min(map.dims()[1] - 1), 1).squeeze_dim::<4>(1);
        let (mut outputs, mut kept) = (Vec::with_capacity(len), self.start.clone());
        for segment in steps.segments() {
            let mut state = self.start.clone();
            for t in segment {
                let written = at(&self.k, t) * at(&self.u, t);
                let before = state.clone();
                state = match &self.gates {
                    Some(gates) => state * at(gates, t) + written.clone(),
                    None => state + written.clone(),
                };
                let seen = match &self.bonus {
                    Some(bonus) => before + bonus.clone() * written,
                    None => state.clone(),
                };
                outputs.push((seen * at(&self.q, t)).sum_dim(2).reshape([batch, 1, heads, columns]));
                if t + 1 == until {
                    kept = state.clone();
                }
            }
        }
        if outputs.is_empty() {
            return (Tensor::zeros([batch, 0, heads, columns], &self.u.device()), kept);
        }
        (Tensor::cat(outputs, 1), kept)
    }

    /// The same where every token sees one state.
    fn all_tokens(&self, form: NonCausal) -> (Tensor<4>, Tensor<4>) {
        let [batch, len, heads, _, columns] = self.u.dims();
        let by_head =
            |map: &Tensor<5>, width: usize| map.clone().reshape([batch, len, heads, width]).permute([0, 2, 1, 3]);
        let keys = self.k.dims()[3];
        let state = by_head(&self.k, keys).swap_dims(2, 3).matmul(by_head(&self.u, columns));
        let state = match form {
            NonCausal::Sum => state,
            NonCausal::Mean => state / len as f64,
        };
        let outputs = by_head(&self.q, keys).matmul(state.clone());
        (outputs.permute([0, 2, 1, 3]), state)
    }
}

/// Maps along an order, and back.
struct Order<'a> {
    steps: &'a Steps,
}

impl Order<'_> {
    /// `[batch, steps, channels]`, zeros where a step visits no token.
    fn gathered(&self, map: &Tensor<4>) -> Tensor<3> {
        let [batch, height, width, channels] = map.dims();
        let tokens = map.clone().reshape([batch, height * width, channels]);
        let index: Vec<i32> =
            self.steps.index().iter().map(|&token| token.min(self.steps.tokens() as u32) as i32).collect();
        select(tokens, &index)
    }

    /// `[batch, tokens, channels]`, zeros for tokens that no step visits.
    fn scattered(&self, along: Tensor<3>) -> Tensor<3> {
        let behind = self.steps.len() as u32;
        let index: Vec<i32> = self.steps.inverse().iter().map(|step| step.unwrap_or(behind) as i32).collect();
        select(along, &index)
    }

    fn step_sizes(&self, delta: &Delta<Tensor<4>, Tensor<1>>) -> Tensor<3> {
        let mut x = self.gathered(&delta.raw);
        if let Some(bias) = &delta.bias {
            x = x + bias.clone().reshape([1, 1, bias.dims()[0]]);
        }
        softplus(x)
    }
}

/// The rows `index`, where the row behind the last is zeros.
fn select(rows: Tensor<3>, index: &[i32]) -> Tensor<3> {
    let [batch, _, channels] = rows.dims();
    let device = rows.device();
    let rows = Tensor::cat(vec![rows, Tensor::zeros([batch, 1, channels], &device)], 1);
    rows.select(1, Tensor::<1, Int>::from_ints(index, &device))
}

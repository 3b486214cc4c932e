//! Recurrences against PyTorch.

use mila_ops::recurrence::{Delta, Gate, InputGate, Normaliser, Part, Path, Shortcut};
use mila_ops::reference::{Array, Reference, recurrence_gradients};
use mila_ops::{Init, Numeric, Recurrence, ScanOrder, Wanted};

use crate::{Case, Factory, Golden, Tolerance, assert_close};

/// What a case is made of: `M` for maps, `P` for parameters.
struct Operands<M, P> {
    q: M,
    k: M,
    v: M,
    gate: Option<M>,
    bias: Option<P>,
    a_log: Option<P>,
    d: Option<P>,
}

impl<M, P> Operands<M, P> {
    fn recurrence(&self, case: &Case) -> Recurrence<Part<'_, M>, Part<'_, P>, &M> {
        let raw = || needed(&self.gate, case);
        let eps = 1e-6;
        Recurrence {
            heads: case.heads,
            gate: match case.gate.as_str() {
                "none" => Gate::None,
                "scalar" => Gate::Scalar(raw()),
                "keys" => Gate::Keys(raw()),
                "values" => Gate::Values(raw()),
                "factored" => {
                    let delta = Delta { raw: raw(), bias: Some(needed(&self.bias, case)) };
                    Gate::Factored { delta, a_log: needed(&self.a_log, case) }
                }
                other => panic!("golden gate `{other}` is unknown to the harness"),
            },
            input_gate: if case.input == "of_gate" { InputGate::OfGate } else { InputGate::None },
            normaliser: match case.normaliser.as_str() {
                "none" => Normaliser::None,
                "gated" => Normaliser::Gated { eps },
                "ungated" => Normaliser::Ungated { eps },
                other => panic!("golden normaliser `{other}` is unknown to the harness"),
            },
            shortcut: self.d.as_ref().map_or(Shortcut::None, |d| Shortcut::Value(Part::All(d))),
            ..Recurrence::causal(Part::All(&self.q), Part::All(&self.k), Part::All(&self.v), order(&case.order))
        }
    }
}

fn needed<'a, T>(operand: &'a Option<T>, case: &Case) -> Part<'a, T> {
    Part::All(operand.as_ref().unwrap_or_else(|| panic!("{}: an operand is missing", case.name)))
}

fn order(name: &str) -> ScanOrder {
    let order = match name.trim_end_matches("_reversed") {
        "rows" => ScanOrder::ROWS,
        "columns" => ScanOrder::COLUMNS,
        "windows2" => ScanOrder::along(Path::Windows { side: 2 }),
        other => panic!("golden order `{other}` is unknown to the harness"),
    };
    if name.ends_with("_reversed") { order.reversed() } else { order }
}

/// The names of a case's tensors, in the order of [`Operands`].
fn named(golden: &Golden, case: &Case) -> Operands<String, String> {
    let name = |part: &str| format!("{}/{part}", case.name);
    let optional = |part: &str| Some(name(part)).filter(|name| golden.has(name));
    Operands {
        q: name("q"),
        k: name("k"),
        v: name("v"),
        gate: optional("raw").or_else(|| optional("log")),
        bias: optional("bias"),
        a_log: optional("a_log"),
        d: optional("d"),
    }
}

/// Runs every recurrence of the goldens.
///
/// # Panics
/// With the case that fails.
pub fn recurrence_goldens<E: Numeric>(make: Factory<E>, tolerance: Tolerance) {
    let golden = Golden::open("recurrence");
    for case in &golden.cases {
        let names = named(&golden, case);
        let mut e = make();
        let mut parameter = |name: &String| {
            let wanted = Wanted::parameter(name.clone(), golden.tensor(name).0, Init::Zeros);
            e.prepare_parameter(wanted, &golden).expect("a parameter")
        };
        let [bias, a_log, d] = [&names.bias, &names.a_log, &names.d].map(|name| name.as_ref().map(&mut parameter));
        let e = e.evaluating();
        let map = |name: &String| {
            let map = golden.map(name);
            e.map(map.dims, &map.values).expect("a map")
        };
        let gate = names.gate.as_ref().map(map);
        let operands = Operands { q: map(&names.q), k: map(&names.k), v: map(&names.v), gate, bias, a_log, d };
        let (y, state) =
            e.recurrence(&operands.recurrence(case)).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for (part, found) in [("y", y), ("state", state)] {
            let (wanted, found) = (golden.map(&format!("{}/{part}", case.name)), e.read(&found).expect("a map"));
            assert_eq!(found.dims, wanted.dims, "{}: extent of {part}", case.name);
            assert_close(&format!("{}: {part}", case.name), &found.values, &wanted.values, tolerance);
        }
    }
    assert!(golden.cases.len() >= 10, "only {} recurrences", golden.cases.len());
}

/// Compares the gradients of the reference with those of PyTorch.
///
/// # Panics
/// With the case that fails.
pub fn recurrence_golden_gradients(tolerance: Tolerance) {
    let golden = Golden::open("recurrence");
    for case in &golden.cases {
        let names = named(&golden, case);
        let map = |name: &String| {
            let map = golden.map(name);
            Array::new(map.dims, map.values.into_iter().map(f64::from).collect::<Vec<f64>>())
        };
        let parameter = |name: &Option<String>| {
            name.as_ref().map(|name| golden.tensor(name).1.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>())
        };
        let operands = Operands {
            q: map(&names.q),
            k: map(&names.k),
            v: map(&names.v),
            gate: names.gate.as_ref().map(map),
            bias: parameter(&names.bias),
            a_log: parameter(&names.a_log),
            d: parameter(&names.d),
        };
        let state = Array::zeros(golden.map(&format!("{}/state", case.name)).dims);
        let weights = map(&format!("{}/w", case.name));
        let r: mila_ops::RecurrenceOn<'_, Reference<f64>> = operands.recurrence(case);
        let g = recurrence_gradients(&r, &weights, &state).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let gate = if case.gate == "factored" { "raw" } else { "log" };
        let found = [
            ("q", &g.q.values),
            ("k", &g.k.values),
            ("v", &g.v.values),
            (gate, &g.gate.values),
            ("bias", &g.gate_bias),
            ("a_log", &g.a_log),
            ("d", &g.d),
        ];
        for (part, found) in found {
            let name = format!("{}/gradients/{part}", case.name);
            if golden.has(&name) {
                let found: Vec<f32> = found.iter().map(|&x| x as f32).collect();
                assert_close(&name, &found, golden.tensor(&name).1, tolerance);
            }
        }
    }
}

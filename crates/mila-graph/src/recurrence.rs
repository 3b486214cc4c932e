//! Recurrences, recorded.

use std::convert::Infallible;
use std::ops::Range;

use mila_ops::recurrence::{self, Course, Gate, Normaliser, Part, RecurrenceSizes, Shortcut};
use mila_ops::{Error, Recurrence, RecurrenceOn, Result};

use crate::executor::{Parameter, layer};
use crate::{Extent, Graph, Operator, Shaped, Sizes, TensorId};

/// Channels of an input of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPart {
    /// Which of the node's inputs.
    pub input: usize,
    /// Which of its channels.
    pub channels: Range<usize>,
}

/// Values of a tensor of the manifest, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPart {
    /// The tensor.
    pub tensor: TensorId,
    /// Which of its values.
    pub values: Range<usize>,
}

/// Step sizes of recorded operands.
pub(crate) type Delta = recurrence::Delta<MapPart, TensorPart>;

/// A recurrence over inputs of its node and tensors of the manifest; the start is an input, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its operands, and what they do.
    pub r: Recurrence<MapPart, TensorPart, usize>,
    /// Its sizes.
    pub sizes: RecurrenceSizes,
}

impl Recorded {
    /// Every part of a tensor.
    pub fn tensors(&self) -> Vec<TensorPart> {
        let mut parts = Vec::new();
        let keep = |part: &TensorPart| {
            parts.push(part.clone());
            Ok(())
        };
        let Ok(_) = self.r.with_operands::<_, _, _, Infallible>(|_| Ok(()), keep, |_| Ok(()));
        parts
    }

    /// Multiply-accumulates of matrix products per token: `q Kᵀ V` of a non-causal recurrence, and its normaliser.
    fn macs_per_token(&self) -> u64 {
        match self.r.course {
            Course::NonCausal(_) => self.state_macs(2) + self.normaliser_macs(),
            Course::Causal(_) => 0,
        }
    }

    /// Multiply-accumulates of a recurrence per step: 9 for every element of the state of S6, as the published tables of the
    /// Mamba families have it, and so for other gates' 3 (decay, write, read), and 2 without a gate.
    fn scan_macs_per_step(&self) -> u64 {
        let per_element = match (self.r.course, &self.r.gate) {
            (Course::NonCausal(_), _) => return 0,
            (_, Gate::Factored { .. }) => 9,
            (_, Gate::None) => 2,
            _ => 3,
        };
        let shortcut = if self.r.shortcut == Shortcut::None { 0 } else { self.sizes.channels() as u64 };
        self.state_macs(per_element) + self.normaliser_macs() + shortcut
    }

    fn state_macs(&self, per_element: u64) -> u64 {
        per_element * (self.sizes.channels() * self.sizes.keys) as u64
    }

    /// One per query and column of the sums.
    fn normaliser_macs(&self) -> u64 {
        if self.r.normaliser == Normaliser::None {
            return 0;
        }
        (self.sizes.heads * self.sizes.keys * self.sizes.sums) as u64
    }

    /// Multiply-accumulates of the recurrence for an output of these extents.
    pub(crate) fn scan_macs(&self, [batch, height, width]: &[Extent; 3], sizes: Sizes) -> u64 {
        let Course::Causal(order) = self.r.course else { return 0 };
        // Extents of a map are at least one, and what cannot be walked at all is found by who runs it.
        let steps = order.count(height.at(sizes), width.at(sizes)).unwrap_or(0);
        self.scan_macs_per_step() * (batch.at(sizes) * steps) as u64
    }
}

impl Graph {
    /// See [`mila_ops::Executor::recurrence`].
    pub(crate) fn record_recurrence<'a>(&self, r: &RecurrenceOn<'a, Self>) -> Result<(Shaped, Shaped)> {
        const OPERATOR: &str = "recurrence";
        let sizes = recurrence::sizes::<Self>(r, |map| map.channels, |parameter| parameter.volume)?;
        if let Course::Causal(order) = r.course {
            // What does not depend on the grid.
            order.count(1, 1)?;
        }
        let extents = &r.v.whole().extents;
        let mut inputs: Vec<&Shaped> = Vec::new();
        let mut name = None;
        let map = |part: &Part<'a, Shaped>| {
            let map = part.whole();
            if map.extents != *extents {
                let expected = Shaped { extents: extents.clone(), ..map.clone() };
                return Err(Error::shape(OPERATOR, expected, map));
            }
            let known = inputs.iter().position(|input| input.id == map.id);
            let input = known.unwrap_or(inputs.len());
            if known.is_none() {
                inputs.push(map);
            }
            Ok(MapPart { input, channels: part.range(map.channels) })
        };
        let parameter = |part: &Part<'_, Parameter>| {
            let parameter = part.whole();
            name.get_or_insert_with(|| layer(&parameter.name));
            Ok(TensorPart { tensor: parameter.tensor, values: part.range(parameter.volume) })
        };
        let mut start = None;
        let state = |map: &&Shaped| {
            let expected = state_of(map, &extents[0], sizes);
            if map.extents != expected.extents || map.channels != expected.channels {
                return Err(Error::shape("recurrence's start", expected, map));
            }
            start = Some((*map).clone());
            Ok(0)
        };
        let mut r = r.with_operands(map, parameter, state)?;
        let (q, v) = (inputs[r.q.input].id, inputs[r.v.input]);
        if let (recurrence::Start::Carried(at), Some(start)) = (&mut r.start, &start) {
            *at = inputs.len();
            inputs.push(start);
        }
        let name = name.unwrap_or_else(|| layer(&self.name_of(q)));
        let recorded = Recorded { r, sizes };
        let macs = recorded.macs_per_token();
        let operator = Operator::Recurrence(Box::new(recorded));
        let y = self.record(&name, operator, &inputs, v.extents.clone(), sizes.channels(), macs);
        let Shaped { extents, channels, .. } = state_of(&y, &y.extents[0], sizes);
        let state = self.record("", Operator::State, &[&y], extents, channels, 0);
        Ok((y, state))
    }
}

/// The shape of the state of a batch.
fn state_of(map: &Shaped, batch: &Extent, sizes: RecurrenceSizes) -> Shaped {
    let dims = sizes.state_dims(0);
    let extents = [batch.clone(), Extent::Number(dims.height), Extent::Number(dims.width)];
    Shaped { id: map.id, extents, channels: dims.channels }
}

#[cfg(test)]
mod tests {
    use mila_ops::recurrence::{NonCausal, StateAt};
    use mila_ops::{Builder, Dims, Executor, Init, ScanOrder};
    use mila_parity::{GateKind, RecurrenceCase, ShortcutKind};

    use super::*;
    use crate::{Cost, Trace};

    /// A case as a trace of one output, and the extents of its output and state.
    fn traced(case: &RecurrenceCase) -> Result<(Trace, [Shaped; 2])> {
        let mut graph = Graph::default();
        let source = graph.source();
        let parameter = Builder::new(&mut graph, &source).parameter("mixer.all", &[case.parameters()], Init::Zeros)?;
        let map = graph.image(case.channels());
        let state = state_of(
            &map,
            &map.extents[0],
            RecurrenceSizes { heads: case.heads, keys: case.keys, values: case.values, sums: case.sums() },
        );
        let start = graph.input(state.extents, state.channels);
        let (y, state) = graph.recurrence(&case.recurrence(&map, &parameter, &start))?;
        Ok((Trace::of_graph(graph, vec![y.id, state.id]), [y, state]))
    }

    fn cost(case: &RecurrenceCase, height: usize, width: usize) -> Cost {
        traced(case).expect("a trace").0.cost(Sizes { batch: 2, height, width })
    }

    #[test]
    fn every_case_has_the_extents_of_its_definition() {
        for case in RecurrenceCase::all() {
            let (_, found) = traced(&case).unwrap_or_else(|error| panic!("{case:?}: {error}"));
            let sizes = Sizes { batch: 2, height: 3, width: 5 };
            let dims = found.map(|map| {
                let [batch, height, width] = [0, 1, 2].map(|axis| map.extents[axis].at(sizes));
                Dims::new(batch, height, width, map.channels)
            });
            assert_eq!(dims, [Dims::new(2, 3, 5, case.heads * case.values), case.state_dims(2)], "{case:?}");
        }
    }

    #[test]
    fn costs_are_those_of_the_published_tables() {
        let (batch, tokens) = (2, 15);
        // VMamba: 9 L D N, and L D for the shortcut.
        let s6 = RecurrenceCase { keys: 16, values: 24, ..RecurrenceCase::S6 };
        let found = cost(&s6, 3, 5);
        assert_eq!((found.macs, found.macs_with_scan), (0, batch * tokens * (9 * 24 * 16 + 24)));
        // Row 2 of the MILA paper's ablation: 9 N C d, and N C for the normaliser.
        let eps = 1e-6;
        let row = RecurrenceCase { gate: GateKind::Factored, keys: 32, values: 32, ..RecurrenceCase::PLAIN };
        let row = RecurrenceCase { normaliser: Normaliser::Ungated { eps }, ..row };
        assert_eq!(cost(&row, 3, 5).macs_with_scan, batch * tokens * (9 * 64 * 32 + 64));
        // Linear attention: 2 N C d, and N C for the normaliser, all of them matrix products.
        let shortcut = ShortcutKind::Value;
        let all = RecurrenceCase { course: Course::NonCausal(NonCausal::Mean), gate: GateKind::None, shortcut, ..row };
        let (found, wanted) = (cost(&all, 3, 5), batch * tokens * (2 * 64 * 32 + 64));
        assert_eq!((found.macs, found.macs_with_scan), (wanted, wanted));
        // Each phase of an atrous order visits a part, and windows go beyond the map.
        let along = |path| RecurrenceCase { course: Course::Causal(ScanOrder::along(path)), ..RecurrenceCase::S6 };
        let per_step = 9 * 24 + 6;
        let phases = (0..4).map(|phase| cost(&along(recurrence::Path::Atrous { phase }), 3, 5).macs_with_scan);
        assert_eq!(phases.sum::<u64>(), batch * tokens * per_step);
        assert_eq!(cost(&along(recurrence::Path::Windows { side: 2 }), 3, 5).macs_with_scan, batch * 24 * per_step);
    }

    #[test]
    fn parameters_are_counted_by_what_is_used() {
        let (trace, _) = traced(&RecurrenceCase::S6).expect("a trace");
        let layers = trace.layers(Sizes::square(4));
        assert_eq!((layers[0].name.as_str(), layers[0].parameters), ("mixer (scan)", 6 + 6 * 4 + 6));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let graph = Graph::default();
        let (a, b) = (graph.image(4), graph.mean_tokens(&graph.image(4)).expect("a map"));
        let refused = |r: &RecurrenceOn<'_, Graph>| graph.recurrence(r).expect_err("a refusal").to_string();
        let plain = |k| Recurrence::causal(Part::All(&a), Part::All(k), Part::All(&a), ScanOrder::ROWS);
        let found = refused(&plain(&b));
        assert_eq!(found, "recurrence: expected [batch, height, width, 4], found [batch, 1, 1, 4]");
        let found = refused(&Recurrence { start: recurrence::Start::Carried(&a), ..plain(&a) });
        assert_eq!(found, "recurrence's start: expected [batch, 1, 4, 4], found [batch, height, width, 4]");
        assert!(graph.recurrence(&Recurrence { state: StateAt::After(3), ..plain(&a) }).is_ok(), "found when it runs");
    }
}

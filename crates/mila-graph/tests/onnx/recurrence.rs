//! Recurrences that cannot be exported, and what is said of them.

use mila_graph::onnx::Extents;
use mila_graph::{Extent, Graph, Shaped, Sizes, Symbol, Trace};
use mila_ops::recurrence::{Course, Normaliser, Path, StateAt};
use mila_ops::{Builder, Executor, Init, ScanOrder};
use mila_parity::{GateKind, RecurrenceCase, StartKind};

use crate::reader::Model;
use crate::{Zeros, is_a_model_in_order};

const FIXED: Extents = Extents::Fixed(Sizes { batch: 2, height: 5, width: 6 });

/// What a trace returns.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Outputs,
    OutputsAndState,
}

fn along(path: Path) -> RecurrenceCase {
    RecurrenceCase { course: Course::Causal(ScanOrder::along(path)), ..RecurrenceCase::S6 }
}

/// A trace of the recurrence of what `of` makes of the image.
fn trace(case: &RecurrenceCase, returned: Of, of: impl Fn(&Graph, Shaped) -> Shaped) -> Trace {
    let mut graph = Graph::default();
    let parameter = Builder::new(&mut graph, &Zeros).parameter("mixer.all", &[case.parameters()], Init::Zeros);
    let parameter = parameter.expect("a parameter");
    let map = of(&graph, graph.image(case.channels()));
    let given = match case.start {
        StartKind::Zeros => map.clone(),
        StartKind::Carried => {
            let extents = [Extent::of(Symbol::Batch), Extent::Number(case.heads), Extent::Number(case.keys)];
            graph.input(extents, case.values + case.sums())
        }
    };
    let (y, state) = graph.recurrence(&case.recurrence(&map, &parameter, &given)).expect("a recurrence");
    let state = (returned == Of::OutputsAndState).then_some(state.id);
    Trace::of_graph(graph, [y.id].into_iter().chain(state).collect())
}

fn refusal(case: &RecurrenceCase, returned: Of, extents: Extents) -> String {
    let trace = trace(case, returned, |_, image| image);
    let refused = trace.onnx(extents).expect_err("a refusal").to_string();
    let reason = refused.strip_prefix("the recurrence `mixer` in ONNX is not supported: ");
    reason.unwrap_or_else(|| panic!("{refused}")).to_owned()
}

fn is_taken(case: &RecurrenceCase, returned: Of, extents: Extents) {
    let trace = trace(case, returned, |_, image| image);
    if let Err(error) = trace.onnx(extents) {
        panic!("{case:?}: {error}");
    }
}

#[test]
fn a_list_of_tokens_needs_a_size() {
    for path in [Path::RowSnake, Path::Windows { side: 2 }, Path::Atrous { phase: 0 }, Path::SeparateTokens] {
        is_taken(&along(path), Of::Outputs, FIXED);
        let refused = refusal(&along(path), Of::Outputs, Extents::Dynamic);
        assert_eq!(refused, "its order is a list of tokens, for one size of the input", "{path:?}");
    }
    for path in [Path::Rows, Path::Columns] {
        is_taken(&along(path), Of::OutputsAndState, Extents::Dynamic);
    }
}

/// The second of every two rows, of a map of one row.
#[test]
fn an_order_without_steps_is_refused() {
    let row = Extents::Fixed(Sizes { batch: 1, height: 1, width: 6 });
    is_taken(&along(Path::Atrous { phase: 0 }), Of::Outputs, row);
    let refused = refusal(&along(Path::Atrous { phase: 1 }), Of::Outputs, row);
    assert_eq!(refused, "its order takes no step at this size");
}

#[test]
fn segments_start_from_zero() {
    let carried = |path| RecurrenceCase { start: StartKind::Carried, ..along(path) };
    is_taken(&carried(Path::Windows { side: 2 }), Of::Outputs, FIXED);
    let refused = refusal(&carried(Path::SeparateWindows { side: 2 }), Of::Outputs, FIXED);
    assert_eq!(refused, "its segments start from a carried state");
}

#[test]
fn states_are_the_last_of_one_segment() {
    const REASON: &str = "only a last state of one segment can be had";
    // Where nobody asks for the state it does not matter which it is.
    let within = RecurrenceCase { state: StateAt::After(3), ..RecurrenceCase::S6 };
    is_taken(&within, Of::Outputs, FIXED);
    assert_eq!(refusal(&within, Of::OutputsAndState, FIXED), REASON);
    let separate = along(Path::SeparateWindows { side: 2 });
    is_taken(&separate, Of::Outputs, FIXED);
    assert_eq!(refusal(&separate, Of::OutputsAndState, FIXED), REASON);
}

#[test]
fn a_pooled_map_is_refused() {
    let pooled = |graph: &Graph, image| graph.mean_tokens(&image).expect("a map");
    let refused = trace(&RecurrenceCase::S6, Of::Outputs, pooled).onnx(FIXED).expect_err("a refusal").to_string();
    assert!(refused.ends_with("a pooled map has no rows and columns"), "{refused}");
}

/// Every kind of recurrence, with and without its state.
#[test]
fn files_of_every_case_are_whole() {
    let mut scans = 0;
    for case in RecurrenceCase::all() {
        let case = RecurrenceCase { state: StateAt::Last, ..case };
        for (returned, extents) in
            [Of::Outputs, Of::OutputsAndState].into_iter().flat_map(|of| [(of, FIXED), (of, Extents::Dynamic)])
        {
            let trace = trace(&case, returned, |_, image| image);
            let Ok(onnx) = trace.onnx(extents) else { continue };
            let mut file = Vec::new();
            onnx.write(&Zeros, &mut file).expect("a written file");
            let model = Model::read(&file);
            is_a_model_in_order(&format!("{case:?} {extents:?}"), &model);
            scans += model.graph.nodes.iter().filter(|node| node.operator == "Scan").count();
        }
    }
    assert!(scans > 100, "{scans}");
}

/// What nobody asks for is not computed.
#[test]
fn sums_without_decay_are_summed_for_a_state_only() {
    let normaliser = Normaliser::Ungated { eps: 1e-6 };
    let case = RecurrenceCase { gate: GateKind::Factored, normaliser, ..RecurrenceCase::PLAIN };
    let sums = |returned| {
        let trace = trace(&case, returned, |_, image| image);
        trace.onnx(FIXED).expect("a model").operators().get("ReduceSum").copied()
    };
    assert_eq!((sums(Of::Outputs), sums(Of::OutputsAndState)), (None, Some(1)));
}

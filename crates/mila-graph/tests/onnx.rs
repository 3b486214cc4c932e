//! Every registered model as ONNX, read back by a reader of our own.

#[path = "onnx/reader.rs"]
mod reader;
#[path = "onnx/recurrence.rs"]
mod recurrence;

use std::collections::{HashMap, HashSet};

use mila_graph::onnx::{Error, Extents};
use mila_graph::{Operator, Sizes, Trace};
use mila_models::{Preset, Task};
use mila_ops::{Kind, Seeded, Source, Values, Wanted};
use mila_parity::Formula;
use reader::{Dim, Graph, Model};

const TASKS: [Task; 2] = [Task::Classify { classes: 7 }, Task::Pyramid];
const ODD: Extents = Extents::Fixed(Sizes { batch: 2, height: 33, width: 46 });

/// Values of zero: what a structure does not depend on.
struct Zeros;

impl Source for Zeros {
    fn load(&self, wanted: &Wanted) -> mila_ops::Result<Values<'_>> {
        Ok(Values::F32(vec![0.0; wanted.volume()].into()))
    }
}

fn trace(name: &str, task: Task) -> Trace {
    Trace::of(Preset::find(name).expect("a registered name"), task).expect("a model that traces")
}

fn written(trace: &Trace, extents: Extents, source: &dyn Source) -> Vec<u8> {
    let mut file = Vec::new();
    let onnx = trace.onnx(extents).expect("a model that can be exported");
    onnx.write(source, &mut file).expect("a written file");
    file
}

#[test]
fn every_model_can_be_exported() {
    for preset in Preset::all() {
        for task in TASKS {
            let trace = match (Trace::of(preset, task), task) {
                (Ok(trace), _) => trace,
                (Err(error), Task::Pyramid) => {
                    assert!(error.to_string().contains("a pyramid of"), "{}: {error}", preset.name);
                    continue;
                }
                (Err(error), _) => panic!("{}: {error}", preset.name),
            };
            let own = Extents::Fixed(Sizes::square(preset.preprocessing.size));
            for extents in [own, ODD, Extents::Dynamic] {
                let place = format!("{} {task:?} {extents:?}", preset.name);
                match trace.onnx(extents) {
                    Ok(_) => assert!(extents == own || !is_of_one_grid(&trace), "{place}: another grid"),
                    Err(error) => {
                        assert!(extents != own && error.to_string().contains("absolute positions"), "{place}: {error}");
                    }
                }
            }
        }
    }
}

/// Absolute positions are those of one grid.
fn is_of_one_grid(trace: &Trace) -> bool {
    let is_fixed = |operator: &Operator| matches!(operator, Operator::AddPositions(_) | Operator::RequireGrid(_));
    trace.nodes().iter().any(|node| is_fixed(&node.operator))
}

/// One model of each kind of node; larger ones of a family have the same nodes more often.
#[test]
fn files_are_whole() {
    let variants = ["block-all", "input-gate", "rope", "single-head", "forget-gate"];
    let ablation = variants.map(|variant| format!("ablation-{variant}-32"));
    let names = ["mila-nano", "mila-t", "convnext-t", "mambaout-t", "swin-t", "vmamba-t", "vmamba-v0-t"]
        .into_iter()
        .chain(ablation.iter().map(String::as_str));
    for name in names {
        for task in TASKS {
            for extents in [ODD, Extents::Dynamic] {
                is_whole(name, task, extents);
            }
        }
    }
    // These have positions of one grid, and no pyramid.
    for name in ["vim-ti", "mamba-nd-s"] {
        is_whole(name, TASKS[0], Extents::Fixed(Sizes { batch: 2, ..Sizes::square(224) }));
    }
}

fn is_whole(name: &str, task: Task, extents: Extents) {
    let trace = trace(name, task);
    let model = Model::read(&written(&trace, extents, &Zeros));
    let place = format!("{name} {task:?} {extents:?}");
    is_a_model_in_order(&place, &model);
    values_fill_their_shapes(&place, &trace, &model);
    inputs_and_outputs_are_the_contract(&place, task, extents, &trace, &model);
    let recurrences = trace.nodes().iter().filter(|node| matches!(node.operator, Operator::Recurrence(_))).count();
    let bodies = model.graph.nodes.iter().filter(|node| node.operator == "Scan" && node.bodies.len() == 1).count();
    assert_eq!(bodies, recurrences, "{place}: scans of as many recurrences");
}

fn is_a_model_in_order(place: &str, model: &Model) {
    assert_eq!((model.ir_version, model.opset), (8, 17), "{place}");
    assert_eq!(model.producer, ["mila", env!("CARGO_PKG_VERSION")], "{place}");
    is_a_graph_in_order(place, &model.graph, &HashSet::new(), &mut HashSet::new());
}

/// Checks a graph, which may use what is `around` it, and returns what of that it uses.
fn is_a_graph_in_order<'m>(
    place: &str,
    graph: &'m Graph,
    around: &HashSet<&'m str>,
    nodes: &mut HashSet<&'m str>,
) -> HashSet<&'m str> {
    let mut known = around.clone();
    for name in graph.initialisers.iter().map(|t| &t.name).chain(graph.inputs.iter().map(|info| &info.name)) {
        assert!(known.insert(name), "{place}: {name} twice");
    }
    let mut used = HashSet::new();
    for node in &graph.nodes {
        assert!(nodes.insert(&node.name), "{place}: two nodes {}", node.name);
        for input in &node.inputs {
            assert!(known.contains(input.as_str()), "{place}: {} uses {input} before it is there", node.name);
            used.insert(input.as_str());
        }
        for body in &node.bodies {
            assert!(body.initialisers.is_empty(), "{place}: {} has values of its own", node.name);
            used.extend(is_a_graph_in_order(place, body, &known, nodes));
        }
        for output in &node.outputs {
            assert!(known.insert(output), "{place}: {output} twice");
        }
        // It returns its last state, whether something uses it or not.
        if node.operator == "Scan" {
            used.insert(node.outputs[0].as_str());
        }
    }
    for output in &graph.outputs {
        assert!(known.contains(output.name.as_str()), "{place}: nothing gives {}", output.name);
        used.insert(output.name.as_str());
    }
    let unused: Vec<&&str> = known.iter().filter(|name| !around.contains(**name) && !used.contains(**name)).collect();
    assert!(unused.is_empty(), "{place}: nothing uses {unused:?}");
    let told: HashSet<&str> = graph.values.iter().chain(&graph.outputs).map(|info| &*info.name).collect();
    let outputs = graph.nodes.iter().flat_map(|node| &node.outputs);
    assert!(outputs.clone().all(|name| told.contains(name.as_str())), "{place}: a value without extents");
    used.retain(|name| around.contains(name));
    used
}

fn values_fill_their_shapes(place: &str, trace: &Trace, model: &Model) {
    for tensor in &model.graph.initialisers {
        let volume: i64 = tensor.dims.iter().product();
        let width = if tensor.element == 7 { 8 } else { 4 };
        assert_eq!(tensor.bytes.len() as i64, volume * width, "{place}: {}", tensor.name);
    }
    // Every parameter is in the file once, under its own name or by its rows, `name[first:end]`, but for norms that are folded.
    let names: HashSet<&str> = model.graph.initialisers.iter().map(|t| &*t.name).collect();
    let mut rows: HashMap<&str, i64> = HashMap::new();
    for tensor in &model.graph.initialisers {
        if let Some((name, _)) = tensor.name.split_once('[') {
            *rows.entry(name).or_default() += tensor.dims.iter().product::<i64>();
        }
    }
    let is_folded = |wanted: &Wanted| {
        let batch_norm = |w: &&Wanted| w.kind == Kind::Buffer && layer(&w.name) == layer(&wanted.name);
        trace.manifest().iter().any(|w| batch_norm(&w))
    };
    for wanted in trace.manifest() {
        let in_rows = rows.get(&*wanted.name).is_some_and(|&volume| volume == wanted.volume() as i64);
        let found = [names.contains(&*wanted.name), in_rows];
        assert_eq!(
            found.iter().filter(|&&is_there| is_there).count(),
            usize::from(!is_folded(wanted)),
            "{place}: {}",
            wanted.name
        );
        assert!(!names.contains(&*format!("{}_2", wanted.name)), "{place}: {} twice", wanted.name);
    }
}

fn layer(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or("", |(layer, _)| layer)
}

fn inputs_and_outputs_are_the_contract(place: &str, task: Task, extents: Extents, trace: &Trace, model: &Model) {
    let dims = |info: &reader::Info| info.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let image = match extents {
        Extents::Dynamic => "batch, 3, height, width".to_owned(),
        Extents::Fixed(Sizes { batch, height, width }) => format!("{batch}, 3, {height}, {width}"),
    };
    assert_eq!(model.graph.inputs.len(), 1, "{place}");
    assert_eq!((&*model.graph.inputs[0].name, dims(&model.graph.inputs[0])), ("image", image), "{place}");
    let names: Vec<&str> = model.graph.outputs.iter().map(|info| &*info.name).collect();
    if let Task::Classify { classes } = task {
        assert_eq!(names, ["logits"], "{place}");
        assert_eq!(model.graph.outputs[0].dims.last(), Some(&Dim::Number(classes as i64)), "{place}");
        return;
    }
    let wanted: Vec<String> = (0..trace.outputs().len()).map(|level| format!("level{level}")).collect();
    assert_eq!(names, wanted, "{place}");
    for (info, id) in model.graph.outputs.iter().zip(trace.outputs()) {
        let node = &trace.nodes()[id.0];
        let sizes = Sizes { batch: 2, height: 33, width: 46 };
        let [batch, height, width] = [0, 1, 2].map(|axis| node.extents[axis].at(sizes));
        if extents == ODD {
            assert_eq!(dims(info), format!("{batch}, {}, {height}, {width}", node.channels), "{place}");
        } else {
            assert!(dims(info).starts_with(&format!("batch, {}, ", node.channels)), "{place}: {}", dims(info));
            assert!(dims(info).contains("height") && dims(info).contains("width"), "{place}: {}", dims(info));
        }
    }
}

/// A map changes its layout twice around each of the two depthwise convolutions on the residual stream, once on the way to
/// the convolution of the inner stream and once on the way out of the attention; the keys are turned for their product.
#[test]
fn maps_are_transposed_no_more_than_needed() {
    let count = |name, extents| {
        let trace = trace(name, TASKS[0]);
        trace.onnx(extents).expect("a model").operators()["Transpose"]
    };
    for extents in [ODD, Extents::Dynamic] {
        // 18 blocks of 7, of which the first of a stage saves one; the mergings need planes.
        assert_eq!(count("mila-t", extents), 18 * 7 - 4 + 3, "{extents:?}");
        // 18 blocks of 2, and one each at stem and downsampling, which stand between a norm and a convolution.
        assert_eq!(count("convnext-t", extents), 18 * 2 + 4, "{extents:?}");
    }
}

/// Folding and reordering, value by value, against the definitions.
#[test]
fn derived_values() {
    let trace = trace("mila-nano", TASKS[0]);
    let model = Model::read(&written(&trace, ODD, &Formula));
    let stored = |name: &str| {
        let wanted = trace.manifest().iter().find(|w| w.name == name).unwrap_or_else(|| panic!("no {name}"));
        (wanted.shape.clone(), Formula.fetch(wanted).expect("values").into_f32().into_owned())
    };
    let found = |name: &str| {
        let tensor = model.graph.initialisers.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        (tensor.dims.clone(), tensor.bytes.chunks_exact(4).map(value).collect::<Vec<f32>>(), tensor.note.clone())
    };

    let (shape, weight) = stored("layers.0.blocks.0.in_proj.weight");
    let (dims, transposed, note) = found("layers.0.blocks.0.in_proj.weight");
    assert_eq!((dims, &*note), (vec![shape[1] as i64, shape[0] as i64], "transposed: [inputs, outputs]"));
    assert_eq!(transposed[1], weight[shape[1]]);

    let (shape, weight) = stored("layers.0.blocks.0.attn.qk.weight");
    let (dims, paired, note) = found("layers.0.blocks.0.attn.qk.weight");
    assert_eq!(dims, [shape[0] as i64, shape[1] as i64, 1, 1]);
    assert!(note.contains("even"), "{note}");
    // The second row of the first head is its third channel; the ninth, with 16 channels a head, its second.
    assert_eq!(paired[shape[1]], weight[2 * shape[1]]);
    assert_eq!(paired[8 * shape[1]], weight[shape[1]]);

    let conv = "patch_embed.conv1";
    let norm = |part: &str| stored(&format!("{conv}.norm.{part}")).1;
    let (scale, shift) = (norm("weight"), norm("bias"));
    let (mean, variance) = (norm("running_mean"), norm("running_var"));
    let (_, weight) = stored(&format!("{conv}.conv.weight"));
    let (_, folded, note) = found(&format!("{conv}.conv.weight"));
    let (_, bias, _) = found(&format!("{conv}.conv.bias"));
    assert!(note.contains("batch norm"), "{note}");
    for channel in 0..scale.len() {
        let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + 1e-5).sqrt();
        let first = channel * weight.len() / scale.len();
        assert!((f64::from(folded[first]) - f64::from(weight[first]) * factor).abs() < 1e-7, "channel {channel}");
        let wanted = f64::from(shift[channel]) - f64::from(mean[channel]) * factor;
        assert!((f64::from(bias[channel]) - wanted).abs() < 1e-6, "channel {channel}");
    }
}

#[test]
fn metadata_are_kept() {
    let trace = trace("mila-nano", TASKS[0]);
    let mut onnx = trace.onnx(Extents::Dynamic).expect("a model");
    onnx.describe("model", "mila-nano");
    onnx.describe("labels", "[\"ä\"]");
    let mut file = Vec::new();
    onnx.write(&Seeded::new(0), &mut file).expect("a written file");
    let wanted = [("model", "mila-nano"), ("labels", "[\"ä\"]")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(Model::read(&file).metadata, wanted);
}

/// Tables of rotations would not fit, and nothing is computed or written to find that out.
#[test]
fn a_file_beyond_its_format_is_refused() {
    let trace = trace("mila-t", TASKS[1]);
    let sizes = Sizes { batch: 1, height: 65_535, width: 65_535 };
    let mut file = Vec::new();
    let error = trace.onnx(Extents::Fixed(sizes)).expect("a graph").write(&Zeros, &mut file).expect_err("a limit");
    assert!(matches!(error, Error::TooLarge { bytes } if bytes > 1 << 36), "{error}");
    assert!(file.is_empty());
}

#[test]
fn an_empty_input_is_refused() {
    let trace = trace("mila-nano", TASKS[0]);
    for (batch, height, width) in [(0, 32, 32), (1, 0, 32), (1, 32, 0)] {
        let refused = trace.onnx(Extents::Fixed(Sizes { batch, height, width })).expect_err("no pixels");
        assert!(refused.to_string().contains("at least one"), "{refused}");
    }
}

/// A disk that is full after some bytes is reported as it is.
#[test]
fn a_destination_that_refuses_is_an_error() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let trace = trace("mila-nano", TASKS[0]);
    let onnx = trace.onnx(Extents::Dynamic).expect("a model");
    for room in [0, 1000, 1_000_000] {
        let error = onnx.write(&Zeros, &mut Full(room)).expect_err("a full disk");
        assert!(matches!(error, Error::Io(_)), "{error}");
    }
}

//! The ONNX model in memory, and how it is written. Field numbers are those of `onnx/onnx.proto` of the ONNX project.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use mila_ops::{Source, Wanted};

use super::content::Content;
use super::dim::Dim;
use super::wire::Message;

/// The version of ONNX's file format: that of ONNX 1.12, the first with [`OPSET`].
const IR_VERSION: i64 = 8;
/// The operator set: the first with LayerNormalization.
const OPSET: i64 = 17;
/// What a message of protocol buffers can hold.
const MOST_BYTES: u64 = (1 << 31) - 1;

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is missing or does not fit.
    #[error(transparent)]
    Model(#[from] mila_ops::Error),
    /// The file would be larger than its format allows.
    #[error("expected at most {MOST_BYTES} bytes, which is what an ONNX file can hold, found {bytes}")]
    TooLarge {
        /// How large it would be.
        bytes: u64,
    },
    /// The destination refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What the elements of a tensor are: `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32 = 1,
    I64 = 7,
}

/// A tensor of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Value(usize);

/// A setting of a node.
#[derive(Clone, Debug)]
pub(super) enum Setting {
    Float(f32),
    Integer(i64),
    Integers(Vec<i64>),
    Body(Body),
}

/// A graph inside a node. It may use what the graph around it has.
#[derive(Clone, Debug)]
pub(super) struct Body {
    nodes: Vec<Node>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
}

#[derive(Debug)]
struct Info {
    name: String,
    element: Element,
    dims: Vec<Dim>,
}

#[derive(Clone, Debug)]
struct Node {
    name: String,
    operator: &'static str,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    settings: Vec<(&'static str, Setting)>,
}

/// A model in ONNX's operators, ready to be written. It borrows the names and shapes of its parameters from the trace; their
/// values come when it is written.
#[derive(Debug)]
pub struct Onnx<'t> {
    manifest: &'t [Wanted],
    values: Vec<Info>,
    nodes: Vec<Node>,
    /// The nodes of the graphs around the one that is being written.
    around: Vec<Vec<Node>>,
    initialisers: Vec<(Value, Content)>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    names: HashSet<String>,
    metadata: Vec<(String, String)>,
}

impl<'t> Onnx<'t> {
    pub(super) fn new(manifest: &'t [Wanted]) -> Self {
        Self {
            manifest,
            values: Vec::new(),
            nodes: Vec::new(),
            around: Vec::new(),
            initialisers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            names: HashSet::new(),
            metadata: Vec::new(),
        }
    }

    /// Adds a line to the model's `metadata_props`.
    pub fn describe(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.push((key.into(), value.into()));
    }

    /// How many nodes of each operator there are, by name.
    pub fn operators(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.nodes.iter().for_each(|node| *counts.entry(node.operator).or_default() += 1);
        counts
    }

    /// `name`, or `name` with a number if it is taken.
    fn unique(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        let mut number = 1;
        while !self.names.insert(free.clone()) {
            number += 1;
            free = format!("{name}_{number}");
        }
        free
    }

    fn value(&mut self, name: &str, element: Element, dims: Vec<Dim>) -> Value {
        let name = self.unique(name);
        self.values.push(Info { name, element, dims });
        Value(self.values.len() - 1)
    }

    pub(super) fn dims(&self, value: Value) -> &[Dim] {
        &self.values[value.0].dims
    }

    pub(super) fn input(&mut self, name: &str, dims: Vec<Dim>) -> Value {
        let value = self.value(name, Element::F32, dims);
        self.inputs.push(value);
        value
    }

    /// Makes `value` an output of the model, under this name. A value that is one already is given once more.
    pub(super) fn output(&mut self, name: &str, value: Value) {
        let value = if self.inputs.contains(&value) || self.outputs.contains(&value) {
            let dims = self.dims(value).to_vec();
            self.node(name, "Identity", &[value], &[], dims)
        } else {
            self.values[value.0].name = self.unique(name);
            value
        };
        self.outputs.push(value);
    }

    /// A constant or parameter of the shape `dims`.
    pub(super) fn initialiser(&mut self, name: &str, dims: &[usize], content: Content) -> Value {
        let element = if content.is_integer() { Element::I64 } else { Element::F32 };
        let value = self.value(name, element, dims.iter().map(|&n| n.into()).collect());
        self.initialisers.push((value, content));
        value
    }

    /// Begins a graph inside a node with these inputs, of f32: the nodes that follow are its own.
    pub(super) fn open_body<const N: usize>(&mut self, inputs: [(&str, Vec<Dim>); N]) -> [Value; N] {
        self.around.push(std::mem::take(&mut self.nodes));
        inputs.map(|(name, dims)| self.value(name, Element::F32, dims))
    }

    /// One more input of a graph inside a node, of f32.
    pub(super) fn body_input(&mut self, name: &str, dims: Vec<Dim>) -> Value {
        self.value(name, Element::F32, dims)
    }

    /// Ends it.
    pub(super) fn close_body(&mut self, inputs: Vec<Value>, outputs: Vec<Value>) -> Setting {
        let around = self.around.pop().unwrap_or_default();
        Setting::Body(Body { nodes: std::mem::replace(&mut self.nodes, around), inputs, outputs })
    }

    /// A node with several outputs of f32.
    pub(super) fn node_with<const N: usize>(
        &mut self,
        name: &str,
        operator: &'static str,
        inputs: &[Value],
        settings: &[(&'static str, Setting)],
        outputs: [(&str, Vec<Dim>); N],
    ) -> [Value; N] {
        let outputs = outputs.map(|(part, dims)| self.value(&format!("{name}/{part}"), Element::F32, dims));
        self.record(name, operator, inputs, outputs.to_vec(), settings);
        outputs
    }

    /// A node with one output of f32.
    pub(super) fn node(
        &mut self,
        name: &str,
        operator: &'static str,
        inputs: &[Value],
        settings: &[(&'static str, Setting)],
        dims: Vec<Dim>,
    ) -> Value {
        let output = self.value(name, Element::F32, dims);
        self.record(name, operator, inputs, vec![output], settings);
        output
    }

    /// A node with one output of whole numbers.
    pub(super) fn integer_node(
        &mut self,
        name: &str,
        operator: &'static str,
        inputs: &[Value],
        settings: &[(&'static str, Setting)],
        dims: Vec<Dim>,
    ) -> Value {
        let output = self.value(name, Element::I64, dims);
        self.record(name, operator, inputs, vec![output], settings);
        output
    }

    /// `value` cut along `axis` into as many equal parts as there are names.
    pub(super) fn split<const N: usize>(
        &mut self,
        name: &str,
        value: Value,
        axis: usize,
        part: usize,
        names: [&str; N],
    ) -> [Value; N] {
        let mut dims = self.dims(value).to_vec();
        dims[axis] = part.into();
        let outputs = names.map(|part| self.value(&format!("{name}/{part}"), Element::F32, dims.clone()));
        let settings = [("axis", Setting::Integer(axis as i64))];
        self.record(&format!("{name}/Split"), "Split", &[value], outputs.to_vec(), &settings);
        outputs
    }

    fn record(
        &mut self,
        name: &str,
        operator: &'static str,
        inputs: &[Value],
        outputs: Vec<Value>,
        settings: &[(&'static str, Setting)],
    ) {
        // Nodes have names of their own; most are called as what they give.
        let name = match outputs.as_slice() {
            [only] => self.values[only.0].name.clone(),
            _ => self.unique(name),
        };
        let node = Node { name, operator, inputs: inputs.to_vec(), outputs, settings: settings.to_vec() };
        self.nodes.push(node);
    }

    /// Writes the file, with the values of the parameters from `source`; one initialiser at a time is in memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] before anything is written; those of the source and of `out`.
    pub fn write(&self, source: &dyn Source, out: &mut dyn Write) -> Result<(), Error> {
        let graph = self.graph();
        let heads: Vec<(Message, u64)> = self.initialisers.iter().map(|(v, c)| self.head(*v, c)).collect();
        // GraphProto.initializer = 5: key, length, what lies before the values, the values.
        let opened = |(head, bytes): &(Message, u64)| {
            let mut opening = Message::default();
            opening.opening(5, head.bytes.len() as u64 + bytes);
            opening
        };
        let whole = |tensor: &(Message, u64)| (opened(tensor).bytes.len() + tensor.0.bytes.len()) as u64 + tensor.1;
        let length = graph.bytes.len() as u64 + heads.iter().map(whole).sum::<u64>();
        let mut model = self.model();
        model.opening(7, length);
        let bytes = model.bytes.len() as u64 + length;
        if bytes > MOST_BYTES {
            return Err(Error::TooLarge { bytes });
        }
        out.write_all(&model.bytes)?;
        out.write_all(&graph.bytes)?;
        for (tensor, (_, content)) in heads.iter().zip(&self.initialisers) {
            out.write_all(&opened(tensor).bytes)?;
            out.write_all(&tensor.0.bytes)?;
            out.write_all(&content.bytes(self.manifest, source)?)?;
        }
        Ok(())
    }

    /// ModelProto without its graph (field 7), which follows.
    fn model(&self) -> Message {
        let mut model = Message::default();
        model.integer(1, IR_VERSION);
        model.text(2, "mila");
        model.text(3, env!("CARGO_PKG_VERSION"));
        let mut opset = Message::default();
        opset.text(1, "");
        opset.integer(2, OPSET);
        model.message(8, &opset);
        for (key, value) in &self.metadata {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            model.message(14, &entry);
        }
        model
    }

    /// GraphProto without its initialisers (field 5), which follow.
    fn graph(&self) -> Message {
        self.graph_message("mila", &self.nodes, &self.inputs, &self.outputs)
    }

    fn graph_message(&self, name: &str, nodes: &[Node], inputs: &[Value], outputs: &[Value]) -> Message {
        let mut graph = Message::default();
        nodes.iter().for_each(|node| graph.message(1, &self.node_message(node)));
        graph.text(2, name);
        inputs.iter().for_each(|&value| graph.message(11, &self.info(value)));
        outputs.iter().for_each(|&value| graph.message(12, &self.info(value)));
        let inner = nodes.iter().flat_map(|node| &node.outputs).filter(|value| !outputs.contains(value));
        inner.for_each(|&value| graph.message(13, &self.info(value)));
        graph
    }

    /// NodeProto.
    fn node_message(&self, node: &Node) -> Message {
        let mut message = Message::default();
        node.inputs.iter().for_each(|value| message.text(1, &self.values[value.0].name));
        node.outputs.iter().for_each(|value| message.text(2, &self.values[value.0].name));
        message.text(3, &node.name);
        message.text(4, node.operator);
        for (name, setting) in &node.settings {
            // AttributeProto; `type` is its field 20.
            let mut attribute = Message::default();
            attribute.text(1, name);
            match setting {
                Setting::Float(value) => {
                    attribute.float(2, *value);
                    attribute.integer(20, 1);
                }
                Setting::Integer(value) => {
                    attribute.integer(3, *value);
                    attribute.integer(20, 2);
                }
                Setting::Integers(values) => {
                    attribute.integers(8, values);
                    attribute.integer(20, 7);
                }
                Setting::Body(Body { nodes, inputs, outputs }) => {
                    attribute.message(6, &self.graph_message(name, nodes, inputs, outputs));
                    attribute.integer(20, 5);
                }
            }
            message.message(5, &attribute);
        }
        message
    }

    /// ValueInfoProto: name, TypeProto { tensor_type { elem_type, shape { dim { dim_value | dim_param } } } }.
    fn info(&self, value: Value) -> Message {
        let Info { name, element, dims } = &self.values[value.0];
        let mut shape = Message::default();
        for dim in dims {
            let mut message = Message::default();
            match dim {
                Dim::Number(n) => message.integer(1, *n as i64),
                Dim::Text(text) => message.text(2, text),
            }
            shape.message(1, &message);
        }
        let mut tensor = Message::default();
        tensor.integer(1, *element as i64);
        tensor.message(2, &shape);
        let mut kind = Message::default();
        kind.message(1, &tensor);
        let mut info = Message::default();
        info.text(1, name);
        info.message(2, &kind);
        info
    }

    /// TensorProto up to its values (`raw_data`, field 9), and how many bytes these are.
    fn head(&self, value: Value, content: &Content) -> (Message, u64) {
        let Info { name, element, dims } = &self.values[value.0];
        let number = |dim: &Dim| match dim {
            Dim::Number(n) => *n as u64,
            Dim::Text(_) => 0,
        };
        let width = if content.is_integer() { 8 } else { 4 };
        let bytes = dims.iter().map(number).fold(width, u64::saturating_mul);
        let mut head = Message::default();
        head.integers(1, &dims.iter().map(|dim| number(dim) as i64).collect::<Vec<_>>());
        head.integer(2, *element as i64);
        head.text(8, name);
        if let Some(note) = content.note() {
            head.text(12, note);
        }
        head.opening(9, bytes);
        (head, bytes)
    }
}

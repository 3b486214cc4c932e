//! A reader of ONNX files, as far as the tests need it; field numbers are those of `onnx/onnx.proto`.

use std::fmt;

pub(crate) struct Model {
    pub(crate) ir_version: u64,
    pub(crate) opset: u64,
    /// Name and version.
    pub(crate) producer: [String; 2],
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) graph: Graph,
}

pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) initialisers: Vec<Tensor>,
    pub(crate) inputs: Vec<Info>,
    pub(crate) outputs: Vec<Info>,
    pub(crate) values: Vec<Info>,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) operator: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    /// The graphs among its attributes: the step of a scan.
    pub(crate) bodies: Vec<Graph>,
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) element: u64,
    pub(crate) dims: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) note: String,
}

pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) dims: Vec<Dim>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Dim {
    Number(i64),
    Text(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// The value of a field.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a varint that ends");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    value
}

/// Every field of a message, which has to end where its last field ends.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("no field has the wire type {other}"),
        };
        let (content, rest) = bytes.split_at(length);
        found.push((key >> 3, Field::Bytes(content)));
        bytes = rest;
    }
    found
}

/// The contents of every field `number` of a message.
fn all(message: &[u8], number: u64) -> Vec<&[u8]> {
    let content = |(found, field)| match field {
        Field::Bytes(bytes) if found == number => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(content).collect()
}

fn number(message: &[u8], wanted: u64) -> Option<u64> {
    fields(message).into_iter().find_map(|(found, field)| match field {
        Field::Number(value) if found == wanted => Some(value),
        _ => None,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn texts(message: &[u8], number: u64) -> Vec<String> {
    all(message, number).into_iter().map(text).collect()
}

/// The only text of a field; empty if there is none.
fn only(message: &[u8], number: u64) -> String {
    texts(message, number).pop().unwrap_or_default()
}

fn info(message: &[u8]) -> Info {
    let kind = all(message, 2)[0];
    let tensor = all(kind, 1)[0];
    let dim = |dim: &[u8]| match number(dim, 1) {
        Some(value) => Dim::Number(value as i64),
        None => Dim::Text(only(dim, 2)),
    };
    Info { name: only(message, 1), dims: all(all(tensor, 2)[0], 1).into_iter().map(dim).collect() }
}

fn tensor(message: &[u8]) -> Tensor {
    let dim = |(found, field)| match field {
        Field::Number(value) if found == 1 => Some(value as i64),
        _ => None,
    };
    let dims = fields(message).into_iter().filter_map(dim).collect();
    Tensor {
        name: only(message, 8),
        element: number(message, 2).expect("an element type"),
        dims,
        bytes: all(message, 9)[0].to_vec(),
        note: only(message, 12),
    }
}

/// What `AttributeProto.type` says of an attribute that holds a graph.
const GRAPH: u64 = 5;

fn node(message: &[u8]) -> Node {
    let body = |attribute: &[u8]| {
        let graphs = all(attribute, 6);
        assert_eq!(graphs.len(), usize::from(number(attribute, 20) == Some(GRAPH)), "an attribute of another type");
        graphs.first().copied().map(graph)
    };
    Node {
        name: only(message, 3),
        operator: only(message, 4),
        inputs: texts(message, 1),
        outputs: texts(message, 2),
        bodies: all(message, 5).into_iter().filter_map(body).collect(),
    }
}

fn graph(message: &[u8]) -> Graph {
    let infos = |field| all(message, field).into_iter().map(info).collect();
    Graph {
        nodes: all(message, 1).into_iter().map(node).collect(),
        initialisers: all(message, 5).into_iter().map(tensor).collect(),
        inputs: infos(11),
        outputs: infos(12),
        values: infos(13),
    }
}

impl Model {
    pub(crate) fn read(file: &[u8]) -> Self {
        Self {
            ir_version: number(file, 1).expect("a version"),
            opset: number(all(file, 8)[0], 2).expect("a version"),
            producer: [only(file, 2), only(file, 3)],
            metadata: all(file, 14).into_iter().map(|entry| (only(entry, 1), only(entry, 2))).collect(),
            graph: graph(all(file, 7)[0]),
        }
    }
}

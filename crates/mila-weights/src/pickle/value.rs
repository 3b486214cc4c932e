//! The values of a pickle, in one flat table.

use std::borrow::Cow;

/// Index of a value in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(super) u32);

/// One value. Containers hold indices; the machine makes no index that the table lacks.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i128),
    /// An integer beyond 128 bits, such as the state of a random generator.
    BigInt,
    Float,
    Text(Cow<'a, str>),
    /// Bytes, or text too long for a name.
    Bytes,
    /// Module and name, both text.
    Class(Id, Id),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Object(Box<Object>),
    /// The identifier of something that is stored outside the pickle.
    Persistent(Id),
}

/// What a call or a constructor would have made: kept, never made. What is appended to it as to a list is dropped: no
/// subclass of list holds weights.
#[derive(Debug)]
pub(crate) struct Object {
    /// The class or function.
    pub(crate) class: Id,
    /// Its arguments, a tuple.
    pub(crate) args: Id,
    /// What was set on it as on a dictionary.
    pub(crate) items: Vec<(Id, Id)>,
    /// What `__setstate__` would have been given.
    pub(crate) state: Option<Id>,
}

/// A read pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) root: Id,
}

impl<'a> Pickle<'a> {
    /// The value that the pickle ends with.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// The value at `id`.
    pub(crate) fn get(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// All values, in the order in which they were made.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        (0..self.nodes.len() as u32).map(Id)
    }

    /// The text at `id`.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer at `id`.
    pub(crate) fn int(&self, id: Id) -> Option<i128> {
        match self.get(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The members of the tuple or list at `id`.
    pub(crate) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            _ => None,
        }
    }

    /// Module and name of the class at `id`.
    pub(crate) fn class(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Node::Class(module, name) => Some((self.text(*module)?, self.text(*name)?)),
            _ => None,
        }
    }

    /// The object at `id`: its class, its arguments and itself.
    pub(crate) fn object(&self, id: Id) -> Option<((&str, &str), &[Id], &Object)> {
        match self.get(id) {
            Node::Object(object) => Some((self.class(object.class)?, self.sequence(object.args)?, object)),
            _ => None,
        }
    }

    /// Keys and values of the dictionary at `id`, or of an object that was filled like one: `OrderedDict`, `CfgNode`.
    pub(crate) fn items(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        match self.get(id) {
            Node::Dict(items) => Some(items.clone()),
            Node::Object(object) if !object.items.is_empty() => Some(object.items.clone()),
            // Python 2 gives an OrderedDict its items as the argument: a list of pairs.
            Node::Object(_) => match self.object(id)? {
                (("collections", "OrderedDict"), [], _) => Some(Vec::new()),
                (("collections", "OrderedDict"), [pairs], _) => {
                    let pair = |id: &Id| match self.sequence(*id) {
                        Some(&[key, value]) => Some((key, value)),
                        _ => None,
                    };
                    self.sequence(*pairs)?.iter().map(pair).collect()
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The value under a text key of a dictionary; the last one, as in Python.
    pub(crate) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        self.items(dict)?.into_iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, value)| value)
    }

    /// What the value at `id` is, for messages.
    pub(crate) fn describe(&self, id: Id) -> String {
        let (class, what) = match self.get(id) {
            Node::Object(object) => (object.class, "an object of"),
            Node::Class(..) => (id, "the class"),
            other => return other.kind().into(),
        };
        match self.class(class) {
            Some((module, name)) => format!("{what} {}.{}", quoted(module), quoted(name)),
            None => self.get(id).kind().into(),
        }
    }
}

/// A name from the file, cut to 80 characters and without control characters.
pub(crate) fn quoted(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

impl Node<'_> {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::BigInt => "an int",
            Self::Float => "a float",
            Self::Text(_) => "text",
            Self::Bytes => "bytes",
            Self::Class(..) => "a class",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Dict(_) => "a dict",
            Self::Object(_) => "an object",
            Self::Persistent(_) => "a storage",
        }
    }
}

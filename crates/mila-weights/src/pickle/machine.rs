//! The stack machine.

use std::borrow::Cow;
use std::collections::HashMap;

use super::input::Input;
use super::opcode as op;
use super::value::{Id, Node, Object, Pickle};
use crate::Result;
use crate::limits::{self, PICKLE_LINE, PICKLE_VALUES};

/// Reads one pickle at the start of `bytes`; returns it and how many bytes it took.
///
/// # Errors
/// [`Error::Pickle`](crate::Error::Pickle) with the offset of the opcode, [`Error::Hostile`](crate::Error::Hostile) above
/// the limits.
pub(crate) fn load(bytes: &[u8]) -> Result<(Pickle<'_>, usize)> {
    let mut machine = Machine {
        input: Input::new(bytes),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let opcode = machine.input.next_opcode()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            return Ok((Pickle { nodes: machine.nodes, root }, machine.input.consumed()));
        }
        machine.step(opcode)?;
        let held = machine.stack.len() + machine.marks.len();
        limits::at_most("values on the stack of a pickle", PICKLE_VALUES as u64, held as u64)?;
    }
}

struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            op::PROTO => {
                let version = self.input.unsigned(1)?;
                if version > 5 {
                    return Err(self.input.error(format!("expected protocol 0 to 5, found {version}")));
                }
            }
            // A frame is a hint for buffered reading; its length says nothing that the opcodes do not.
            op::FRAME => drop(self.input.unsigned(8)?),
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            op::POP_MARK => drop(self.pop_to_mark()?),
            op::DUP => self.stack.push(self.top()?),
            op::GET | op::BINGET | op::LONG_BINGET => self.recall(opcode)?,
            op::PUT | op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.memoise(opcode)?,
            op::NONE | op::NEWTRUE | op::NEWFALSE | op::INT | op::BININT..=op::BININT2 => self.number(opcode)?,
            op::LONG1 | op::LONG4 | op::FLOAT | op::BINFLOAT => self.number(opcode)?,
            op::SHORT_BINSTRING | op::BINSTRING | op::UNICODE | op::BINUNICODE => self.text(opcode)?,
            op::SHORT_BINUNICODE | op::BINUNICODE8 => self.text(opcode)?,
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => self.bytes(opcode)?,
            op::EMPTY_TUPLE | op::TUPLE | op::TUPLE1..=op::TUPLE3 => self.tuple(opcode)?,
            op::EMPTY_LIST => self.push(Node::List(Vec::new()))?,
            op::EMPTY_DICT => self.push(Node::Dict(Vec::new()))?,
            op::EMPTY_SET => self.push(Node::Set(Vec::new()))?,
            op::LIST => {
                let members = self.pop_to_mark()?;
                self.push(Node::List(members))?;
            }
            op::FROZENSET => {
                let members = self.pop_to_mark()?;
                self.push(Node::Set(members))?;
            }
            op::DICT => {
                let members = self.pop_to_mark()?;
                let items = self.pairs(&members)?;
                self.push(Node::Dict(items))?;
            }
            op::APPEND => {
                let member = self.pop()?;
                self.append(&[member])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let members = self.pop_to_mark()?;
                self.append(&members)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[(key, value)])?;
            }
            op::SETITEMS => {
                let members = self.pop_to_mark()?;
                let items = self.pairs(&members)?;
                self.set_items(&items)?;
            }
            op::GLOBAL => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                let module = self.make(Node::Text(Cow::Borrowed(module)))?;
                let name = self.make(Node::Text(Cow::Borrowed(name)))?;
                self.push(Node::Class(module, name))?;
            }
            op::STACK_GLOBAL => self.stack_global()?,
            op::REDUCE | op::NEWOBJ | op::NEWOBJ_EX => self.object(opcode)?,
            op::BUILD => self.build()?,
            op::BINPERSID => {
                let identifier = self.pop()?;
                self.push(Node::Persistent(identifier))?;
            }
            _ => {
                let name = op::refused(opcode);
                let what = format!("expected an opcode that torch.save writes, found {name} (0x{opcode:02x})");
                return Err(self.input.error(what));
            }
        }
        Ok(())
    }

    /// Adds a value to the table.
    fn make(&mut self, node: Node<'a>) -> Result<Id> {
        let id = Id(self.nodes.len() as u32);
        limits::at_most("values of one pickle", PICKLE_VALUES as u64, self.nodes.len() as u64 + 1)?;
        self.nodes.push(node);
        Ok(id)
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.make(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// How many values are above the last mark.
    fn above_mark(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.above_mark() > 0 => Ok(id),
            _ => Err(self.input.error("expected a value on the stack, found none")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            // Collected, so that a short tuple does not keep the capacity of a long stack.
            Some(mark) => Ok(self.stack.drain(mark..).collect()),
            None => Err(self.input.error("expected a mark on the stack, found none")),
        }
    }

    fn pairs(&self, members: &[Id]) -> Result<Vec<(Id, Id)>> {
        let (pairs, rest) = members.as_chunks::<2>();
        if rest.is_empty() {
            return Ok(pairs.iter().map(|&[key, value]| (key, value)).collect());
        }
        Err(self.input.error(format!("expected keys and values in pairs, found {} members", members.len())))
    }

    fn top_node(&mut self) -> Result<&mut Node<'a>> {
        let id = self.top()?;
        Ok(&mut self.nodes[id.0 as usize])
    }

    fn memo_key(&mut self, opcode: u8) -> Result<u32> {
        match opcode {
            op::BINGET | op::BINPUT => Ok(self.input.unsigned(1)? as u32),
            op::LONG_BINGET | op::LONG_BINPUT => Ok(self.input.unsigned(4)? as u32),
            _ => {
                let line = self.input.line()?;
                line.parse().map_err(|_| self.input.error(format!("expected a memo index, found `{line}`")))
            }
        }
    }

    fn recall(&mut self, opcode: u8) -> Result<()> {
        let key = self.memo_key(opcode)?;
        let Some(&id) = self.memo.get(&key) else {
            return Err(self.input.error(format!("expected a value in memo {key}, found none")));
        };
        self.stack.push(id);
        Ok(())
    }

    fn memoise(&mut self, opcode: u8) -> Result<()> {
        let id = self.top()?;
        let key = if opcode == op::MEMOIZE { self.memo.len() as u32 } else { self.memo_key(opcode)? };
        limits::at_most("memo entries of one pickle", PICKLE_VALUES as u64, self.memo.len() as u64)?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let node = match opcode {
            op::NONE => Node::None,
            op::NEWTRUE => Node::Bool(true),
            op::NEWFALSE => Node::Bool(false),
            op::BININT => Node::Int(self.input.signed()?.into()),
            op::BININT1 => Node::Int(self.input.unsigned(1)?.into()),
            op::BININT2 => Node::Int(self.input.unsigned(2)?.into()),
            op::LONG1 => {
                let length = self.input.unsigned(1)?;
                long(self.input.take(length)?)
            }
            op::LONG4 => {
                let length = self.input.signed_length()?;
                long(self.input.take(length)?)
            }
            op::INT => match self.input.line()? {
                "00" => Node::Bool(false),
                "01" => Node::Bool(true),
                digits => self.decimal(digits)?,
            },
            op::LONG => {
                let line = self.input.line()?;
                self.decimal(line.strip_suffix('L').unwrap_or(line))?
            }
            op::FLOAT => {
                let line = self.input.line()?;
                if line.parse::<f64>().is_err() {
                    return Err(self.input.error(format!("expected a float, found `{line}`")));
                }
                Node::Float
            }
            _ => {
                self.input.double()?;
                Node::Float
            }
        };
        self.push(node)
    }

    fn decimal(&self, digits: &str) -> Result<Node<'a>> {
        let plain = digits.strip_prefix('-').unwrap_or(digits);
        if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.input.error(format!("expected an integer, found `{digits}`")));
        }
        Ok(digits.parse().map_or(Node::BigInt, Node::Int))
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let length = match opcode {
            op::UNICODE => {
                let text = self.input.escaped_line()?;
                return self.push(Node::Text(text));
            }
            op::SHORT_BINSTRING | op::SHORT_BINUNICODE => self.input.unsigned(1)?,
            op::BINSTRING => self.input.signed_length()?,
            op::BINUNICODE => self.input.unsigned(4)?,
            _ => self.input.unsigned(8)?,
        };
        let bytes = self.input.take(length)?;
        if bytes.len() > PICKLE_LINE {
            return self.push(Node::Bytes);
        }
        // A string of Python 2 is bytes: names are ASCII, anything else is no name.
        let is_string = matches!(opcode, op::SHORT_BINSTRING | op::BINSTRING);
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Text(Cow::Borrowed(text))),
            // Lone surrogates, which Python writes as it finds them, name no tensor either.
            Err(_) if is_string => self.push(Node::Bytes),
            Err(error) => Err(self.input.error(format!("expected UTF-8 text, found {error}"))),
        }
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let length = match opcode {
            op::SHORT_BINBYTES => self.input.unsigned(1)?,
            op::BINBYTES => self.input.unsigned(4)?,
            _ => self.input.unsigned(8)?,
        };
        self.input.take(length)?;
        self.push(Node::Bytes)
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let count = match opcode {
            op::EMPTY_TUPLE => 0,
            op::TUPLE => {
                let members = self.pop_to_mark()?;
                return self.push(Node::Tuple(members));
            }
            _ => usize::from(opcode - op::TUPLE1) + 1,
        };
        if self.above_mark() < count {
            let found = self.above_mark();
            return Err(self.input.error(format!("expected {count} values on the stack, found {found}")));
        }
        let members = self.stack.drain(self.stack.len() - count..).collect();
        self.push(Node::Tuple(members))
    }

    fn append(&mut self, new: &[Id]) -> Result<()> {
        match self.top_node()? {
            Node::List(members) | Node::Set(members) => members.extend_from_slice(new),
            Node::Object(_) => {}
            other => {
                let found = other.kind();
                return Err(self.input.error(format!("expected a list to append to, found {found}")));
            }
        }
        Ok(())
    }

    fn set_items(&mut self, new: &[(Id, Id)]) -> Result<()> {
        match self.top_node()? {
            Node::Dict(items) => items.extend_from_slice(new),
            Node::Object(object) => object.items.extend_from_slice(new),
            other => {
                let found = other.kind();
                return Err(self.input.error(format!("expected a dict to fill, found {found}")));
            }
        }
        Ok(())
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        for id in [module, name] {
            let node = &self.nodes[id.0 as usize];
            if !matches!(node, Node::Text(_)) {
                return Err(self.input.error(format!("expected the name of a class, found {}", node.kind())));
            }
        }
        self.push(Node::Class(module, name))
    }

    /// A call or a constructor, kept as data.
    fn object(&mut self, opcode: u8) -> Result<()> {
        if opcode == op::NEWOBJ_EX {
            // Keyword arguments; nothing that is read has any.
            self.pop()?;
        }
        let args = self.pop()?;
        let class = self.pop()?;
        let (of_args, of_class) = (&self.nodes[args.0 as usize], &self.nodes[class.0 as usize]);
        if !matches!(of_args, Node::Tuple(_)) {
            return Err(self.input.error(format!("expected arguments in a tuple, found {}", of_args.kind())));
        }
        if !matches!(of_class, Node::Class(..)) {
            return Err(self.input.error(format!("expected a class or function, found {}", of_class.kind())));
        }
        self.push(Node::Object(Box::new(Object { class, args, items: Vec::new(), state: None })))
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match self.top_node()? {
            Node::Object(object) => object.state = Some(state),
            other => {
                let found = other.kind();
                return Err(self.input.error(format!("expected an object to give a state to, found {found}")));
            }
        }
        Ok(())
    }
}

/// A two's complement integer, little-endian.
fn long<'a>(bytes: &[u8]) -> Node<'a> {
    if bytes.len() > 16 {
        return Node::BigInt;
    }
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let start = if negative { -1 } else { 0 };
    Node::Int(bytes.iter().rev().fold(start, |value: i128, &byte| value << 8 | i128::from(byte)))
}

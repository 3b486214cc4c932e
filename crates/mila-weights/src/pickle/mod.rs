//! A pickle machine that executes nothing.
//!
//! Pickle is a program for a stack machine: it can import any function and call it. This machine keeps the calls as data
//! instead: a class is a pair of names, a call is an inert [`Object`] of class, arguments, items and state. What the
//! objects mean (tensors, ordered dictionaries) is read from that data afterwards.
//!
//! Values live in one flat table and name each other by index, so depth costs no call stack, neither here nor when they
//! are dropped, and cycles are harmless. Text and bytes are borrowed from the input. Protocols 0 to 5, with the opcodes
//! that `torch.save` writes (Python's `pickletools.py` defines them); any other opcode is an error.

mod input;
mod machine;
mod opcode;
mod text;
mod value;

pub(crate) use machine::load;
pub(crate) use value::{Id, Node, Pickle, quoted};

//! The layouts of a map, each made once and only where an operator asks for it.

use mila_ops::{Error, Result};

use super::dim::Dim;
use super::file::{Setting, Value};
use super::lower::Lowering;
use crate::Id;

/// A map as tensors. A pooled map, whose one token is known while tracing, is `[batch, channels]` and `last` only.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forms {
    /// `[batch, channels, height, width]`, as convolutions want it.
    pub(super) planes: Option<Value>,
    /// Channels last, as linear maps and layer norms want it: `[batch, height, width, channels]`.
    pub(super) last: Option<Value>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Planes,
    Last,
}

impl Lowering<'_> {
    pub(super) fn set(&mut self, id: Id, layout: Layout, value: Value) {
        match layout {
            Layout::Planes => self.maps[id.0].planes = Some(value),
            Layout::Last => self.maps[id.0].last = Some(value),
        }
    }

    /// The map of `id` in a layout: transposed if it is there in the other one only.
    pub(super) fn form(&mut self, id: Id, layout: Layout) -> Result<Value> {
        let Forms { planes, last } = self.maps[id.0];
        let (found, other, order, name) = match layout {
            Layout::Planes => (planes, last, [0, 3, 1, 2], "planes"),
            Layout::Last => (last, planes, [0, 2, 3, 1], "last"),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let path = self.path(id).to_owned();
        let refused = |why: &str| Error::Unsupported { what: format!("`{path}` in ONNX"), why: why.into() };
        let other = other.ok_or_else(|| refused("its operand is part of another operator"))?;
        if self.is_pooled(id) {
            return Err(refused("a pooled map has no rows and columns"));
        }
        let dims = self.dims(id, layout);
        let settings = [("perm", Setting::Integers(order.to_vec()))];
        let value = self.file.node(&format!("{path}/{name}"), "Transpose", &[other], &settings, dims);
        self.set(id, layout, value);
        Ok(value)
    }

    /// The layout in which the fewest of `ids` are missing.
    pub(super) fn nearest(&self, ids: &[Id]) -> Layout {
        let missing = |of: fn(&Forms) -> Option<Value>| ids.iter().filter(|id| of(&self.maps[id.0]).is_none()).count();
        if missing(|forms| forms.planes) < missing(|forms| forms.last) { Layout::Planes } else { Layout::Last }
    }

    /// The extents of the map of `id` in a layout.
    pub(super) fn dims(&self, id: Id, layout: Layout) -> Vec<Dim> {
        let node = &self.trace.nodes()[id.0];
        let [batch, height, width] = [0, 1, 2].map(|axis| self.extents.of(&node.extents[axis]));
        let channels = Dim::Number(node.channels);
        match layout {
            Layout::Planes => vec![batch, channels, height, width],
            Layout::Last if self.is_pooled(id) => vec![batch, channels],
            Layout::Last => vec![batch, height, width, channels],
        }
    }

    /// Whether the map has one token at every size of the input.
    pub(super) fn is_pooled(&self, id: Id) -> bool {
        use crate::Extent::Number;
        matches!(self.trace.nodes()[id.0].extents, [_, Number(1), Number(1)])
    }
}

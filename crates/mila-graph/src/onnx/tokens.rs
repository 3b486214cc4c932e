//! RMSNorm, and operators that see which token is which: causal convolutions and class tokens.

use std::ops::Range;

use mila_ops::recurrence::{Direction, Path};
use mila_ops::{Activation, Error, Result, ScanOrder, TokenPlace, shape};

use super::content::Content;
use super::dim::Dim;
use super::file::{Setting, Value};
use super::lower::Lowering;
use super::maps::Layout;
use crate::{Id, TensorId};

impl Lowering<'_> {
    /// `x / sqrt(mean(x²) + eps) * weight`, which the operator set has no name for.
    pub(super) fn rms_norm(&mut self, id: Id, x: Id, weight: TensorId, eps: f64) -> Result<()> {
        let x = self.form(x, Layout::Last)?;
        let (path, dims, weight) = (self.path(id).to_owned(), self.dims(id, Layout::Last), self.stored(weight));
        let mut each = dims.clone();
        if let Some(last) = each.last_mut() {
            *last = 1.into();
        }
        let eps = self.scalar(eps as f32);
        let square = self.file.node(&format!("{path}/square"), "Mul", &[x, x], &[], dims.clone());
        let axes = [("axes", Setting::Integers(vec![-1])), ("keepdims", Setting::Integer(1))];
        let mean = self.file.node(&format!("{path}/ReduceMean"), "ReduceMean", &[square], &axes, each.clone());
        let above = self.file.node(&format!("{path}/Add"), "Add", &[mean, eps], &[], each.clone());
        let root = self.file.node(&format!("{path}/Sqrt"), "Sqrt", &[above], &[], each);
        let normed = self.file.node(&format!("{path}/Div"), "Div", &[x, root], &[], dims.clone());
        let y = self.file.node(&path, "Mul", &[normed, weight], &[], dims);
        self.set(id, Layout::Last, y);
        Ok(())
    }

    /// A convolution of the tokens in a line. From the end of an order, its taps and its padding change sides.
    pub(super) fn causal_conv(
        &mut self,
        id: Id,
        x: Id,
        (weight, bias, taps): (TensorId, Option<TensorId>, usize),
        order: ScanOrder,
        then: Activation,
    ) -> Result<()> {
        let path = self.path(id).to_owned();
        let turned = match order.path {
            Path::Rows => false,
            Path::Columns => true,
            other => {
                let why = format!("its order, {other:?}, is neither rows nor columns");
                return Err(Error::Unsupported { what: format!("`{path}` in ONNX"), why });
            }
        };
        let planes = self.form(x, Layout::Planes)?;
        let dims = self.dims(id, Layout::Planes);
        let [batch, channels, height, width] = [0, 1, 2, 3].map(|axis| dims[axis].clone());
        let columns = [batch.clone(), channels.clone(), width.clone(), height.clone()].to_vec();
        let swap = [("perm", Setting::Integers(vec![0, 1, 3, 2]))];
        let source = match turned {
            false => planes,
            true => self.file.node(&format!("{path}/columns"), "Transpose", &[planes], &swap, columns.clone()),
        };
        let line = vec![batch, channels, height.times(&width)];
        let view = self.list(&[0, 0, -1]);
        let flat = self.file.node(&format!("{path}/line"), "Reshape", &[source, view], &[], line.clone());
        let kernel = [self.trace.nodes()[id.0].channels, 1, taps];
        let (content, pads) = match order.direction {
            Direction::Forward => (Content::Stored(weight), [taps - 1, 0]),
            Direction::Backward => (Content::Reversed { weight, taps }, [0, taps - 1]),
        };
        let mut operands = vec![flat, self.parameter(weight, &kernel, content)];
        operands.extend(bias.map(|bias| self.stored(bias)));
        let settings = [
            ("group", Setting::Integer(kernel[0] as i64)),
            ("kernel_shape", Setting::Integers(vec![taps as i64])),
            ("pads", Setting::Integers(pads.map(|pad| pad as i64).to_vec())),
        ];
        let y = self.file.node(&path, "Conv", &operands, &settings, line);
        let y = self.activation(&path, y, then);
        let extents = self.shape_of(&path, source);
        let back = if turned { columns } else { dims.clone() };
        let y = self.file.node(&format!("{path}/grid"), "Reshape", &[y, extents], &[], back);
        let y = match turned {
            false => y,
            true => self.file.node(&format!("{path}/rows"), "Transpose", &[y], &swap, dims),
        };
        self.set(id, Layout::Planes, y);
        Ok(())
    }

    pub(super) fn require_grid(&mut self, x: Id, grid: [usize; 2]) -> Result<()> {
        let sizes = self.fixed(self.path(x))?;
        shape::grid(grid, [1, 2].map(|axis| self.trace.nodes()[x.0].extents[axis].at(sizes)))
    }

    /// Two parts of the row, and the token between them in every image.
    pub(super) fn insert_token(&mut self, id: Id, x: Id, token: TensorId, place: TokenPlace) -> Result<()> {
        let path = self.trace.manifest()[token.0].name.clone();
        let sizes = self.fixed(&path)?;
        let channels = self.trace.nodes()[id.0].channels;
        let patches = self.trace.nodes()[id.0].extents[2].at(sizes) - 1;
        let (batch, at) = (sizes.batch, place.index(patches));
        let row = |tokens: usize| -> Vec<Dim> { vec![batch.into(), 1.into(), tokens.into(), channels.into()] };
        let x = self.form(x, Layout::Last)?;
        let view = self.list(&[batch as i64, 1, patches as i64, channels as i64]);
        let line = self.file.node(&format!("{path}/row"), "Reshape", &[x, view], &[], row(patches));
        let stored = self.parameter(token, &[1, 1, 1, channels], Content::Stored(token));
        let extents = self.list(&[batch as i64, 1, 1, channels as i64]);
        let token = self.file.node(&format!("{path}/Expand"), "Expand", &[stored, extents], &[], row(1));
        let mut parts = vec![token];
        if at > 0 {
            parts.insert(0, self.slice(&format!("{path}/before"), line, 0..at, row(at)));
        }
        if at < patches {
            parts.push(self.slice(&format!("{path}/after"), line, at..patches, row(patches - at)));
        }
        let axis = [("axis", Setting::Integer(2))];
        let y = self.file.node(&format!("{path}/Concat"), "Concat", &parts, &axis, row(patches + 1));
        self.set(id, Layout::Last, y);
        Ok(())
    }

    pub(super) fn take_token(&mut self, id: Id, x: Id, place: TokenPlace) -> Result<()> {
        let path = format!("{}/class_token", self.path(id));
        let sizes = self.fixed(&path)?;
        let node = &self.trace.nodes()[x.0];
        let (at, channels) = (place.index(node.extents[2].at(sizes) - 1), node.channels);
        let row = self.form(x, Layout::Last)?;
        let one = vec![sizes.batch.into(), 1.into(), 1.into(), channels.into()];
        let token = self.slice(&path, row, at..at + 1, one);
        let view = self.list(&[sizes.batch as i64, channels as i64]);
        let y = self.file.node(&format!("{path}/Reshape"), "Reshape", &[token, view], &[], self.dims(id, Layout::Last));
        self.set(id, Layout::Last, y);
        Ok(())
    }

    /// Some tokens of a row.
    fn slice(&mut self, name: &str, row: Value, tokens: Range<usize>, dims: Vec<Dim>) -> Value {
        let [start, end, axis] = [tokens.start as i64, tokens.end as i64, 2].map(|n| self.list(&[n]));
        self.file.node(name, "Slice", &[row, start, end, axis], &[], dims)
    }
}

//! Operators that see where a token lies: absolute positions, patches, padding.

use mila_ops::{Error, Result, shape};

use super::content::Content;
use super::dim::Extents;
use super::file::Setting;
use super::lower::Lowering;
use super::maps::Layout;
use crate::{Id, TensorId};

impl Lowering<'_> {
    /// The sum of a map and a table of its own grid, which has a value for the last channels.
    pub(super) fn add_positions(&mut self, id: Id, x: Id, table: TensorId) -> Result<()> {
        let name = self.trace.manifest()[table.0].name.clone();
        if self.extents == Extents::Dynamic {
            let what = format!("`{name}` in ONNX with free extents");
            return Err(Error::Unsupported { what, why: "absolute positions are those of one grid".into() });
        }
        let [height, width, channels] = [0, 1, 2].map(|axis| self.trace.manifest()[table.0].shape[axis]);
        let before = self.trace.nodes()[id.0].channels - channels;
        let x = self.form(x, Layout::Last)?;
        let mut table = self.stored(table);
        let path = self.path(id).to_owned();
        if before > 0 {
            let pads = self.list(&[0, 0, before as i64, 0, 0, 0]);
            let dims = vec![height.into(), width.into(), (before + channels).into()];
            table = self.file.node(&format!("{path}/positions/Pad"), "Pad", &[table, pads], &[], dims);
        }
        let y = self.file.node(&format!("{path}/positions"), "Add", &[x, table], &[], self.dims(id, Layout::Last));
        self.set(id, Layout::Last, y);
        Ok(())
    }

    /// Every second token from each of four starts on, side by side.
    pub(super) fn patches(&mut self, id: Id, x: Id) -> Result<()> {
        let path = format!("{}/patches", self.path(id));
        let channels = self.trace.nodes()[x.0].channels;
        let x = self.form(x, Layout::Last)?;
        let dims = self.dims(id, Layout::Last);
        let (axes, steps) = (self.list(&[1, 2]), self.list(&[2, 2]));
        let ends = self.constant(&[2], Content::Integers(vec![i64::MAX; 2]));
        let mut parts = Vec::with_capacity(4);
        for (column, row) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let starts = self.list(&[row, column]);
            let mut dims = dims.clone();
            dims[3] = channels.into();
            let name = format!("{path}/row{row}_column{column}");
            parts.push(self.file.node(&name, "Slice", &[x, starts, ends, axes, steps], &[], dims));
        }
        let y = self.file.node(&path, "Concat", &parts, &[("axis", Setting::Integer(3))], dims);
        self.set(id, Layout::Last, y);
        Ok(())
    }

    pub(super) fn pad_to_multiple(&mut self, id: Id, x: Id, multiple: usize) -> Result<()> {
        shape::multiple(multiple)?;
        let planes = self.form(x, Layout::Planes)?;
        let name = format!("{}/padded", self.path(id));
        let pads = match self.extents {
            Extents::Fixed(sizes) => {
                let grow = |axis: usize| {
                    let [before, after] = [x, id].map(|id| self.trace.nodes()[id.0].extents[axis].at(sizes));
                    (after - before) as i64
                };
                let grown = [grow(1), grow(2)];
                if grown == [0, 0] {
                    self.set(id, Layout::Planes, planes);
                    return Ok(());
                }
                self.list(&[0, 0, 0, 0, 0, 0, grown[0], grown[1]])
            }
            Extents::Dynamic => {
                // ceil(n / multiple) * multiple - n, of whole numbers.
                let grid = self.rows_and_columns(&name, planes);
                let [less, by] = [multiple - 1, multiple].map(|n| self.list(&[n as i64; 2]));
                let above = self.whole(&name, "Add", grid, less);
                let count = self.whole(&name, "Div", above, by);
                let whole = self.whole(&name, "Mul", count, by);
                let grown = self.whole(&name, "Sub", whole, grid);
                self.pads_below(&name, grown)
            }
        };
        let y = self.file.node(&name, "Pad", &[planes, pads], &[], self.dims(id, Layout::Planes));
        self.set(id, Layout::Planes, y);
        Ok(())
    }
}

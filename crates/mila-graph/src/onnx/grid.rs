//! Operators that see where a token lies: absolute positions, patches, padding.

use mila_ops::{Error, PatchOrder, Result, shape};

use super::content::Content;
use super::dim::Extents;
use super::file::Setting;
use super::lower::Lowering;
use super::maps::Layout;
use crate::{Id, Sizes, TensorId};

impl Lowering<'_> {
    /// The sizes of an export whose extents are numbers.
    pub(super) fn fixed(&self, path: &str) -> Result<Sizes> {
        match self.extents {
            Extents::Fixed(sizes) => Ok(sizes),
            Extents::Dynamic => {
                let what = format!("`{path}` in ONNX with free extents");
                Err(Error::Unsupported {
                    what,
                    why: "absolute positions are those of one grid; give its size instead".into(),
                })
            }
        }
    }

    /// The sum of a map and a table of its own grid, which has a value for the last channels.
    pub(super) fn add_positions(&mut self, id: Id, x: Id, table: TensorId) -> Result<()> {
        let name = self.trace.manifest()[table.0].name.clone();
        let sizes = self.fixed(&name)?;
        let (channels, node) = (self.trace.manifest()[table.0].shape[2], &self.trace.nodes()[id.0]);
        let ([height, width], before) = ([1, 2].map(|axis| node.extents[axis].at(sizes)), node.channels - channels);
        let x = self.form(x, Layout::Last)?;
        let mut table = self.parameter(table, &[height, width, channels], Content::Stored(table));
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
    pub(super) fn patches(&mut self, id: Id, x: Id, order: PatchOrder) -> Result<()> {
        let path = format!("{}/patches", self.path(id));
        let channels = self.trace.nodes()[x.0].channels;
        let x = self.form(x, Layout::Last)?;
        let dims = self.dims(id, Layout::Last);
        let (axes, steps) = (self.list(&[1, 2]), self.list(&[2, 2]));
        let ends = self.constant(&[2], Content::Integers(vec![i64::MAX; 2]));
        let mut parts = Vec::with_capacity(4);
        // (column, row) of each token.
        let tokens = match order {
            PatchOrder::Tokens => [(0, 0), (0, 1), (1, 0), (1, 1)],
            PatchOrder::Channels => [(0, 0), (1, 0), (0, 1), (1, 1)],
        };
        for (column, row) in tokens {
            let starts = self.list(&[row, column]);
            let mut dims = dims.clone();
            dims[3] = channels.into();
            let name = format!("{path}/row{row}_column{column}");
            parts.push(self.file.node(&name, "Slice", &[x, starts, ends, axes, steps], &[], dims));
        }
        let y = self.file.node(&path, "Concat", &parts, &[("axis", Setting::Integer(3))], dims.clone());
        let y = match order {
            PatchOrder::Tokens => y,
            PatchOrder::Channels => {
                let view = self.list(&[0, 0, 0, 4, channels as i64]);
                let by = |rows: usize, columns: usize| [&dims[..3], &[rows.into(), columns.into()]].concat();
                let name = format!("{path}/tokens");
                let tokens = self.file.node(&name, "Reshape", &[y, view], &[], by(4, channels));
                let swap = [("perm", Setting::Integers(vec![0, 1, 2, 4, 3]))];
                let name = format!("{path}/channels");
                let turned = self.file.node(&name, "Transpose", &[tokens], &swap, by(channels, 4));
                let view = self.list(&[0, 0, 0, 4 * channels as i64]);
                self.file.node(&format!("{path}/patches"), "Reshape", &[turned, view], &[], dims)
            }
        };
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
                let grid = self.rows_and_columns(&name, planes, Layout::Planes);
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

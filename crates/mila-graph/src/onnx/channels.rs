//! Channels taken out of a map, and maps put side by side.

use std::ops::Range;

use mila_ops::Result;

use super::file::Setting;
use super::lower::Lowering;
use super::maps::Layout;
use crate::Id;

impl Lowering<'_> {
    pub(super) fn channels(&mut self, id: Id, x: Id, range: Range<usize>) -> Result<()> {
        let layout = self.nearest(&[x]);
        let x = self.form(x, layout)?;
        let [start, end] = [range.start, range.end].map(|at| self.list(&[at as i64]));
        let axis = self.list(&[channel_axis(layout)]);
        let name = format!("{}/Slice", self.path(id));
        let y = self.file.node(&name, "Slice", &[x, start, end, axis], &[], self.dims(id, layout));
        self.set(id, layout, y);
        Ok(())
    }

    pub(super) fn concat(&mut self, id: Id, a: Id, b: Id) -> Result<()> {
        let layout = self.nearest(&[a, b]);
        let inputs = [self.form(a, layout)?, self.form(b, layout)?];
        let axis = [("axis", Setting::Integer(channel_axis(layout)))];
        let name = format!("{}/Concat", self.path(id));
        let y = self.file.node(&name, "Concat", &inputs, &axis, self.dims(id, layout));
        self.set(id, layout, y);
        Ok(())
    }
}

/// Where the channels are; a pooled map has no rows and columns before them.
fn channel_axis(layout: Layout) -> i64 {
    match layout {
        Layout::Planes => 1,
        Layout::Last => -1,
    }
}

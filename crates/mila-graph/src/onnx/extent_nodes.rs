//! Whole numbers that a dynamic model computes from the extents of its maps.

use super::content::Content;
use super::file::{Setting, Value};
use super::lower::Lowering;
use super::maps::Layout;

impl Lowering<'_> {
    /// A scalar, made once.
    pub(super) fn scalar(&mut self, number: f32) -> Value {
        self.constant(&[], Content::Floats(vec![number]))
    }

    /// A list of whole numbers, made once.
    pub(super) fn list(&mut self, numbers: &[i64]) -> Value {
        self.constant(&[numbers.len()], Content::Integers(numbers.to_vec()))
    }

    /// A constant without a layer.
    pub(super) fn constant(&mut self, dims: &[usize], content: Content) -> Value {
        let found = self.constants.iter().find(|(d, c, _)| d == dims && *c == content);
        if let Some((_, _, value)) = found {
            return *value;
        }
        let value = self.file.initialiser("constant", dims, content.clone());
        self.constants.push((dims.to_vec(), content, value));
        value
    }

    /// `[height, width]` of a map in a layout.
    pub(super) fn rows_and_columns(&mut self, name: &str, map: Value, layout: Layout) -> Value {
        if let Some(&found) = self.grids.get(&map) {
            return found;
        }
        let shape = self.file.integer_node(&format!("{name}/Shape"), "Shape", &[map], &[], vec![4.into()]);
        let axes = self.list(match layout {
            Layout::Planes => &[2, 3],
            Layout::Last => &[1, 2],
        });
        let inputs = [shape, axes];
        let settings = [("axis", Setting::Integer(0))];
        let grid = self.file.integer_node(&format!("{name}/grid"), "Gather", &inputs, &settings, vec![2.into()]);
        self.grids.insert(map, grid);
        grid
    }

    /// Whole numbers combined element by element.
    pub(super) fn whole(&mut self, name: &str, operator: &'static str, a: Value, b: Value) -> Value {
        self.file.integer_node(&format!("{name}/{operator}"), operator, &[a, b], &[], vec![2.into()])
    }

    /// The pads of planes that grow by `[rows, columns]` at their lower and right border, as `Pad` wants them.
    pub(super) fn pads_below(&mut self, name: &str, grown: Value) -> Value {
        let zeros = self.list(&[0; 6]);
        let settings = [("axis", Setting::Integer(0))];
        self.file.integer_node(&format!("{name}/pads"), "Concat", &[zeros, grown], &settings, vec![8.into()])
    }
}

//! Attention within windows: zeros fill a map up to whole windows, whose tokens become an axis of their own, and the scores of
//! what is no token are pushed below all others.
//!
//! ```text
//! [B, H, W, 3 C]  padded  [B, rows, r, columns, c, 3 C]  as  [B, windows, 3 heads, r c, d]  split into q, k, v
//! softmax(q k^T / sqrt(d) + bias + mask) v          bias: [heads, r c, r c]    mask: [windows, 1, 1, r c]
//! ```

use mila_ops::{Error, Result, Windows};

use super::content::Content;
use super::dim::{Dim, Extents};
use super::file::{Setting, Value};
use super::lower::Lowering;
use super::maps::Layout;
use crate::{Id, TensorId};

/// What is added to the score of a key that is no token.
const NEVER: f32 = -1e30;

/// A map cut into windows.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Rows and columns of a window.
    sides: [usize; 2],
    /// Windows down and across.
    counts: [Dim; 2],
    /// Rows and columns of all windows.
    whole: [Dim; 2],
    /// What `Pad` adds to a map whose channels are last, and where its tokens begin and end then; none if it is whole.
    filled: Option<[Value; 3]>,
    /// Windows down and across, each a list of one.
    lists: [List; 2],
    /// Rows and columns of all windows, each a list of one.
    whole_lists: [List; 2],
    /// What is added to the scores, if something is.
    mask: Option<Value>,
}

/// Whole numbers, known or computed.
#[derive(Clone, Debug)]
enum List {
    Known(Vec<i64>),
    Computed(Value),
}

impl List {
    /// Known ones.
    fn of(numbers: &[usize]) -> Self {
        Self::Known(numbers.iter().map(|&n| n as i64).collect())
    }
}

impl Lowering<'_> {
    pub(super) fn window_attention(
        &mut self,
        id: Id,
        qkv: Id,
        (table, heads, windows): (TensorId, usize, Windows),
    ) -> Result<()> {
        let path = self.path(id).to_owned();
        if self.is_pooled(id) {
            let what = format!("`{path}` in ONNX");
            return Err(Error::Unsupported { what, why: "a pooled map has no rows and columns".into() });
        }
        let channels = self.trace.nodes()[id.0].channels;
        let d = channels / heads;
        let x = self.form(qkv, Layout::Last)?;
        let grid = self.windows_of(&path, id, x, windows);
        let tokens = grid.sides[0] * grid.sides[1];
        let batch = self.dims(id, Layout::Last)[0].clone();
        let count = grid.counts[0].times(&grid.counts[1]);
        let x = self.cut(&path, x, &grid, 3 * channels);
        let view = self.list(&[0, -1, tokens as i64, 3 * heads as i64, d as i64]);
        let dims = |axes: [Dim; 3]| [[batch.clone(), count.clone()].as_slice(), &axes].concat();
        let by_token = dims([tokens.into(), (3 * heads).into(), d.into()]);
        let x = self.file.node(&format!("{path}/tokens"), "Reshape", &[x, view], &[], by_token);
        let by_head = dims([(3 * heads).into(), tokens.into(), d.into()]);
        let x = self.permuted(&format!("{path}/heads"), x, &[0, 1, 3, 2, 4], by_head);
        let [q, k, v] = self.file.split(&path, x, 2, heads, ["q", "k", "v"]);

        let scale = self.scalar(1.0 / (d as f32).sqrt());
        let one = dims([heads.into(), tokens.into(), d.into()]);
        let q = self.file.node(&format!("{path}/scaled"), "Mul", &[q, scale], &[], one.clone());
        let turned = dims([heads.into(), d.into(), tokens.into()]);
        let k = self.permuted(&format!("{path}/keys"), k, &[0, 1, 2, 4, 3], turned);
        let square = dims([heads.into(), tokens.into(), tokens.into()]);
        let scores = self.file.node(&format!("{path}/scores"), "MatMul", &[q, k], &[], square.clone());
        let content = Content::RelativeBias { table, heads, windows, sides: grid.sides };
        let bias = self.parameter(table, &[heads, tokens, tokens], content);
        let mut scores = self.file.node(&format!("{path}/biased"), "Add", &[scores, bias], &[], square.clone());
        if let Some(mask) = grid.mask {
            scores = self.file.node(&format!("{path}/masked"), "Add", &[scores, mask], &[], square.clone());
        }
        let axis = [("axis", Setting::Integer(-1))];
        let weights = self.file.node(&format!("{path}/Softmax"), "Softmax", &[scores], &axis, square);
        let mixed = self.file.node(&format!("{path}/mixed"), "MatMul", &[weights, v], &[], one);
        let by_token = dims([tokens.into(), heads.into(), d.into()]);
        let mixed = self.permuted(&format!("{path}/joined"), mixed, &[0, 1, 3, 2, 4], by_token);

        let y = self.put_together(&path, mixed, &grid, channels, batch);
        let dims = self.dims(id, Layout::Last);
        let y = match grid.filled {
            None => y,
            Some([_, starts, ends]) => {
                let axes = self.list(&[1, 2]);
                self.file.node(&path, "Slice", &[y, starts, ends, axes], &[], dims)
            }
        };
        self.set(id, Layout::Last, y);
        Ok(())
    }

    fn permuted(&mut self, name: &str, x: Value, order: &[i64], dims: Vec<Dim>) -> Value {
        self.file.node(name, "Transpose", &[x], &[("perm", Setting::Integers(order.to_vec()))], dims)
    }

    /// `[batch, rows, columns, r, c, width]` of a map of `[batch, height, width, width]`.
    fn cut(&mut self, path: &str, x: Value, grid: &Grid, width: usize) -> Value {
        let batch = self.file.dims(x)[0].clone();
        let Grid { sides: [r, c], counts: [rows, columns], whole, .. } = grid.clone();
        let x = match grid.filled {
            None => x,
            Some([pads, ..]) => {
                let dims = vec![batch.clone(), whole[0].clone(), whole[1].clone(), width.into()];
                self.file.node(&format!("{path}/padded"), "Pad", &[x, pads], &[], dims)
            }
        };
        let [down, across] = grid.lists.clone();
        let parts = [List::of(&[0]), down, List::of(&[r]), across, List::of(&[c, width])];
        let view = self.joined(&format!("{path}/cut_shape"), &parts, 6);
        let dims = vec![batch.clone(), rows.clone(), r.into(), columns.clone(), c.into(), width.into()];
        let x = self.file.node(&format!("{path}/cut"), "Reshape", &[x, view], &[], dims);
        let dims = vec![batch, rows, columns, r.into(), c.into(), width.into()];
        self.permuted(&format!("{path}/windows"), x, &[0, 1, 3, 2, 4, 5], dims)
    }

    /// The inverse of [`cut`](Self::cut), without its padding taken off; `x` is any view of the windows in order.
    fn put_together(&mut self, path: &str, x: Value, grid: &Grid, width: usize, batch: Dim) -> Value {
        let Grid { sides: [r, c], counts: [rows, columns], whole, .. } = grid.clone();
        let [down, across] = grid.lists.clone();
        let parts = [List::of(&[0]), down, across, List::of(&[r, c, width])];
        let view = self.joined(&format!("{path}/windows_shape"), &parts, 6);
        let dims = vec![batch.clone(), rows.clone(), columns.clone(), r.into(), c.into(), width.into()];
        let x = self.file.node(&format!("{path}/apart"), "Reshape", &[x, view], &[], dims);
        let dims = vec![batch.clone(), rows, r.into(), columns, c.into(), width.into()];
        let x = self.permuted(&format!("{path}/beside"), x, &[0, 1, 3, 2, 4, 5], dims);
        let [high, wide] = grid.whole_lists.clone();
        let parts = [List::of(&[0]), high, wide, List::of(&[width])];
        let view = self.joined(&format!("{path}/whole_shape"), &parts, 4);
        let dims = vec![batch, whole[0].clone(), whole[1].clone(), width.into()];
        self.file.node(&format!("{path}/whole"), "Reshape", &[x, view], &[], dims)
    }

    /// Lists one after the other, together `len` long; a constant if all are known.
    fn joined(&mut self, name: &str, parts: &[List], len: usize) -> Value {
        let mut known = Vec::new();
        let mut values = Vec::new();
        for part in parts {
            match part {
                List::Known(numbers) => known.extend_from_slice(numbers),
                List::Computed(value) => {
                    if !known.is_empty() {
                        values.push(self.list(&std::mem::take(&mut known)));
                    }
                    values.push(*value);
                }
            }
        }
        if values.is_empty() {
            return self.list(&known);
        }
        if !known.is_empty() {
            values.push(self.list(&known));
        }
        let axis = [("axis", Setting::Integer(0))];
        self.file.integer_node(name, "Concat", &values, &axis, vec![len.into()])
    }

    /// How the map of `id` is cut, whose tokens are those of `x`: made once for each of a model's resolutions.
    fn windows_of(&mut self, path: &str, id: Id, x: Value, windows: Windows) -> Grid {
        let extents = self.trace.nodes()[id.0].extents[1..].to_vec();
        let key = (extents.clone(), windows);
        if let Some(found) = self.windows.get(&key) {
            return found.clone();
        }
        let path = &format!("{path}/grid");
        let grid = match self.extents {
            Extents::Fixed(sizes) => self.known_windows([extents[0].at(sizes), extents[1].at(sizes)], windows),
            Extents::Dynamic => {
                let extents = [0, 1].map(|axis| self.extents.of(&extents[axis]));
                self.computed_windows(path, x, extents, windows)
            }
        };
        self.windows.insert(key, grid.clone());
        grid
    }

    fn known_windows(&mut self, extents: [usize; 2], windows: Windows) -> Grid {
        let axes = extents.map(|extent| {
            let side = windows.side.min(extent);
            let all: Vec<_> = windows.along(extent).collect();
            let before = if all.len() > 1 { side - all[0].len() } else { 0 };
            (side, all.len(), before)
        });
        let [(r, rows, top), (c, columns, left)] = axes;
        let (high, wide) = (r * rows, c * columns);
        let lists = [rows, columns].map(|count| List::of(&[count]));
        let whole_lists = [high, wide].map(|extent| List::of(&[extent]));
        let (filled, mask) = if [high, wide] == extents {
            (None, None)
        } else {
            let after = [high - top - extents[0], wide - left - extents[1]];
            let pads = [0, top, left, 0, 0, after[0], after[1], 0].map(|n| n as i64);
            let [starts, ends] = [[top, left], [top + extents[0], left + extents[1]]];
            let filled = [self.list(&pads), self.list(&starts.map(|n| n as i64)), self.list(&ends.map(|n| n as i64))];
            let is_token = |row: usize, column: usize| {
                (starts[0]..ends[0]).contains(&row) && (starts[1]..ends[1]).contains(&column)
            };
            let mut values = Vec::with_capacity(high * wide);
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let tokens = (0..r).flat_map(|y| (0..c).map(move |x| (row * r + y, column * c + x)));
                values.extend(tokens.map(|(y, x)| if is_token(y, x) { 0.0 } else { NEVER }));
            }
            (Some(filled), Some(self.constant(&[rows * columns, 1, 1, r * c], Content::Floats(values))))
        };
        let (counts, whole) = ([rows.into(), columns.into()], [high.into(), wide.into()]);
        Grid { sides: [r, c], counts, whole, filled, lists, whole_lists, mask }
    }

    fn computed_windows(&mut self, path: &str, x: Value, extents: [Dim; 2], windows: Windows) -> Grid {
        let Windows { side, shift } = windows;
        let pair = |lowering: &mut Self, number: usize| lowering.list(&[number as i64; 2]);
        let grid = self.rows_and_columns(path, x, Layout::Last);
        let [side_list, less] = [side, side - 1].map(|number| pair(self, number));
        let zero = pair(self, 0);
        // A map that one window covers is not shifted.
        let before = if shift == 0 {
            zero
        } else {
            let beyond = self.whole(path, "Sub", grid, side_list);
            let beyond = self.whole(path, "Max", beyond, zero);
            let [one, lacking] = [1, side - shift].map(|number| pair(self, number));
            let beyond = self.whole(path, "Min", beyond, one);
            self.whole(path, "Mul", beyond, lacking)
        };
        let ends = self.whole(path, "Add", before, grid);
        let above = self.whole(path, "Add", ends, less);
        let count = self.whole(path, "Div", above, side_list);
        let all = self.whole(path, "Mul", count, side_list);
        let after = self.whole(path, "Sub", all, ends);
        let [first, last] = [before, after].map(List::Computed);
        let pads = [List::of(&[0]), first, List::of(&[0, 0]), last, List::of(&[0])];
        let pads = self.joined(&format!("{path}/pads"), &pads, 8);
        let element = |lowering: &mut Self, name: &str, list: Value, at: i64| {
            let at = lowering.list(&[at]);
            let axis = [("axis", Setting::Integer(0))];
            let name = format!("{path}/{name}");
            List::Computed(lowering.file.integer_node(&name, "Gather", &[list, at], &axis, vec![1.into()]))
        };
        let lists = [element(self, "rows", count, 0), element(self, "columns", count, 1)];
        let whole_lists = [element(self, "height", all, 0), element(self, "width", all, 1)];
        let counts = extents.clone().map(|extent| count_of(&extent, windows));
        let whole = counts.clone().map(|count| Dim::Number(side).times(&count));

        // Ones where there are tokens.
        let mut grid_of_ones = Grid {
            sides: [side; 2],
            counts: counts.clone(),
            whole: whole.clone(),
            filled: Some([pads, before, ends]),
            lists,
            whole_lists,
            mask: None,
        };
        let shape = [List::of(&[1]), List::Computed(grid), List::of(&[1])];
        let shape = self.joined(&format!("{path}/ones_shape"), &shape, 4);
        let unit = self.scalar(1.0);
        let [height, width] = extents;
        let dims = vec![1.into(), height, width, 1.into()];
        let ones = self.file.node(&format!("{path}/ones"), "Expand", &[unit, shape], &[], dims);
        let cut = self.cut(&format!("{path}/mask"), ones, &grid_of_ones, 1);
        let tokens = side * side;
        let view = self.list(&[-1, 1, 1, tokens as i64]);
        let dims = vec![counts[0].times(&counts[1]), 1.into(), 1.into(), tokens.into()];
        let ones = self.file.node(&format!("{path}/is_token"), "Reshape", &[cut, view], &[], dims.clone());
        let missing = self.file.node(&format!("{path}/missing"), "Sub", &[unit, ones], &[], dims.clone());
        let never = self.scalar(NEVER);
        grid_of_ones.mask = Some(self.file.node(&format!("{path}/mask"), "Mul", &[missing, never], &[], dims));
        grid_of_ones
    }
}

/// The number of windows along an axis, in the integer arithmetic that readers of ONNX understand.
fn count_of(extent: &Dim, Windows { side, shift }: Windows) -> Dim {
    match extent {
        Dim::Number(n) => Dim::Number(Windows { side, shift }.along(*n).count()),
        Dim::Text(n) if shift == 0 => Dim::Text(format!("(({n} + {})/{side})", side - 1)),
        Dim::Text(n) => {
            let before = format!("{}*min(max({n} - {side}, 0), 1)", side - shift);
            Dim::Text(format!("(({n} + {before} + {})/{side})", side - 1))
        }
    }
}

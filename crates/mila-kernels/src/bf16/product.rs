//! Matrix products with a packed right-hand side in bf16.

use super::{BLOCK, Bf16Unit, Kind, rows};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    lane::Lane,
    matrix::{PANEL, Panel},
    product::{Left, Product, Right, Start, Target},
};

/// What multiplies a strip and a panel.
pub(crate) trait Tile {
    /// Rows of a strip.
    const ROWS: usize;

    /// `tile[r] = start + strip[r] · panel` for at least the first `rows` rows; the others are arbitrary.
    fn multiply(&self, strip: &[Lane], panel: &[Panel], start: &[Lane; 2], rows: usize, tile: &mut [[Lane; 2]]);
}

/// A product on a unit, whose operands are in the unit's format.
pub(crate) struct Bf16Product<'a> {
    pub(crate) unit: Bf16Unit,
    pub(crate) product: Product<'a>,
}

impl Kernel for Bf16Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match self.unit.kind() {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => {
                // SAFETY: the unit is a proof of the instructions.
                let tiles = unsafe { super::pairs::Avx512Bf16::new() };
                self.panels::<A, _>(&tiles);
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => {
                // SAFETY: the unit is a proof of the instructions and of the permission.
                let tiles = unsafe { super::amx::Amx::new() };
                self.panels::<A, _>(&tiles);
            }
        }
    }
}

impl Bf16Product<'_> {
    #[inline(always)]
    fn panels<A: Arithmetic, T: Tile>(mut self, tiles: &T) {
        let Product { left, rows, right, start, activation, .. } = self.product;
        let (Left::Strips(strips), Right::Packed(right)) = (left, right) else {
            unreachable!("operands in bf16 are strips and a packed matrix")
        };
        let lanes = right.depth().div_ceil(BLOCK) * self.unit.lanes();
        let mut tile = [[Lane::ZERO; 2]; PANEL];
        for panel in self.product.panels.clone() {
            let start = first_lanes(start, panel * PANEL);
            let steps = right.panel(panel);
            for row in (0..rows).step_by(T::ROWS) {
                let count = T::ROWS.min(rows - row);
                match steps.is_empty() {
                    true => tile.fill(start),
                    false => {
                        let strip = &strips[row / T::ROWS * lanes..][..lanes];
                        tiles.multiply(strip, steps, &start, count, &mut tile);
                    }
                }
                let tile = &mut tile[..count];
                activation.finish_lanes::<A>(tile.as_flattened_mut());
                self.store::<A>(row, panel, tile);
            }
        }
    }

    /// Writes a tile, plus what is added last, to its rows, or to a strip for the next product.
    #[inline(always)]
    fn store<A: Arithmetic>(&mut self, row: usize, panel: usize, tile: &[[Lane; 2]]) {
        let Product { residual, right, ref panels, ref mut target, .. } = self.product;
        let columns = panel * PANEL..right.columns().min((panel + 1) * PANEL);
        match target {
            Target::Rows { y, stride } => {
                let first = columns.start - panels.start * PANEL;
                for (r, lanes) in tile.iter().enumerate() {
                    let y = &mut y[(row + r) * *stride + first..][..columns.len()];
                    let residual = residual.map(|x| &x[(row + r) * right.columns()..][columns.clone()]);
                    for (l, y) in y.chunks_mut(LANES).enumerate() {
                        let mut x = A::load(&lanes[l].0);
                        if let Some(residual) = residual {
                            x = A::add(A::load_part(&residual[l * LANES..][..y.len()]), x);
                        }
                        A::store_part(x, y);
                    }
                }
            }
            // 32 columns of this product are a block of the next one's depth.
            Target::Strips(strips) => {
                let (height, lanes) = (self.unit.strip(), self.unit.lanes());
                let block = (row / height * right.columns().div_ceil(PANEL) + panel) * lanes;
                let block = &mut strips[block..][..lanes];
                // Columns that are missing in the last panel are zero, whatever infinite numbers have made of their weights.
                let columns = right.columns() - panel * PANEL;
                let (low_end, high_end) = (columns.min(LANES), columns.clamp(LANES, PANEL) - LANES);
                for (to, [low, high]) in block.iter_mut().zip(tile) {
                    let (low, high) = (A::load_part(&low.0[..low_end]), A::load_part(&high.0[..high_end]));
                    A::store(A::narrow(low, high), &mut to.0);
                }
                block[tile.len()..].fill(Lane::ZERO);
                if self.unit.transposed() {
                    for lanes in block.as_chunks_mut::<LANES>().0 {
                        rows::transpose::<A>(lanes);
                    }
                }
            }
        }
    }
}

/// The start of the 32 columns from `first` on.
#[inline(always)]
fn first_lanes(start: Start<'_>, first: usize) -> [Lane; 2] {
    let mut lanes = [Lane::ZERO; 2];
    if let Start::Bias(bias) = start {
        for (lane, bias) in lanes.iter_mut().zip(bias[first..].chunks(LANES)) {
            lane.set(bias);
        }
    }
    lanes
}

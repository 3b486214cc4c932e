//! Extents as ONNX has them: numbers, or text.

use crate::{Extent, Sizes, Step, Symbol};

/// One extent of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    /// Known.
    Number(usize),
    /// An expression over `batch`, `height` and `width`; quotients are rounded down.
    Text(String),
}

/// Whether an export has numbers or symbols for its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extents {
    /// These.
    Fixed(Sizes),
    /// Any: `batch`, `height` and `width` are symbols.
    Dynamic,
}

impl Extents {
    /// `extent` under these sizes.
    pub(super) fn of(self, extent: &Extent) -> Dim {
        match (self, extent) {
            (Self::Fixed(sizes), extent) => Dim::Number(extent.at(sizes)),
            (Self::Dynamic, Extent::Number(n)) => Dim::Number(*n),
            (Self::Dynamic, Extent::Of { symbol, steps }) => Dim::Text(text(symbol, steps)),
        }
    }
}

impl Dim {
    /// The product of two.
    pub(super) fn times(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => Self::Number(a * b),
            (Self::Number(n), Self::Text(x)) | (Self::Text(x), Self::Number(n)) => Self::Text(format!("{n}*{x}")),
            (Self::Text(a), Self::Text(b)) => Self::Text(format!("{a}*{b}")),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Self::Number(n)
    }
}

/// An extent in the integer arithmetic that readers of ONNX understand.
fn text(symbol: &Symbol, steps: &[Step]) -> String {
    let start = match symbol {
        Symbol::Batch => "batch".to_owned(),
        Symbol::Height => "height".to_owned(),
        Symbol::Width => "width".to_owned(),
        Symbol::Tokens(grid) => match Extents::Dynamic.of(&grid[0]).times(&Extents::Dynamic.of(&grid[1])) {
            Dim::Number(n) => n.to_string(),
            Dim::Text(product) => format!("({product})"),
        },
    };
    steps.iter().fold(start, |x, step| match *step {
        Step::Affine { times: 1, plus } if plus < 0 => format!("({x} - {})", -plus),
        Step::Affine { times: 1, plus } => format!("({x} + {plus})"),
        Step::Affine { times, plus: 0 } => format!("({times}*{x})"),
        Step::Affine { times, plus } if plus < 0 => format!("({times}*{x} - {})", -plus),
        Step::Affine { times, plus } => format!("({times}*{x} + {plus})"),
        Step::Quotient { by } => format!("(({x} + {})/{by})", by - 1),
        Step::AtLeastOne => format!("max({x}, 1)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_round_up_in_integer_arithmetic() {
        let height = Extent::of(Symbol::Height).affine(1, 0).divided_up(4);
        assert_eq!(Extents::Dynamic.of(&height), Dim::Text("((height + 3)/4)".into()));
        let tokens = Extents::Dynamic.of(&height).times(&Extents::Dynamic.of(&Extent::of(Symbol::Width)));
        assert_eq!(tokens, Dim::Text("((height + 3)/4)*width".into()));
        let sizes = Sizes { batch: 1, height: 97, width: 1 };
        assert_eq!(Extents::Fixed(sizes).of(&height), Dim::Number(25));
    }
}

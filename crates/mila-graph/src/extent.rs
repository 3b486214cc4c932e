//! Extents that may depend on the input: numbers, or expressions over its batch, height and width.

use std::fmt;

use crate::Sizes;

/// What an expression starts from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// Images in the batch.
    Batch,
    /// Rows of pixels.
    Height,
    /// Columns of pixels.
    Width,
    /// The product of a map's height and width.
    Tokens(Box<[Extent; 2]>),
}

/// A number, or an expression in normal form: two extents that these rules make equal compare equal.
///
/// ```text
/// ceil(ceil(x / a) / b) = ceil(x / ab)          ceil((ax + b) / d) = (a/d) x + ceil(b / d)   where d divides a
/// a (bx + c) + d = (ab) x + (ac + d)            ceil((x + qd + r) / d) = ceil((x + r) / d) + q   for 0 <= r < d
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Known.
    Number(usize),
    /// An extent of the input, taken through steps from the first to the last.
    Of {
        /// Where it starts.
        symbol: Symbol,
        /// What is done to it.
        steps: Vec<Step>,
    },
}

/// One step of an expression. Steps are kept in a list and not nested, so that evaluating one is a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `times * x + plus`.
    Affine {
        /// Factor.
        times: usize,
        /// Summand.
        plus: isize,
    },
    /// `x / by`, rounded up.
    Quotient {
        /// Divisor.
        by: usize,
    },
    /// `max(x, 1)`.
    AtLeastOne,
}

impl Step {
    fn at(self, x: isize) -> isize {
        match self {
            Self::Affine { times, plus } => x * times as isize + plus,
            Self::Quotient { by } => quotient(x, by),
            Self::AtLeastOne => x.max(1),
        }
    }
}

/// `x / by`, rounded up.
fn quotient(x: isize, by: usize) -> isize {
    (x + by as isize - 1).div_euclid(by as isize)
}

fn push_affine(steps: &mut Vec<Step>, times: usize, plus: isize) {
    let (times, plus) = match steps.last() {
        Some(&Step::Affine { times: t, plus: p }) => {
            steps.pop();
            (t * times, p * times as isize + plus)
        }
        _ => (times, plus),
    };
    if (times, plus) != (1, 0) {
        steps.push(Step::Affine { times, plus });
    }
}

fn push_quotient(steps: &mut Vec<Step>, by: usize) {
    match steps.last().copied() {
        Some(Step::Quotient { by: b }) => {
            steps.pop();
            push_quotient(steps, b * by);
        }
        Some(Step::Affine { times, plus }) if times.is_multiple_of(by) => {
            steps.pop();
            push_affine(steps, times / by, quotient(plus, by));
        }
        Some(Step::Affine { times, plus }) => {
            steps.pop();
            let (whole, rest) = (plus.div_euclid(by as isize), plus.rem_euclid(by as isize));
            match steps.last().copied() {
                // ceil((ceil(x / b) + r) / by) = ceil((x + rb) / (b by))
                Some(Step::Quotient { by: b }) if times == 1 => {
                    steps.pop();
                    push_affine(steps, 1, rest * b as isize);
                    push_quotient(steps, b * by);
                }
                _ => {
                    push_affine(steps, times, rest);
                    steps.push(Step::Quotient { by });
                }
            }
            push_affine(steps, 1, whole);
        }
        _ => steps.push(Step::Quotient { by }),
    }
}

impl Extent {
    /// The extent `symbol` of the input itself.
    pub const fn of(symbol: Symbol) -> Self {
        Self::Of { symbol, steps: Vec::new() }
    }

    /// `height * width`.
    pub fn tokens(height: &Self, width: &Self) -> Self {
        match (height, width) {
            (Self::Number(height), Self::Number(width)) => Self::Number(height * width),
            grid => Self::of(Symbol::Tokens(Box::new([grid.0.clone(), grid.1.clone()]))),
        }
    }

    /// `self * times + plus`.
    pub fn affine(self, times: usize, plus: isize) -> Self {
        match self {
            Self::Number(n) => Self::Number((n * times).saturating_add_signed(plus)),
            Self::Of { symbol, mut steps } => {
                push_affine(&mut steps, times, plus);
                Self::Of { symbol, steps }
            }
        }
    }

    /// `self / by`, rounded up.
    pub fn divided_up(self, by: usize) -> Self {
        match self {
            Self::Number(n) => Self::Number(n.div_ceil(by)),
            extent if by == 1 => extent,
            Self::Of { symbol, mut steps } => {
                push_quotient(&mut steps, by);
                Self::Of { symbol, steps }
            }
        }
    }

    /// `max(self, 1)`.
    pub fn at_least_one(self) -> Self {
        let smallest = self.signed(Sizes { batch: 0, height: 1, width: 1 });
        match self {
            Self::Number(n) => Self::Number(n.max(1)),
            extent if smallest >= 1 => extent,
            Self::Of { symbol, mut steps } => {
                steps.push(Step::AtLeastOne);
                Self::Of { symbol, steps }
            }
        }
    }

    /// The value for an input of the given sizes.
    pub fn at(&self, sizes: Sizes) -> usize {
        usize::try_from(self.signed(sizes)).unwrap_or(0)
    }

    fn signed(&self, sizes: Sizes) -> isize {
        match self {
            Self::Number(n) => *n as isize,
            Self::Of { symbol, steps } => {
                let start = match symbol {
                    Symbol::Batch => sizes.batch as isize,
                    Symbol::Height => sizes.height as isize,
                    Symbol::Width => sizes.width as isize,
                    Symbol::Tokens(grid) => grid.iter().map(|extent| extent.signed(sizes)).product(),
                };
                steps.iter().fold(start, |x, step| step.at(x))
            }
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (symbol, steps) = match self {
            Self::Number(n) => return write!(f, "{n}"),
            Self::Of { symbol, steps } => (symbol, steps),
        };
        let start = match symbol {
            Symbol::Batch => "batch".to_owned(),
            Symbol::Height => "height".to_owned(),
            Symbol::Width => "width".to_owned(),
            Symbol::Tokens(grid) => format!("{} {}", grid[0], grid[1]),
        };
        let text = steps.iter().fold(start, |x, step| match step {
            Step::Affine { times: 1, plus } => format!("({x} {plus:+})"),
            Step::Affine { times, plus: 0 } => format!("{times} {x}"),
            Step::Affine { times, plus } => format!("({times} {x} {plus:+})"),
            Step::Quotient { by } => format!("ceil({x} / {by})"),
            Step::AtLeastOne => format!("max({x}, 1)"),
        });
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Extent = Extent::of(Symbol::Height);

    #[test]
    fn nested_quotients_are_one() {
        assert_eq!(H.divided_up(2).divided_up(2), H.divided_up(4));
        assert_eq!(H.divided_up(4).affine(4, 0).divided_up(2), H.divided_up(4).affine(2, 0));
        assert_eq!(H.affine(1, 1).divided_up(2).affine(1, 3).divided_up(2), H.affine(1, 7).divided_up(4));
    }

    #[test]
    fn a_row_of_tokens_and_one_more() {
        let width = Extent::of(Symbol::Width);
        let row = Extent::tokens(&H.divided_up(16), &width).affine(1, 1);
        assert_eq!(row.at(Sizes { batch: 1, height: 33, width: 5 }), 16);
        assert_eq!(row.to_string(), "(ceil(height / 16) width +1)");
        assert_eq!(row, Extent::tokens(&H.divided_up(4).divided_up(4), &width).affine(1, 1));
        assert_eq!(Extent::tokens(&Extent::Number(3), &Extent::Number(4)), Extent::Number(12));
    }

    /// Padding to a multiple first and a stride of 2 with padding 1 give the same extents.
    #[test]
    fn both_paddings_have_equal_extents() {
        let padded = H.divided_up(4).affine(4, 0);
        let halved = |x: Extent| x.affine(1, 0).divided_up(2);
        assert_eq!(halved(halved(padded)), halved(halved(H)));
    }

    #[test]
    fn every_rule_keeps_the_value() {
        for n in 1..60usize {
            let sizes = Sizes { batch: 1, height: n, width: 1 };
            for (plus, by) in [(0isize, 2usize), (-1, 2), (-3, 4), (5, 3), (7, 4)] {
                let wanted = |x: isize| -(-(x + plus)).div_euclid(by as isize);
                let once = H.affine(1, plus).divided_up(by);
                let twice = once.clone().affine(1, plus).divided_up(by);
                assert_eq!(once.signed(sizes), wanted(n as isize), "{once} at {n}");
                assert_eq!(twice.signed(sizes), wanted(wanted(n as isize)), "{twice} at {n}");
                let scaled = H.affine(6, plus).divided_up(3);
                assert_eq!(scaled.signed(sizes), -(-(6 * n as isize + plus)).div_euclid(3), "{scaled} at {n}");
                assert_eq!(once.clone().at_least_one().at(sizes) as isize, wanted(n as isize).max(1));
            }
        }
    }
}

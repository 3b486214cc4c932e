//! Augmentation of small pictures in training: a random shift and a random mirror image.
//!
//! Each sample's choice is keyed by (seed, epoch, sample), so it does not depend on threads or on the order of work.

use crate::picture::Picture;
use crate::rng::Rng;

/// What fills the place that a shift leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// Black: the value 0 before normalisation.
    #[default]
    Zero,
    /// The nearest pixel of the picture.
    Edge,
}

/// The random changes of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Augment {
    /// The largest shift, in pixels, along each axis and in both directions, all shifts being equally likely.
    pub shift: usize,
    /// What fills the place that a shift leaves.
    pub fill: Fill,
    /// The probability of a horizontal mirror image, 0 to 1.
    pub flip: f64,
}

impl Augment {
    /// The changed picture, of the same size.
    pub fn apply(&self, picture: &Picture, rng: &mut Rng) -> Picture {
        let down = self.draw(rng);
        let right = self.draw(rng);
        let mirrored = rng.unit() < self.flip;
        if (down, right, mirrored) == (0, 0, false) {
            return picture.clone();
        }
        let (height, width) = (picture.height() as i64, picture.width() as i64);
        Picture::build(picture.height(), picture.width(), |y, x| {
            let x = if mirrored { width - 1 - x as i64 } else { x as i64 };
            let (from_y, from_x) = (y as i64 - down, x - right);
            let inside = (0..height).contains(&from_y) && (0..width).contains(&from_x);
            match self.fill {
                Fill::Zero if !inside => [0; 3],
                Fill::Zero | Fill::Edge => {
                    picture.at(from_y.clamp(0, height - 1) as usize, from_x.clamp(0, width - 1) as usize)
                }
            }
        })
    }

    /// A shift in `-shift ..= shift`.
    fn draw(&self, rng: &mut Rng) -> i64 {
        // No picture is larger than this, so a longer shift is the same.
        let shift = (self.shift as u64).min(1 << 32);
        rng.below(2 * shift + 1) as i64 - shift as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> Picture {
        Picture::from_grey(3, 3, &[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap()
    }

    fn all_results(augment: Augment) -> std::collections::BTreeSet<Vec<u8>> {
        let grey = |p: Picture| p.pixels().chunks(3).map(|pixel| pixel[0]).collect();
        (0..300).map(|sample| grey(augment.apply(&digits(), &mut Rng::keyed(&[5, 0, sample])))).collect()
    }

    #[test]
    fn nothing_asked_is_nothing_done() {
        assert_eq!(Augment::default().apply(&digits(), &mut Rng::keyed(&[1])), digits());
    }

    #[test]
    fn all_nine_shifts_by_one_occur() {
        let zero = all_results(Augment { shift: 1, ..Augment::default() });
        assert_eq!(zero.len(), 9);
        assert!(zero.contains([0, 0, 0, 0, 1, 2, 0, 4, 5].as_slice()));
        let edge = all_results(Augment { shift: 1, fill: Fill::Edge, flip: 0.0 });
        assert_eq!(edge.len(), 9);
        assert!(edge.contains([1, 1, 2, 1, 1, 2, 4, 4, 5].as_slice()));
    }

    #[test]
    fn a_sure_flip_mirrors_rows() {
        let flipped = all_results(Augment { flip: 1.0, ..Augment::default() });
        assert_eq!(flipped.into_iter().collect::<Vec<_>>(), [[3, 2, 1, 6, 5, 4, 9, 8, 7]]);
    }

    #[test]
    fn a_shift_beyond_the_picture_leaves_the_fill() {
        let far = Augment { shift: 1 << 20, ..Augment::default() };
        let gone = far.apply(&digits(), &mut Rng::keyed(&[3]));
        assert!(gone.pixels().iter().all(|&value| value == 0));
    }
}

//! The bundled handwritten digits, which `mila demo` learns.
//!
//! They are the 1,797 images of 8x8 pixels and 17 levels of ink that scikit-learn ships (E. Alpaydin and C. Kaynak, *Optical
//! Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998, doi:10.24432/C50P49, CC BY 4.0; see
//! `assets/DIGITS-LICENCE.md`). `tools/digits.py` packs them into a mosaic, where ink of 0..16 is the grey value
//! `round(ink * 255 / 16)`, and a line of labels. Both are part of the program, and tests read all of them: what is
//! expected of them here cannot fail in a program that passed its tests.

use mila_data::{ImageSource, Interpolation, Limits, Picture, Rng, decode, resize};

const MOSAIC: &[u8] = include_bytes!("../assets/digits.png");
const LABELS: &str = include_str!("../assets/digits-labels.txt");

/// What names them where a folder of data is expected.
pub const NAME: &str = "bundled:digits";
/// The seed that `mila` divides them by, whatever the seed of a run, so that results compare.
pub const SPLIT_SEED: u64 = 0;

/// Pixels along each side of a digit as bundled.
const TILE: usize = 8;
/// Pixels along each side of a digit as loaded: the input of `mila-nano`.
pub const SIDE: usize = 32;
const CLASSES: u32 = 10;

/// The digits in two parts, as RGB pictures of [`SIDE`] x [`SIDE`] pixels: white ink on black.
#[derive(Debug, Clone)]
pub struct Digits {
    /// What is learnt from, in the order of the data set.
    pub train: ImageSource,
    /// What is measured on, in the order of the data set.
    pub test: ImageSource,
    /// "0" to "9".
    pub classes: Vec<String>,
}

/// Loads all digits and divides them by class.
///
/// Of the n images of a class `round(n * test_fraction)` go to the test, but never all, and at least one where the fraction
/// is above 0; other fractions leave the test empty. The choice depends on the seed alone and is the one that
/// [`mila_data::Samples::divide`] makes for a folder of the same images.
pub fn load(test_fraction: f64, seed: u64) -> Digits {
    let labels = labels();
    let mut held = vec![false; labels.len()];
    for class in 0..CLASSES {
        let mut of_class: Vec<usize> = (0..labels.len()).filter(|&index| labels[index] == class).collect();
        let most = of_class.len() - 1;
        let least = usize::from(test_fraction > 0.0);
        let count = ((of_class.len() as f64 * test_fraction).round() as usize).clamp(least, most);
        Rng::keyed(&[seed, u64::from(class)]).shuffle(&mut of_class);
        of_class.iter().take(count).for_each(|&index| held[index] = true);
    }
    let mut parts = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for ((tile, label), held) in tiles().iter().zip(labels).zip(held) {
        let enlarged = resize(tile, SIDE, SIDE, Interpolation::Bicubic).expect("32x32 pixels are within every limit");
        let (pictures, labels) = &mut parts[usize::from(held)];
        pictures.push(enlarged);
        labels.push(label);
    }
    let [train, test] = parts.map(|(pictures, labels)| ImageSource::Memory { pictures, labels });
    Digits { train, test, classes: (0..CLASSES).map(|class| class.to_string()).collect() }
}

/// The class of each digit.
fn labels() -> Vec<u32> {
    LABELS.trim_end().bytes().map(|digit| u32::from(digit - b'0')).collect()
}

/// The digits as bundled, [`TILE`] x [`TILE`] pixels each. The mosaic's last places hold none.
fn tiles() -> Vec<Picture> {
    let mosaic = decode(MOSAIC, &Limits::default()).expect("the bundled mosaic is a sound PNG");
    let columns = mosaic.width() / TILE;
    let tile = |index: usize| {
        let (top, left) = (index / columns * TILE, index % columns * TILE);
        let grey: Vec<u8> = (0..TILE * TILE).map(|at| mosaic.at(top + at / TILE, left + at % TILE)[0]).collect();
        Picture::from_grey(TILE, TILE, &grey).expect("a tile has 8x8 values")
    };
    (0..LABELS.trim_end().len()).map(tile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mila_data::{Sample, Samples};

    /// Pictures per class in the data set.
    const COUNTS: [usize; 10] = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];

    fn parts(source: &ImageSource) -> (&[Picture], &[u32]) {
        match source {
            ImageSource::Memory { pictures, labels } => (pictures, labels),
            ImageSource::Folder(_) => panic!("the digits are in memory"),
        }
    }

    fn counts(labels: &[u32]) -> [usize; 10] {
        std::array::from_fn(|class| labels.iter().filter(|&&label| label as usize == class).count())
    }

    /// The pictures of both parts with their labels, in a fixed order.
    fn sorted(digits: &Digits) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        for source in [&digits.train, &digits.test] {
            let (pictures, labels) = parts(source);
            all.extend(labels.iter().copied().zip(pictures.iter().map(|picture| picture.pixels().to_vec())));
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn the_bundle_is_the_whole_data_set_and_gives_its_ink_back() {
        let (tiles, labels) = (tiles(), labels());
        assert_eq!((tiles.len(), labels.len()), (1797, 1797));
        assert_eq!(counts(&labels), COUNTS);
        assert_eq!(labels[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);

        let ink = |grey: u8| (usize::from(grey) * 16 + 127) / 255;
        let inks = |tile: &Picture| -> Vec<usize> { tile.pixels().chunks(3).map(|pixel| ink(pixel[0])).collect() };
        assert_eq!(inks(&tiles[0])[..16], [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]);
        assert_eq!(tiles[0].pixels()[6..12], [80, 80, 80, 207, 207, 207]);
        // The last image of the data set, whose place is beside the empty ones.
        assert_eq!(inks(&tiles[1796])[..16], [0, 0, 10, 14, 8, 1, 0, 0, 0, 2, 16, 14, 6, 1, 0, 0]);
        let levels = |pixel: &[u8]| pixel[0] == ((ink(pixel[0]) * 255 + 8) / 16) as u8 && pixel == [pixel[0]; 3];
        assert!(tiles.iter().all(|tile| tile.pixels().chunks(3).all(levels)));
        let sum: usize = tiles.iter().flat_map(inks).sum();
        assert_eq!(sum, 561_718);
    }

    #[test]
    fn the_split_is_by_class_and_loses_nothing() {
        let digits = load(0.2, 0);
        let ((train, train_labels), (test, test_labels)) = (parts(&digits.train), parts(&digits.test));
        assert_eq!((train.len(), test.len()), (train_labels.len(), test_labels.len()));
        let expected = COUNTS.map(|count| (count as f64 * 0.2).round() as usize);
        assert_eq!(counts(test_labels), expected);
        assert_eq!(train.len() + test.len(), 1797);
        assert!(train.iter().chain(test).all(|picture| (picture.height(), picture.width()) == (SIDE, SIDE)));
        assert_eq!(digits.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        // Nothing is left out, and no picture is in both parts (no two of the data set are equal).
        let all = sorted(&digits);
        assert_eq!(all, sorted(&load(0.0, 0)));
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_split_is_fixed_and_that_of_a_folder() {
        let choice = |seed: u64| parts(&load(0.2, seed).test).0.to_vec();
        assert_eq!(choice(3), choice(3));
        assert_ne!(choice(3), choice(4));
        assert_eq!(parts(&load(0.2, 0).test).1[..10], [3, 4, 2, 4, 8, 9, 7, 2, 3, 4]);

        let items = labels().into_iter().map(|class| Sample { path: "digit.png".into(), class }).collect();
        let folder = Samples { classes: load(0.2, 5).classes, items, ignored: 0 };
        let (_, held) = folder.divide(0.2, 5).unwrap();
        assert_eq!(held.items.iter().map(|sample| sample.class).collect::<Vec<_>>(), parts(&load(0.2, 5).test).1);
    }

    #[test]
    fn odd_fractions_keep_something_to_learn_from() {
        let sizes = |fraction: f64| (load(fraction, 0).train.len(), load(fraction, 0).test.len());
        for fraction in [0.0, -1.0, f64::NAN] {
            assert_eq!(sizes(fraction), (1797, 0), "{fraction}");
        }
        assert_eq!(sizes(1e-9), (1787, 10));
        for fraction in [1.0, f64::INFINITY] {
            assert_eq!(sizes(fraction), (10, 1787), "{fraction}");
        }
    }
}

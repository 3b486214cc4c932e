//! Numbers as colours.

use image::Rgb;

/// Viridis (Nathaniel Smith and Stéfan van der Walt, CC0) at steps of a sixteenth: even to the eye in lightness, which grows from
/// end to end, so that it reads in grey and with every kind of colour blindness.
const STOPS: [[u8; 3]; 17] = [
    [68, 1, 84],
    [72, 24, 106],
    [71, 45, 123],
    [66, 64, 134],
    [59, 82, 139],
    [51, 99, 141],
    [44, 114, 142],
    [38, 130, 142],
    [33, 145, 140],
    [31, 159, 136],
    [39, 173, 129],
    [61, 188, 116],
    [92, 200, 99],
    [129, 211, 77],
    [170, 220, 50],
    [213, 226, 26],
    [253, 231, 37],
];

/// The colour of a share from 0 to 1; shares beyond are cut off, and NaN is grey.
pub(crate) fn colour(share: f64) -> Rgb<u8> {
    if share.is_nan() {
        return Rgb([128; 3]);
    }
    let steps = STOPS.len() - 1;
    let place = share.clamp(0.0, 1.0) * steps as f64;
    let from = (place as usize).min(steps - 1);
    let part = place - from as f64;
    let mixed = |channel: usize| {
        let [low, high] = [from, from + 1].map(|stop| f64::from(STOPS[stop][channel]));
        (low + part * (high - low)).round() as u8
    };
    Rgb([0, 1, 2].map(mixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_the_ends_and_lightness_grows() {
        assert_eq!((colour(-1.0), colour(7.0)), (Rgb(STOPS[0]), Rgb(STOPS[16])));
        assert_eq!(colour(f64::NAN), Rgb([128; 3]));
        let lightness = |i: u32| {
            let Rgb([r, g, b]) = colour(f64::from(i) / 256.0);
            0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b)
        };
        assert!((0..256).all(|i| lightness(i) <= lightness(i + 1) + 0.6), "lightness falls");
        assert!(lightness(256) > lightness(0) + 150.0);
    }
}

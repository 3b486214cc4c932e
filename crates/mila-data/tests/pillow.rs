//! Against what Pillow, torchvision and timm make of the same files; `tools/pillow_golden.py` writes the goldens.

use std::path::{Path, PathBuf};

use mila_data::{CropMode, EvalTransform, Interpolation, Limits, Picture, decode_file, resize};

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

fn read_rgb(path: &Path) -> Picture {
    let bytes = std::fs::read(path).unwrap();
    let size = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    Picture::new(size(0), size(4), bytes[8..].to_vec()).unwrap()
}

/// The tool's `pattern`: rough, smooth and saturated bands.
fn pattern(height: usize, width: usize) -> Picture {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let value = match y % 16 {
                    0..5 => (x * x * 31 + y * y * 17 + x * y * 7 + c * 101) / 8 % 256,
                    5..10 => (x * 3 + y * 5 + c * 40) % 256,
                    _ => (x / 3 + y / 2 + c) % 2 * 255,
                };
                pixels.push(value as u8);
            }
        }
    }
    Picture::new(height, width, pixels).unwrap()
}

/// The largest and the mean difference; the sizes must agree.
fn difference(name: &str, found: &Picture, expected: &Picture) -> (u8, f64) {
    let sizes = |picture: &Picture| (picture.height(), picture.width());
    assert_eq!(sizes(found), sizes(expected), "{name}");
    let off: Vec<u8> = found.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = off.iter().map(|&value| f64::from(value)).sum::<f64>() / off.len() as f64;
    (off.into_iter().max().unwrap(), mean)
}

fn goldens(part: &str) -> Vec<(String, Picture)> {
    let mut found: Vec<(String, Picture)> = std::fs::read_dir(golden(part))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rgb"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read_rgb(&path)))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn sizes(text: &str) -> (usize, usize) {
    let (height, width) = text.split_once('x').unwrap();
    (height.parse().unwrap(), width.parse().unwrap())
}

#[test]
fn every_format_decodes_as_in_pillow() {
    let cases = goldens("decode");
    assert_eq!(cases.len(), 52);
    for (name, expected) in cases {
        let found =
            decode_file(&golden("decode").join(&name), &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (max, mean) = difference(&name, &found, &expected);
        // JPEG: inverse transforms and chroma filters differ in rounding between decoders.
        let (most, most_mean) = match name.rsplit_once('.').unwrap().1 {
            // Two columns of chroma: libjpeg copies where the decoder here interpolates; few pixels, a high mean.
            "jpg" if name == "3x5.jpg" => (4, 2.0),
            "jpg" => (4, 0.5),
            _ => (0, 0.0),
        };
        eprintln!("{name}: max {max}, mean {mean:.4}");
        assert!(max <= most && mean <= most_mean, "{name}: max {max}, mean {mean}");
    }
}

#[test]
fn resizing_is_pillows_to_the_byte() {
    let cases = goldens("resize");
    assert_eq!(cases.len(), 24);
    for (name, expected) in cases {
        let [source, target, by] = name.split('_').collect::<Vec<_>>().try_into().unwrap();
        let ((height, width), (to_height, to_width)) = (sizes(source), sizes(target));
        let found = resize(&pattern(height, width), to_height, to_width, by.parse().unwrap()).unwrap();
        let (max, mean) = difference(&name, &found, &expected);
        eprintln!("{name}: max {max}, mean {mean:.4}");
        assert!(max == 0, "{name}: max {max}");
    }
}

#[test]
fn the_transform_is_timms_to_the_byte() {
    let cases = goldens("transform");
    assert_eq!(cases.len(), 12);
    for (name, expected) in cases {
        let [source, input_size, crop_pct, mode, by] = name.split('_').collect::<Vec<_>>().try_into().unwrap();
        let transform = EvalTransform {
            input_size: sizes(input_size),
            crop_pct: crop_pct.parse().unwrap(),
            crop_mode: mode.parse::<CropMode>().unwrap(),
            interpolation: by.parse::<Interpolation>().unwrap(),
            ..EvalTransform::default()
        };
        let (height, width) = sizes(source);
        let found = transform.picture(&pattern(height, width)).unwrap();
        let (max, mean) = difference(&name, &found, &expected);
        eprintln!("{name}: max {max}, mean {mean:.4}");
        assert!(max == 0, "{name}: max {max}");
    }
}

//! The test photos against Pillow: sizes, channel means and a grid of pixels of each, as the committed fingerprints say.

use std::path::{Path, PathBuf};
use std::process::Command;

use mila_data::{Limits, decode_file};

/// The folder with the external data, if it is there.
fn data() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("MILA_TEST_DATA")?);
    dir.join("photos.tar.zst").is_file().then_some(dir)
}

fn unpack(archive: &Path, into: &Path) -> bool {
    Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(into).status().is_ok_and(|s| s.success())
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|found| found == name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}

/// What one line of `photos.csv` says: height, width, channel means in 1/1000, 16 x 16 pixels.
struct Fingerprint<'a> {
    name: &'a str,
    height: usize,
    width: usize,
    means: [f64; 3],
    grid: Vec<u8>,
}

impl<'a> Fingerprint<'a> {
    fn parse(line: &'a str) -> Self {
        let [name, height, width, means, grid] = line.split(',').collect::<Vec<_>>().try_into().unwrap();
        let means: Vec<f64> = means.split(' ').map(|mean| mean.parse::<f64>().unwrap() / 1000.0).collect();
        Self {
            name,
            height: height.parse().unwrap(),
            width: width.parse().unwrap(),
            means: means.try_into().unwrap(),
            grid: (0..grid.len() / 2).map(|i| u8::from_str_radix(&grid[2 * i..2 * i + 2], 16).unwrap()).collect(),
        }
    }
}

#[test]
fn photos_decode_as_in_pillow() {
    let Some(data) = data() else {
        eprintln!("SKIPPED: photos_decode_as_in_pillow: no photos.tar.zst; set MILA_TEST_DATA to its folder");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    if !unpack(&data.join("photos.tar.zst"), folder.path()) {
        eprintln!("SKIPPED: photos_decode_as_in_pillow: tar cannot unpack zstd archives here");
        return;
    }
    let fingerprints = include_str!("golden/photos.csv");
    assert_eq!(fingerprints.lines().count(), 38);
    let (mut worst, mut total, mut count) = (0, 0_u64, 0_u64);
    for expected in fingerprints.lines().map(Fingerprint::parse) {
        let path =
            find(folder.path(), expected.name).unwrap_or_else(|| panic!("{} is not in the archive", expected.name));
        let found = decode_file(&path, &Limits::default()).unwrap();
        assert_eq!((found.height(), found.width()), (expected.height, expected.width), "{}", expected.name);
        for channel in 0..3 {
            let sum: u64 = found.pixels().iter().skip(channel).step_by(3).map(|&value| u64::from(value)).sum();
            let mean = sum as f64 / (found.height() * found.width()) as f64;
            assert!(
                (mean - expected.means[channel]).abs() <= 0.5,
                "{}: mean of channel {channel}: {mean}",
                expected.name
            );
        }
        for (index, pixel) in expected.grid.chunks(3).enumerate() {
            let place = |step: usize, side: usize| (2 * step + 1) * side / 32;
            let ours = found.at(place(index / 16, found.height()), place(index % 16, found.width()));
            for (a, b) in ours.into_iter().zip(pixel) {
                worst = worst.max(a.abs_diff(*b));
                total += u64::from(a.abs_diff(*b));
                count += 1;
            }
        }
        assert!(worst <= 4, "{}: {worst}", expected.name);
    }
    let mean = total as f64 / count as f64;
    eprintln!("38 photos, {count} sampled values: max {worst}, mean {mean:.4}");
    assert!(mean <= 0.5, "{mean}");
}

//! Class folders and batches.

use std::path::Path;

use mila_data::{
    Augment, Batch, Dataset, Error, EvalTransform, ImageSource, Loader, LoaderOptions, Picture, Samples, Split,
};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decode").join(name)
}

/// Makes a file, and the folders above it; `.jpg` and the like get a real picture.
fn put(dir: &Path, name: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(golden("rgb.png"), path).unwrap();
}

fn names(samples: &Samples, dir: &Path) -> Vec<String> {
    let name = |path: &Path| path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
    samples.items.iter().map(|sample| format!("{} {}", sample.class, name(&sample.path))).collect()
}

#[test]
fn a_set_is_read_as_torchvision_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b/2.JPG", "b/10.png", "b/deep/er/0.webp", "B/x.bmp", "a b/1.jpeg", "ä/1.jpg"] {
        put(dir.path(), name);
    }
    for name in ["b/notes.txt", "b/.hidden.jpg", "readme.jpg", ".git/1.jpg"] {
        put(dir.path(), name);
    }
    let samples = Samples::open(dir.path()).unwrap();
    assert_eq!(samples.classes, ["B", "a b", "b", "ä"]);
    let expected = ["0 B/x.bmp", "1 a b/1.jpeg", "2 b/10.png", "2 b/2.JPG", "2 b/deep/er/0.webp", "3 ä/1.jpg"];
    assert_eq!(names(&samples, dir.path()), expected);
    assert_eq!(samples.ignored, 4);
}

#[test]
fn empty_and_differing_classes_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Samples::open(dir.path()), Err(Error::NoClasses { .. })));
    assert!(matches!(Samples::open(&dir.path().join("absent")), Err(Error::Io { .. })));
    for name in ["train/a/1.png", "train/b/1.png", "train/c/1.png", "val/b/1.png", "val/d/1.png"] {
        put(dir.path(), name);
    }
    let Err(Error::ClassMismatch { missing, unexpected, .. }) = Dataset::open(dir.path(), 0.1, 0) else { panic!() };
    assert_eq!((missing, unexpected), (vec!["a".to_owned(), "c".to_owned()], vec!["d".to_owned()]));

    for name in ["train/e/x.txt", "train/f/.a.png"] {
        put(dir.path(), name);
    }
    let found = Dataset::open(dir.path(), 0.1, 0);
    assert!(matches!(&found, Err(Error::EmptyClasses { classes, .. }) if *classes == ["e", "f"]), "{found:?}");
    assert!(found.unwrap_err().to_string().ends_with("e, f"));
}

#[test]
fn splits_are_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train/a/1.png", "train/a/2.png", "test/a/3.png"] {
        put(dir.path(), name);
    }
    let of = |dataset: Dataset| (names(&dataset.train, dir.path()), names(&dataset.validation, dir.path()));
    assert_eq!(of(Dataset::open(dir.path(), 0.5, 0).unwrap()).1, ["0 test/a/3.png"]);
    assert!(matches!(Samples::open_split(dir.path(), Split::Validation), Err(Error::NoSplit { .. })));
    put(dir.path(), "validation/a/4.png");
    assert_eq!(of(Dataset::open(dir.path(), 0.5, 0).unwrap()).1, ["0 validation/a/4.png"]);
    let test = Samples::open_split(dir.path(), Split::Test).unwrap();
    assert_eq!(names(&test, dir.path()), ["0 test/a/3.png"]);

    let alone = tempfile::tempdir().unwrap();
    put(alone.path(), "train/a/1.png");
    put(alone.path(), "train/a/2.png");
    let dataset = Dataset::open(alone.path(), 0.5, 0).unwrap();
    assert_eq!((dataset.train.items.len(), dataset.validation.items.len()), (1, 1));
    // A folder beside `train` that is no split makes them all classes.
    put(alone.path(), "bus/1.png");
    assert_eq!(Samples::open(alone.path()).unwrap().classes, ["bus", "train"]);
    assert_eq!(Dataset::open(alone.path(), 0.0, 0).unwrap().train.classes, ["bus", "train"]);
}

#[test]
fn a_single_set_is_divided_by_class_and_seed() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..20 {
        put(dir.path(), &format!("many/{index:02}.png"));
    }
    for name in ["few/1.png", "few/2.png", "one/1.png"] {
        put(dir.path(), name);
    }
    let open = |fraction, seed| Dataset::open(dir.path(), fraction, seed).unwrap();
    let dataset = open(0.25, 3);
    let per_class = |samples: &Samples| [0, 1, 2].map(|c| samples.items.iter().filter(|s| s.class == c).count());
    assert_eq!(dataset.train.classes, ["few", "many", "one"]);
    assert_eq!((per_class(&dataset.train), per_class(&dataset.validation)), ([1, 15, 1], [1, 5, 0]));
    assert_eq!(open(0.25, 3), dataset);
    assert_ne!(open(0.25, 4).validation, dataset.validation);
    assert!(open(0.0, 3).validation.items.is_empty());
    assert!(dataset.train.items.iter().all(|item| !dataset.validation.items.contains(item)));
    for fraction in [1.0, -0.1, f64::NAN] {
        assert!(matches!(Dataset::open(dir.path(), fraction, 0), Err(Error::Setting { .. })));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_odd_names_do_not_panic() {
    use std::os::unix::ffi::OsStrExt;

    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(other.path(), "1.png");
    put(other.path(), "loop/2.png");
    std::os::unix::fs::symlink(other.path(), dir.path().join("linked")).unwrap();
    std::os::unix::fs::symlink(other.path(), other.path().join("loop/back")).unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"n\xff"));
    std::fs::create_dir(&odd).unwrap();
    put(&odd, "1.png");
    let samples = Samples::open(dir.path()).unwrap();
    assert_eq!(samples.classes, ["linked", "n\u{fffd}"]);
    assert_eq!((samples.items.len(), samples.ignored), (3, 1));
}

fn small() -> EvalTransform {
    EvalTransform { input_size: (6, 5), crop_pct: 1.0, ..EvalTransform::default() }
}

fn training(threads: usize, cache: bool) -> LoaderOptions {
    let augment = Some(Augment { shift: 2, flip: 0.5, ..Augment::default() });
    LoaderOptions { batch: 4, threads, shuffle: true, seed: 9, augment, cache, ..LoaderOptions::default() }
}

fn in_memory(count: usize) -> ImageSource {
    let picture = |i: usize| Picture::new(6, 5, (0..90).map(|v| (v * 7 + i * 31) as u8).collect()).unwrap();
    ImageSource::Memory { pictures: (0..count).map(picture).collect(), labels: (0..count as u32).collect() }
}

#[test]
fn batches_do_not_depend_on_threads_or_cache() {
    let batches = |threads, cache, epoch| -> Vec<Batch> {
        let loader = Loader::new(in_memory(14), small(), training(threads, cache)).unwrap();
        if cache {
            assert_eq!(loader.epoch(7).count(), 4);
        }
        loader.epoch(epoch).collect()
    };
    let expected = batches(0, false, 0);
    assert_eq!(expected.iter().map(|batch| batch.n).collect::<Vec<_>>(), [4, 4, 4, 2]);
    let mut labels: Vec<u32> = expected.iter().flat_map(|batch| batch.labels.clone()).collect();
    assert_ne!(labels, (0..14).collect::<Vec<_>>());
    labels.sort_unstable();
    assert_eq!(labels, (0..14).collect::<Vec<_>>());
    for (threads, cache) in [(1, false), (3, false), (9, true), (0, true)] {
        assert_eq!(batches(threads, cache, 0), expected, "{threads} threads, cache {cache}");
    }
    assert_ne!(batches(2, false, 1), expected);
}

#[test]
fn evaluation_keeps_order_and_bytes() {
    let options = LoaderOptions { batch: 3, threads: 2, drop_last: true, ..LoaderOptions::default() };
    let loader = Loader::new(in_memory(5), small(), options).unwrap();
    let batches: Vec<Batch> = loader.epoch(0).collect();
    assert_eq!((loader.batches(), batches.len()), (1, 1));
    assert_eq!(
        (batches[0].labels.as_slice(), batches[0].indices.as_slice()),
        ([0, 1, 2].as_slice(), [0, 1, 2].as_slice())
    );
    let ImageSource::Memory { pictures, .. } = loader.source() else { panic!() };
    let expected: Vec<f32> = pictures[..3].iter().flat_map(|picture| small().to_nhwc(picture).unwrap()).collect();
    assert_eq!(batches[0].images, expected);
}

#[test]
fn broken_files_are_left_out_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png"] {
        put(dir.path(), name);
    }
    let whole = std::fs::read(golden("420.jpg")).unwrap();
    std::fs::write(dir.path().join("a/2.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.path().join("b/1.png"), b"").unwrap();
    for (threads, cache) in [(0, false), (2, true), (8, false)] {
        let options = LoaderOptions { batch: 2, threads, cache, ..LoaderOptions::default() };
        let source = ImageSource::Folder(Samples::open(dir.path()).unwrap());
        let loader = Loader::new(source, small(), options).unwrap();
        let mut epoch = loader.epoch(0);
        let indices: Vec<Vec<usize>> = epoch.by_ref().map(|batch| batch.indices).collect();
        assert_eq!(indices, [vec![0], vec![3], vec![4]]);
        let [(first, truncated), (second, empty)] = epoch.skipped() else { panic!("{:?}", epoch.skipped()) };
        assert!(first.ends_with("a/2.png") && matches!(truncated, Error::Broken { .. }));
        assert!(second.ends_with("b/1.png") && matches!(empty, Error::Empty));
    }
}

#[test]
fn an_epoch_may_be_dropped_early_and_settings_are_checked() {
    let loader = Loader::new(in_memory(400), small(), LoaderOptions { prefetch: 0, ..training(3, false) }).unwrap();
    let mut epoch = loader.epoch(0);
    assert!(epoch.next().is_some());
    drop(epoch);
    drop(loader.epoch(1));

    let none = LoaderOptions { batch: 0, ..LoaderOptions::default() };
    assert!(Loader::new(in_memory(1), small(), none).is_err());
    let flip = Some(Augment { flip: 1.5, ..Augment::default() });
    assert!(Loader::new(in_memory(1), small(), LoaderOptions { augment: flip, ..LoaderOptions::default() }).is_err());
    let ImageSource::Memory { pictures, .. } = in_memory(2) else { panic!() };
    let unlabelled = ImageSource::Memory { pictures, labels: vec![0] };
    assert!(Loader::new(unlabelled, small(), LoaderOptions::default()).is_err());
    let empty = Loader::new(in_memory(0), small(), training(4, true)).unwrap();
    assert_eq!((empty.batches(), empty.epoch(0).count()), (0, 0));
}

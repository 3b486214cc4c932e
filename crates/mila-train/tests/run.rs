//! Whole runs on a few pictures in memory: stopping, resuming, diverging.

use std::path::Path;

use mila_data::{ImageSource, Picture, Sample, Samples};
use mila_ops::Seeded;
use mila_train::{Config, Data, Ended, EpochRecord, Error, Observer, Outcome, Result, Run, StepRecord};

/// Asks to stop at the `n`-th question, or never.
struct StopAt(Option<usize>);

impl Observer for StopAt {
    fn step(&mut self, _: &StepRecord) {}

    fn epoch(&mut self, _: &EpochRecord) {}

    fn stop(&mut self) -> bool {
        self.0 = self.0.map(|n| n.saturating_sub(1));
        self.0 == Some(0)
    }
}

fn pictures(count: usize) -> ImageSource {
    let labels: Vec<u32> = (0..count as u32).map(|i| i % 2).collect();
    let picture = |&label: &u32| {
        let pixels = (0..32 * 32 * 3).map(|i| (i * (3 + 7 * label as usize) % 251) as u8).collect();
        Picture::new(32, 32, pixels).unwrap()
    };
    ImageSource::Memory { pictures: labels.iter().map(picture).collect(), labels }
}

/// Three steps an epoch, and two batches of validation.
fn data() -> Data {
    Data { train: pictures(6), validation: pictures(4), classes: vec!["even".into(), "odd".into()] }
}

fn config(out: &Path) -> Config {
    Config { out: out.into(), epochs: 2, batch: 2, flip: 0.0, loader_threads: 0, ..Config::default() }
}

fn create(config: Config, data: Data) -> Result<Run> {
    Run::create(config, data, &Seeded::new(0), &serde_json::json!({}))
}

fn resume(config: Config, stop: Option<usize>) -> Result<Outcome> {
    Run::resume(config, data(), &Seeded::new(0))?.train(&mut StopAt(stop))
}

fn assert_equal_runs(a: &Path, b: &Path) {
    for name in ["last/model.safetensors", "best/model.safetensors", "state/moments.safetensors"] {
        assert_eq!(std::fs::read(a.join(name)).unwrap(), std::fs::read(b.join(name)).unwrap(), "{name}");
    }
}

/// What does not depend on the clock.
fn scores(outcome: &Outcome) -> Vec<[u64; 5]> {
    let of = |r: &EpochRecord| [r.train_loss, r.train_top1, r.val_loss, r.val_top1, r.lr].map(f64::to_bits);
    outcome.history.iter().map(of).collect()
}

/// The questions of an epoch are those of its steps, 1 to 3, and of its validation, 4 and 5.
#[test]
fn a_run_stopped_anywhere_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let expected = create(config(&whole), data()).unwrap().train(&mut StopAt(None)).unwrap();
    assert_eq!((expected.ended, expected.history.len()), (Ended::Finished, 2));
    for stop in [2, 3, 4, 5, 9] {
        let parts = folder.path().join(format!("stopped-{stop}"));
        let outcome = create(config(&parts), data()).unwrap().train(&mut StopAt(Some(stop))).unwrap();
        assert_eq!(outcome.ended, Ended::Stopped);
        assert_eq!(outcome.history.len(), stop / 6);
        // Stopped again at once, and then no more.
        assert_eq!(resume(config(&parts), Some(1)).unwrap().ended, Ended::Stopped);
        let outcome = resume(config(&parts), None).unwrap();
        assert_eq!(outcome.ended, Ended::Finished);
        assert_eq!(scores(&outcome), scores(&expected), "stopped at {stop}");
        assert_equal_runs(&whole, &parts);
    }
}

/// A file of an uncompressed 32x32 picture (BMP, 24 bits), or of nothing readable.
fn write_picture(path: &Path, readable: bool, shade: u8) {
    let mut bytes = b"BM".to_vec();
    for field in [54 + 32 * 32 * 3, 0, 54, 40, 32, 32, 1 | 24 << 16, 0, 0, 0, 0, 0, 0u32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend((0..32 * 32 * 3).map(|i: u32| (i % 200) as u8 ^ shade));
    std::fs::write(path, if readable { &bytes } else { &bytes[..10] }).unwrap();
}

/// A batch of which no picture can be read makes no step, and counts for none when a run goes on.
#[test]
fn unreadable_batches_do_not_shift_where_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let item = |i: usize| {
        let path = folder.path().join(format!("{i}.bmp"));
        write_picture(&path, i.is_multiple_of(2), 20 * i as u8);
        Sample { path, class: (i / 2 % 2) as u32 }
    };
    let samples = Samples { classes: data().classes, items: (0..10).map(item).collect(), ignored: 0 };
    let data = || Data { train: ImageSource::Folder(samples.clone()), ..data() };
    let config = |out: &Path| Config { batch: 1, cache: false, ..config(out) };
    let whole = folder.path().join("whole");
    create(config(&whole), data()).unwrap().train(&mut StopAt(None)).unwrap();
    for stop in [1, 3, 4] {
        let parts = folder.path().join(format!("stopped-{stop}"));
        create(config(&parts), data()).unwrap().train(&mut StopAt(Some(stop))).unwrap();
        let run = Run::resume(config(&parts), data(), &Seeded::new(0)).unwrap();
        assert_eq!(run.train(&mut StopAt(None)).unwrap().skipped.len(), 5, "stopped at {stop}");
        assert_equal_runs(&whole, &parts);
    }
}

#[test]
fn a_validation_that_is_not_finite_writes_nothing_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // One step an epoch: the loss before it is finite, and what it makes of the parameters is not of use.
    let one = Config { batch: 6, epochs: 1, warmup_epochs: 0.0, ..config(&out) };
    create(one.clone(), data()).unwrap().train(&mut StopAt(None)).unwrap();
    let before = std::fs::read(out.join("last/model.safetensors")).unwrap();
    let wild = Config { epochs: 3, lr: 1e36, clip: 0.0, ..one.clone() };
    let error = resume(wild, None).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 2, epoch: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("validation loss"), "{error}");
    assert_eq!(std::fs::read(out.join("last/model.safetensors")).unwrap(), before);
    let outcome = resume(Config { epochs: 3, ..one }, None).unwrap();
    assert_eq!(outcome.history.len(), 3);
}

#[test]
fn without_validation_the_best_model_is_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let blind = Data { validation: pictures(0), ..data() };
    let run = create(config(&out), blind).unwrap();
    assert!(!run.validates());
    assert_eq!(run.train(&mut StopAt(None)).unwrap().best.unwrap().epoch, 2);
    let model = |name: &str| std::fs::read(out.join(name).join("model.safetensors")).unwrap();
    assert_eq!(model("best"), model("last"));
}

#[test]
fn resuming_keeps_the_changed_settings_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    create(config(&out), data()).unwrap().train(&mut StopAt(None)).unwrap();
    let longer = Config { epochs: 3, lr: 1e-4, ..config(&out) };
    assert_eq!(resume(longer.clone(), None).unwrap().history.len(), 3);
    assert_eq!(Config::read(Some(&out.join("config.toml")), &[]).unwrap(), longer);
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    assert!(log.contains(r#"{"event":"resumed","step":6}"#), "{log}");
}

#[test]
fn a_state_of_other_data_or_another_order_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    create(config(&out), data()).unwrap().train(&mut StopAt(Some(2))).unwrap();
    let stored = std::fs::read(out.join("config.toml")).unwrap();
    let reversed = match pictures(6) {
        ImageSource::Memory { mut pictures, mut labels } => {
            pictures.reverse();
            labels.reverse();
            ImageSource::Memory { pictures, labels }
        }
        folder => folder,
    };
    let renamed = vec!["even".into(), "uneven".into()];
    for (config, data, named) in [
        (Config { seed: 1, ..config(&out) }, data(), "seed"),
        (Config { batch: 3, ..config(&out) }, data(), "batch 2, found 3"),
        (config(&out), Data { train: pictures(8), ..data() }, "6 training images, found 8"),
        (config(&out), Data { train: reversed, ..data() }, "other files"),
        (config(&out), Data { classes: vec!["all".into(); 3], ..data() }, "all"),
        (config(&out), Data { classes: renamed, ..data() }, "uneven"),
    ] {
        let error = Run::resume(config, data, &Seeded::new(0)).err().unwrap();
        assert!(matches!(error, Error::State { .. }), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
    }
    // What was refused has changed nothing.
    assert_eq!(std::fs::read(out.join("config.toml")).unwrap(), stored);
}

#[test]
fn a_run_within_its_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for out in ["", "runs/first"] {
        let within = Config { data: folder.path().into(), ..config(&folder.path().join(out)) };
        let error = create(within, data()).err().unwrap();
        assert!(error.to_string().contains("outside the data"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_cache_that_would_not_fit_is_not_filled() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, image_size| {
        let config = Config { image_size, ..config(&folder.path().join(name)) };
        create(config, data()).unwrap().cache_refused()
    };
    assert_eq!(run("small", None), None);
    assert_eq!(run("large", Some([10_000, 10_000])), Some(3_000_000_000));
}

//! `run`, `predict`, `eval` and `convert` on good and bad input.

mod scene;

use scene::Scene;

/// One input, three executors, all instruction sets: one answer.
#[test]
fn executors_agree_on_the_command_line() {
    let scene = Scene::new();
    scene.input("x.npy", [2, 3, 33, 20]);
    let logits = |extra: &[&str]| {
        let arguments = [&["run", "mila-nano", "--seed", "3", "--input", "x.npy", "--output", "y.npy"], extra].concat();
        scene.ok(&arguments);
        scene.tensor("y.npy")
    };
    let (shape, wanted) = logits(&["--executor", "reference"]);
    assert_eq!(shape, [2, 10]);
    let others = [
        &["--executor", "cpu"][..],
        #[cfg(feature = "train")]
        &["--executor", "burn"],
        &["--isa", "portable"],
        &["--threads", "1"],
    ];
    for extra in others {
        let (_, found) = logits(extra);
        mila_parity::assert_close(&format!("{extra:?}"), &found, &wanted, mila_parity::Tolerance::F32);
    }
}

/// bf16 is near f32 where the processor has a unit for it, and f32 where it has none.
#[test]
fn bf16_is_near_f32() {
    let scene = Scene::new();
    scene.input("x.npy", [2, 3, 33, 20]);
    let arguments = ["run", "mila-nano", "--seed", "3", "--input", "x.npy", "--output", "y.npy"];
    scene.ok(&arguments);
    let (_, wanted) = scene.tensor("y.npy");
    let plain = scene.mila(&[&arguments[..], &["--isa", "portable", "--precision", "bf16"]].concat());
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    assert!(plain.stderr.contains("no unit for bf16"), "{}", plain.stderr);
    scene.fails(
        &[&arguments[..], &["--executor", "reference", "--precision", "bf16"]].concat(),
        2,
        "only the executor cpu",
    );
    let ran = scene.mila(&[&arguments[..], &["--precision", "bf16"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    if ran.stderr.contains("no unit") {
        return eprintln!("SKIPPED: this processor has no unit for bf16");
    }
    let (_, found) = scene.tensor("y.npy");
    let largest = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let distance = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
    assert!(found != wanted && distance.clone().all(|distance| distance < 0.03 * largest), "{found:?} for {wanted:?}");
}

#[test]
fn pyramids_taps_and_times() {
    let scene = Scene::new();
    scene.input("x.npy", [1, 3, 17, 9]);
    let arguments = ["run", "mila-nano", "--task", "pyramid", "--input", "x.npy", "--output", "maps.npy"];
    let ran = scene.mila(&[&arguments[..], &["--tap", "layers.1=stage1.npy", "--check-finite"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("to unpack and prepare"), "{}", ran.stderr);
    let shapes = ["maps.0.npy", "maps.1.npy", "maps.2.npy", "stage1.npy"].map(|name| scene.tensor(name).0);
    assert_eq!(shapes, [vec![1, 32, 9, 5], vec![1, 64, 5, 3], vec![1, 128, 3, 2], vec![1, 5, 3, 64]]);
}

#[test]
fn convnext_runs_from_one_pixel_up() {
    let scene = Scene::new();
    scene.input("x.npy", [1, 3, 1, 1]);
    scene.ok(&["run", "convnext-t", "--classes", "4", "--input", "x.npy", "--output", "y.npy"]);
    let (shape, values) = scene.tensor("y.npy");
    assert_eq!(shape, [1, 4]);
    assert!(values.iter().all(|v| v.is_finite()));
}

#[test]
fn tensors_of_the_wrong_kind_are_named() {
    let scene = Scene::new();
    scene.input("four.npy", [1, 4, 8, 8]);
    scene.input("x.npy", [1, 3, 8, 8]);
    std::fs::write(scene.path("text.npy"), "no tensor").expect("a file");
    let run = |input: &'static str| ["run", "mila-nano", "--input", input, "--output", "y.npy"];
    scene.fails(&run("four.npy"), 3, "4 channels");
    scene.fails(&run("text.npy"), 3, "text.npy");
    scene.fails(&run("absent.npy"), 1, "absent.npy");
    scene.fails(&["run", "mila-nano", "--input", "x.npy", "--output", "no/such/folder/y.npy"], 1, "y.npy");
    assert!(!scene.path("y.npy").exists(), "a failed run wrote its output");
}

/// No value has to be there for an empty batch, so a short file can claim any extent.
#[test]
fn empty_batches_of_huge_images_are_refused() {
    let scene = Scene::new();
    for side in [100_000, 1 << 32] {
        mila::npy::write(&scene.path("x.npy"), &[0, 3, side, side], &[]).expect("a written tensor");
        scene.fails(&["run", "mila-nano", "--input", "x.npy", "--output", "y.npy"], 3, "120000000 pixels");
    }
    mila::npy::write(&scene.path("x.npy"), &[1 << 60, 3, 0, 0], &[]).expect("a written tensor");
    scene.fails(&["run", "mila-nano", "--input", "x.npy", "--output", "y.npy"], 3, "at least one pixel");
}

#[test]
#[cfg(unix)]
fn written_tensors_are_files_like_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    scene.input("x.npy", [1, 3, 8, 8]);
    std::fs::write(scene.path("plain"), "").expect("a file");
    let mode = |name| std::fs::metadata(scene.path(name)).expect("a file").permissions().mode();
    assert_eq!(mode("x.npy"), mode("plain"));
}

#[test]
fn predictions_in_three_formats() {
    let scene = Scene::new();
    scene.picture("a.png", [200, 10, 10], 40);
    scene.picture("more/b.png", [10, 10, 200], 300);
    let table = scene.ok(&["predict", "mila-nano", "a.png", "more", "--top-k", "2"]);
    assert_eq!(table.lines().count(), 6, "{table}");
    let json = scene.ok(&["predict", "mila-nano", "a.png", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["predictions"].as_array().map(Vec::len), Some(5));
    let csv = scene.ok(&["predict", "mila-nano", "more/*.png", "--format", "csv", "-k", "1"]);
    assert!(csv.starts_with("path,rank,class,label,probability\nmore/b.png,1,"), "{csv}");
}

#[test]
fn broken_pictures_are_listed_and_the_others_shown() {
    let scene = Scene::new();
    scene.picture("good.png", [1, 2, 3], 20);
    std::fs::write(scene.path("broken.jpg"), b"\xff\xd8\xff\xe0 no picture").expect("a file");
    std::fs::write(scene.path("empty.png"), b"").expect("a file");
    std::fs::create_dir(scene.path("nothing")).expect("a folder");
    let arguments = ["predict", "mila-nano", "broken.jpg", "good.png", "empty.png", "absent.png", "nothing"];
    let ran = scene.fails(&arguments, 3, "broken.jpg");
    for name in ["empty.png", "absent.png", "nothing"] {
        assert!(ran.stderr.contains(name), "{name} is not listed:\n{}", ran.stderr);
    }
    assert!(ran.stdout.starts_with("good.png"), "{}", ran.stdout);
    assert!(ran.stderr.contains("4 of 5 inputs"), "{}", ran.stderr);
}

#[test]
#[cfg(unix)]
fn what_a_glob_finds_and_cannot_be_read_is_listed() {
    let scene = Scene::new();
    scene.picture("more/good.png", [1, 2, 3], 20);
    std::os::unix::fs::symlink("gone.png", scene.path("more/link.png")).expect("a link");
    let ran = scene.fails(&["predict", "mila-nano", "more/*.png"], 3, "link.png");
    assert!(ran.stderr.contains("1 of 2 inputs"), "{}", ran.stderr);
}

#[test]
fn evaluation_counts_and_thresholds() {
    let scene = Scene::new();
    scene.dataset("data", 3);
    let json = scene.ok(&["eval", "mila-nano", "data", "--classes", "2", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&value["images"], &value["skipped"]), (&6.into(), &0.into()));
    let top1 = value["top1"].as_f64().expect("a fraction");
    assert!((0.0..=1.0).contains(&top1));
    let text = format!("{}", (top1 + 0.01).min(1.0));
    if top1 < 1.0 {
        scene.fails(&["eval", "mila-nano", "data", "--classes", "2", "--min-top1", &text], 4, "top-1");
    }
    scene.fails(&["eval", "mila-nano", "data"], 3, "2 classes");
    std::fs::write(scene.path("data/red/broken.png"), b"\x89PNG\r\n\x1a\n").expect("a file");
    let ran = scene.fails(&["eval", "mila-nano", "data", "--classes", "2"], 3, "broken.png");
    assert!(ran.stdout.contains("1 skipped"), "{}", ran.stdout);
    std::fs::create_dir(scene.path("data/green")).expect("a folder");
    scene.fails(&["eval", "mila-nano", "data"], 3, "green");
}

/// Whose images are scored is said, and a class may be called like a split.
#[test]
fn evaluation_says_what_it_scores() {
    let scene = Scene::new();
    for i in 0..4 {
        scene.picture(&format!("data/test/{i}.png"), [i, 40, 200], 36);
        scene.picture(&format!("data/red, white/{i}.png"), [220, 40, i], 32);
    }
    let eval = |extra: &[&str]| {
        let ran = scene.mila(&[&["eval", "mila-nano", "data", "--classes", "2", "--format", "csv"], extra].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        (ran.stderr, ran.stdout)
    };
    let (said, csv) = eval(&[]);
    assert!(said.contains("scoring 8 images: the whole set of data; images that a model"), "{said}");
    assert!(csv.contains("\n\"red, white\",4,") && csv.contains("\ntest,4,"), "{csv}");
    let (said, csv) = eval(&["--val-fraction", "0.25", "--seed", "3"]);
    assert!(said.contains("scoring 2 images: what training with val_fraction = 0.25 and seed = 3"), "{said}");
    assert!(csv.contains("\ntest,1,"), "{csv}");
    scene.fails(&["eval", "mila-nano", "data", "--classes", "2", "--val-fraction", "1"], 2, "val_fraction");

    scene.dataset("splits/train", 3);
    let ran = scene.mila(&["eval", "mila-nano", "splits", "--classes", "2"]);
    assert!(ran.stderr.contains("scoring 6 images: the whole set of splits"), "{}", ran.stderr);
    scene.dataset("splits/val", 1);
    let ran = scene.mila(&["eval", "mila-nano", "splits", "--classes", "2"]);
    assert!(ran.stderr.contains("scoring 2 images: the split validation of splits"), "{}", ran.stderr);
    let arguments = ["eval", "mila-nano", "splits", "--classes", "2", "--val-fraction", "0.5"];
    scene.fails(&arguments, 2, "has a split validation");
}

const TRAINING_CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mila-weights/tests/pth");

#[test]
fn weights_are_converted_and_never_to_pth() {
    let scene = Scene::new();
    let files: Vec<_> = std::fs::read_dir(TRAINING_CHECKPOINT)
        .expect("the committed checkpoints")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "pth"))
        .collect();
    assert!(files.len() > 10, "only {} checkpoints", files.len());
    for file in &files {
        let name = file.to_string_lossy();
        scene.ok(&["convert", &name, "out.safetensors"]);
        scene.ok(&["convert", "out.safetensors", "again.safetensors"]);
        let [once, twice] =
            ["out.safetensors", "again.safetensors"].map(|n| std::fs::read(scene.path(n)).expect("a file"));
        assert_eq!(once, twice, "{name}");
        scene.fails(&["convert", &name, "out.pth"], 2, "never written");
        scene.fails(&["convert", &name, "model", "--arch", "mila-nano"], 3, "patch_embed.conv1.conv.weight");
        scene.fails(&["convert", &name, "model"], 2, "--arch");
    }
}

#[test]
fn hostile_checkpoints_are_refused() {
    let scene = Scene::new();
    std::fs::write(scene.path("evil.pth"), b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueR.").expect("a file");
    std::fs::write(scene.path("lie.safetensors"), [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).expect("a file");
    std::fs::write(scene.path("empty.pth"), b"").expect("a file");
    std::fs::write(scene.path("nested.pth"), [&b"\x80\x02"[..], &[b'('; 1_000_000], b"."].concat()).expect("a file");
    scene.input("x.npy", [1, 3, 8, 8]);
    for name in ["evil.pth", "lie.safetensors", "empty.pth", "nested.pth"] {
        scene.fails(&["convert", name, "out.safetensors"], 3, name);
        scene.fails(&["run", "mila-nano", "--weights", name, "--input", "x.npy", "--output", "y.npy"], 3, name);
    }
    assert!(!scene.path("out.safetensors").exists());
}

//! `mila export`: what is written, and what is refused. What the files compute is checked by `cargo xtask onnx`.

mod scene;

use mila::models::Task;
use scene::Scene;

/// What `export` wrote, if it wrote a whole file: nothing is left beside it.
fn exported(scene: &Scene, arguments: &[&str]) -> Vec<u8> {
    scene.ok(&[&["export"], arguments].concat());
    let left = std::fs::read_dir(scene.root()).expect("a folder").flatten();
    assert!(!left.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".tmp")));
    std::fs::read(scene.path("out.onnx")).expect("a file")
}

fn holds(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_file_says_what_it_wants() {
    let scene = Scene::new();
    let file = exported(&scene, &["mila-nano", "out.onnx", "--size", "40x56", "--batch", "3"]);
    for text in ["layers.2.blocks.0.attn.qk", "logits", "mean", "0.5,0.5,0.5", "input_size", "3,32,32", "mila-nano"] {
        assert!(holds(&file, text), "no `{text}`");
    }
    assert!(!holds(&file, "height"));
    let ran = scene.mila(&["export", "mila-nano", "out.onnx", "--size", "40x56", "--batch", "3"]);
    assert!(ran.stderr.contains("image [3, 3, 40, 56]") && ran.stderr.contains("random weights"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn the_same_model_is_the_same_file() {
    let scene = Scene::new();
    scene.weights("w.safetensors", Task::Classify { classes: 10 }, |_| {});
    let loaded = exported(&scene, &["mila-nano", "out.onnx", "--weights", "w.safetensors"]);
    // Seed 9 is what the weights are made with; an export replaces what is there.
    assert!(loaded == exported(&scene, &["mila-nano", "out.onnx", "--seed", "9"]));
    assert!(loaded != exported(&scene, &["mila-nano", "out.onnx", "--seed", "8"]));
}

#[test]
fn extents_may_be_left_open() {
    let scene = Scene::new();
    let file = exported(&scene, &["mila-nano", "out.onnx", "--dynamic", "--task", "pyramid"]);
    for text in ["batch", "((height + 1)/2)", "level2", "Range"] {
        assert!(holds(&file, text), "no `{text}`");
    }
    assert!(!holds(&file, "logits"));
}

#[test]
fn the_labels_of_a_model_directory_are_kept() {
    let scene = Scene::new();
    let names: Vec<String> = (0..10).map(|i| format!("digit {i}")).collect();
    scene.model("model", Task::Classify { classes: 10 }, |config| config["label_names"] = names.clone().into());
    let file = exported(&scene, &["model", "out.onnx"]);
    assert!(holds(&file, "[\"digit 0\",\"digit 1\""));
}

#[test]
fn wrong_usage_ends_with_2() {
    let scene = Scene::new();
    let fails = |options: &[&str], message: &str| {
        scene.fails(&[&["export", "mila-nano"], options].concat(), 2, message);
        assert!(!scene.path("out.onnx").exists(), "{options:?}");
    };
    fails(&["out.onnx", "--size", "0x5"], "at least 1x1");
    fails(&["out.onnx", "--size", "32x32", "--dynamic"], "cannot be used with");
    fails(&["out.onnx", "--batch", "2", "--dynamic"], "cannot be used with");
    scene.fails(&["export", "ablation-ape-32", "out.onnx", "--dynamic"], 2, "ablation-ape-32: ");
    fails(&["out.onnx", "--batch", "0"], "1..=4096");
    fails(&["out.onnx", "--size", "65535x65535"], "at most 2147483647 bytes");
    fails(&["out.safetensors"], "ends in .onnx");
    fails(&[], "OUT.onnx");
}

#[test]
fn failures_leave_what_was_there() {
    let scene = Scene::new();
    std::fs::write(scene.path("out.onnx"), b"before").expect("a file");
    scene.weights("w.safetensors", Task::Classify { classes: 10 }, |tensors| tensors.truncate(3));
    scene.fails(&["export", "mila-nano", "out.onnx", "--weights", "w.safetensors"], 3, "missing");
    scene.fails(&["export", "mila-nano", "out.onnx", "--size", "65535x65535"], 2, "at most");
    scene.fails(&["export", "mila-nano", "nowhere/out.onnx"], 1, "nowhere");
    assert_eq!(std::fs::read(scene.path("out.onnx")).expect("a file"), b"before");
}

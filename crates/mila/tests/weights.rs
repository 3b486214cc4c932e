//! `--weights`, `--reset-head`, model directories: which values a model gets, and what is said of it.

mod scene;

use mila::models::Task;
use scene::{Ran, Scene, Tensor};

const CLASSIFIER: Task = Task::Classify { classes: 10 };

/// Runs mila-nano on `x.npy` into `y.npy`.
fn run(scene: &Scene, extra: &[&str]) -> Ran {
    let ran = scene.mila(&[&["run", "mila-nano", "--input", "x.npy", "--output", "y.npy"], extra].concat());
    assert_eq!(ran.code, 0, "{extra:?}:\n{}", ran.stderr);
    ran
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.input("x.npy", [1, 3, 32, 32]);
    scene
}

fn tensor<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The norm before the head is told from a new one by its weight.
fn marked(tensors: &mut [Tensor]) {
    for name in ["norm.weight", "norm0.weight"] {
        if let Some(norm) = tensors.iter_mut().find(|tensor| tensor.0 == name) {
            norm.2.fill(1.5);
        }
    }
}

#[test]
fn the_values_of_a_weights_file_are_taken() {
    let scene = scene();
    scene.weights("w.safetensors", CLASSIFIER, |_| {});
    let ran = run(&scene, &["--weights", "w.safetensors"]);
    assert!(!ran.stderr.contains("random") && !ran.stderr.contains("initialised"), "{}", ran.stderr);
    let loaded = scene.tensor("y.npy");
    run(&scene, &["--seed", "9"]);
    assert_eq!(loaded, scene.tensor("y.npy"));
}

#[test]
fn a_head_of_another_class_count_is_renewed_when_asked_for() {
    let scene = scene();
    scene.weights("w.safetensors", CLASSIFIER, |tensors| marked(tensors));
    let weights = ["--weights", "w.safetensors", "--tap", "features=f.npy"];
    run(&scene, &weights);
    let (features, logits) = (scene.tensor("f.npy"), scene.tensor("y.npy"));

    let refused = [&["run", "mila-nano", "--input", "x.npy", "--output", "y.npy", "--classes", "3"], &weights[..]];
    let ran = scene.fails(&refused.concat(), 3, "w.safetensors does not hold");
    assert!(ran.stderr.contains("head.weight: expected [3, 128], found [10, 128]"), "{}", ran.stderr);

    let ran = run(&scene, &[&weights[..], &["--classes", "3", "--reset-head"]].concat());
    assert!(ran.stderr.contains("initialised by seed 0: head.weight, head.bias\n"), "{}", ran.stderr);
    assert_eq!(scene.tensor("y.npy").0, [1, 3]);
    assert_eq!(scene.tensor("f.npy"), features, "more than the head is new");

    let ran = run(&scene, &[&weights[..], &["--reset-head"]].concat());
    assert!(!ran.stderr.contains("initialised"), "{}", ran.stderr);
    assert_eq!(scene.tensor("y.npy"), logits, "a head that fits was renewed");
}

/// Vim's tokens keep one resolution.
#[test]
fn a_model_without_a_pyramid_takes_weights() {
    let scene = Scene::new();
    scene.weights_of("vim-ti", "w.safetensors", Task::Classify { classes: 10 }, |_| {});
    let export = ["export", "vim-ti", "y.onnx", "--weights", "w.safetensors"];
    scene.ok(&export);
    scene.fails(&[&export[..], &["--classes", "3"]].concat(), 3, "w.safetensors does not hold");
    scene.ok(&[&export[..], &["--classes", "3", "--reset-head"]].concat());
}

#[test]
fn a_layer_is_renewed_as_a_whole() {
    let scene = scene();
    scene.weights("w.safetensors", CLASSIFIER, |tensors| {
        *tensor(tensors, "head.bias") = ("head.bias".into(), vec![4], vec![0.0; 4]);
    });
    let ran = run(&scene, &["--weights", "w.safetensors", "--classes", "10", "--reset-head"]);
    assert!(ran.stderr.contains("initialised by seed 0: head.weight, head.bias\n"), "{}", ran.stderr);
}

#[test]
fn a_pyramid_takes_the_trunk_of_a_classifier() {
    let scene = scene();
    scene.weights("w.safetensors", CLASSIFIER, |_| {});
    let weights = ["--weights", "w.safetensors", "--tap", "layers.2=last.npy"];
    run(&scene, &weights);
    let last = scene.tensor("last.npy");
    let ran = run(&scene, &[&weights[..], &["--task", "pyramid"]].concat());
    let fresh = "initialised by seed 0: norm0.weight, norm0.bias, norm1.weight, norm1.bias, norm2.weight, norm2.bias\n";
    assert!(ran.stderr.contains(fresh), "{}", ran.stderr);
    assert!(ran.stderr.contains("not used: norm.weight, norm.bias, head.weight, head.bias\n"), "{}", ran.stderr);
    assert_eq!(scene.tensor("last.npy"), last);
}

#[test]
fn a_missing_norm_of_a_pyramid_renews_no_other() {
    let scene = scene();
    scene.weights("whole.safetensors", Task::Pyramid, |tensors| marked(tensors));
    scene.weights("part.safetensors", Task::Pyramid, |tensors| {
        marked(tensors);
        tensors.retain(|(name, ..)| name != "norm2.bias");
    });
    let mut first = Vec::new();
    for (file, note) in [("whole.safetensors", ""), ("part.safetensors", "seed 0: norm2.weight, norm2.bias\n")] {
        let ran = run(&scene, &["--weights", file, "--task", "pyramid"]);
        assert!(ran.stderr.contains(note), "{}", ran.stderr);
        first.push(scene.tensor("y.0.npy"));
    }
    assert_eq!(first[0], first[1]);
}

#[test]
fn all_that_is_wrong_with_weights_is_listed_at_once() {
    let scene = scene();
    scene.weights("w.safetensors", CLASSIFIER, |tensors| {
        tensors.retain(|(name, ..)| name != "norm.bias");
        tensors.push(("extra.weight".into(), vec![1], vec![0.0]));
        *tensor(tensors, "norm.weight") = ("norm.weight".into(), vec![2], vec![0.0; 2]);
    });
    scene.model("model", CLASSIFIER, |_| {});
    let outputs = ["--input", "x.npy", "--output", "y.npy", "--weights", "w.safetensors"];
    for model in ["mila-nano", "model"] {
        let ran = scene.fails(&[&["run", model], &outputs[..]].concat(), 3, "w.safetensors does not hold");
        for line in ["norm.bias [128]", "norm.weight: expected [128], found [2]", "extra.weight [1]"] {
            assert!(ran.stderr.contains(line), "no `{line}`:\n{}", ran.stderr);
        }
    }
}

#[test]
fn a_model_directory_survives_a_round_trip() {
    let scene = scene();
    scene.model("one", CLASSIFIER, |_| {});
    scene.ok(&["convert", "one", "flat.safetensors"]);
    scene.ok(&["convert", "flat.safetensors", "two", "--arch", "mila-nano"]);
    let file = |name: &str| std::fs::read(scene.path(name)).expect("a file");
    assert_eq!(file("one/model.safetensors"), file("two/model.safetensors"));
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&file(name)).expect("JSON");
    assert_eq!(json("one/config.json"), json("two/config.json"));
}

#[test]
fn raw_or_averaged_weights_of_a_training_checkpoint() {
    let scene = Scene::new();
    let both = concat!(env!("CARGO_MANIFEST_DIR"), "/../mila-weights/tests/pth/training_zip.pth");
    let raw = scene.mila(&["convert", both, "raw.safetensors"]);
    assert!(raw.stderr.contains("took the raw ones (--ema)"), "{}", raw.stderr);
    let ema = scene.mila(&["convert", both, "ema.safetensors", "--ema"]);
    assert!(ema.stderr.contains("took the averaged weights"), "{}", ema.stderr);
    let file = |name: &str| std::fs::read(scene.path(name)).expect("a file");
    assert_ne!(file("raw.safetensors"), file("ema.safetensors"));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let scene = scene();
    scene.picture("a.png", [9, 9, 9], 8);
    let predict = |change: fn(&mut serde_json::Value), message: &str| {
        scene.model("model", CLASSIFIER, change);
        scene.fails(&["predict", "model", "a.png"], 3, message)
    };
    let file = format!("model{}config.json", std::path::MAIN_SEPARATOR);
    let ran = predict(|config| config["architecture"] = "resnet50".into(), "unknown architecture `resnet50`");
    assert!(ran.stderr.contains(&file), "{}", ran.stderr);
    scene.fails(&["convert", "model", "w.safetensors"], 3, &file);
    let ran = predict(|config| config["model_args"] = serde_json::json!({ "depths": [1] }), "found depths");
    assert!(ran.stderr.contains(&file), "{}", ran.stderr);
    predict(|config| config["num_classes"] = 0.into(), "at least one class");
    predict(|config| config["pretrained_cfg"]["crop_pct"] = 2.into(), "crop_pct");
    scene.fails(&["convert", "model", "w.safetensors"], 3, "model: config");
}

#[test]
fn weights_without_classes_are_refused() {
    let scene = scene();
    scene.weights("w.safetensors", Task::Classify { classes: 0 }, |_| {});
    let arguments = ["run", "mila-nano", "--weights", "w.safetensors", "--input", "x.npy", "--output", "y.npy"];
    scene.fails(&arguments, 3, "at least one class");
}

#[test]
fn a_model_without_a_head_gives_a_pyramid() {
    let scene = scene();
    scene.model("model", Task::Pyramid, |config| config["num_classes"] = 0.into());
    scene.ok(&["run", "model", "--task", "pyramid", "--input", "x.npy", "--output", "y.npy"]);
}

#[test]
fn architectures_are_found_by_the_names_of_others() {
    let scene = Scene::new();
    for (alias, name) in [("convnext_tiny", "convnext-t"), ("mlla_tiny", "mila-t"), ("MLLA-Base", "mila-b")] {
        let found: serde_json::Value = serde_json::from_str(&scene.ok(&["models", alias, "--json"])).expect("JSON");
        assert_eq!(found["name"], name);
    }
}

/// A NaN in one tensor is blamed on the layer of that tensor, by every executor.
#[test]
fn the_layer_that_made_a_nan_is_named() {
    let scene = scene();
    let broken = |task: Task, parameter: &str, layer: &str, executors: &[&str]| {
        scene.weights("w.safetensors", task, |tensors| tensor(tensors, parameter).2[0] = f32::NAN);
        let task = if task == Task::Pyramid { "pyramid" } else { "classify" };
        for executor in executors {
            let model = ["run", "mila-nano", "--weights", "w.safetensors", "--input", "x.npy", "--output", "y.npy"];
            let options = ["--task", task, "--executor", executor, "--check-finite"];
            scene.fails(&[&model[..], &options].concat(), 1, &format!("`{layer}` holds"));
        }
    };
    for (parameter, layer) in [
        ("patch_embed.conv2.0.norm.running_mean", "patch_embed.conv2.0"),
        ("layers.1.blocks.0.out_proj.bias", "layers.1.blocks.0.out_proj"),
        ("head.bias", "head"),
    ] {
        broken(CLASSIFIER, parameter, layer, &["cpu", "reference"]);
    }
    for (parameter, layer) in [
        ("patch_embed.conv1.conv.weight", "patch_embed.conv1"),
        ("patch_embed.conv2.1.norm.bias", "patch_embed.conv2.1"),
        ("patch_embed.conv3.0.conv.weight", "patch_embed.conv3.0"),
        ("patch_embed.conv3.1.conv.weight", "patch_embed.conv3.1"),
        ("layers.0.blocks.0.cpe1.bias", "layers.0.blocks.0.cpe1"),
        ("layers.0.blocks.0.norm1.bias", "layers.0.blocks.0.norm1"),
        ("layers.0.blocks.0.in_proj.weight", "layers.0.blocks.0.in_proj"),
        ("layers.0.blocks.0.act_proj.weight", "layers.0.blocks.0.act_proj"),
        ("layers.0.blocks.0.dwc.weight", "layers.0.blocks.0.dwc"),
        ("layers.0.blocks.0.attn.qk.bias", "layers.0.blocks.0.attn.qk"),
        ("layers.0.blocks.0.attn.lepe.bias", "layers.0.blocks.0.attn"),
        ("layers.0.blocks.0.cpe2.weight", "layers.0.blocks.0.cpe2"),
        ("layers.0.blocks.0.norm2.weight", "layers.0.blocks.0.norm2"),
        ("layers.0.blocks.0.mlp.fc1.weight", "layers.0.blocks.0.mlp.act"),
        ("layers.0.blocks.0.mlp.fc2.weight", "layers.0.blocks.0.mlp"),
        ("layers.0.downsample.conv.0.conv.bias", "layers.0.downsample.conv.0"),
        ("layers.0.downsample.conv.1.conv.weight", "layers.0.downsample.conv.1"),
        ("layers.1.downsample.conv.2.norm.weight", "layers.1.downsample.conv.2"),
        ("norm.bias", "norm"),
    ] {
        broken(CLASSIFIER, parameter, layer, &["cpu"]);
    }
    broken(Task::Pyramid, "norm1.weight", "norm1", &["cpu", "reference"]);
}

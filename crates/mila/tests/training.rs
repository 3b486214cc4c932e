//! `train` and `demo`: the run directory, resuming, interruption, divergence.

#![cfg(feature = "train")]

mod scene;

#[cfg(unix)]
use std::path::Path;

use scene::Scene;

const FEW: [&str; 6] = ["--set", "batch=4", "--set", "epochs=3", "--set", "loader_threads=1"];

fn train<'a>(out: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--data", "data", "--arch", "mila-nano", "--out", out], &FEW[..], extra].concat()
}

fn bytes(scene: &Scene, name: &str) -> Vec<u8> {
    std::fs::read(scene.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn a_run_leaves_everything_and_its_model_predicts() {
    let scene = Scene::new();
    scene.dataset("data", 12);
    let result = scene.ok(&train("run", &[]));
    assert!(result.contains("best validation top-1"), "{result}");
    for name in ["config.toml", "env.json", "log.jsonl", "plots/training.svg", "state/state.json"] {
        assert!(scene.path("run").join(name).is_file(), "no {name}");
    }
    let metrics = String::from_utf8(bytes(&scene, "run/metrics.csv")).expect("text");
    assert_eq!(metrics.lines().count(), 4, "{metrics}");
    let labels = String::from_utf8(bytes(&scene, "run/last/labels.txt")).expect("text");
    assert_eq!(labels, "blue\nred\n");
    let json = scene.ok(&["eval", "run/best", "data", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["images"], 24);
    assert!(scene.ok(&["predict", "run/best", "data/red/0.png"]).contains("red"));
    scene.fails(&train("run", &[]), 2, "--resume");
    // A finished run has nothing left to do.
    scene.ok(&["train", "--out", "run", "--resume"]);
}

/// An interrupted and resumed run ends with the bits of one that was left alone.
#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_resuming_changes_nothing() {
    let scene = Scene::new();
    scene.dataset("data", 20);
    scene.ok(&train("whole", &["--set", "drop_path=0.3"]));
    interrupted(&scene, "parts", &train("parts", &["--set", "drop_path=0.3"]));
    scene.ok(&["train", "--out", "parts", "--resume"]);
    for name in ["last/model.safetensors", "best/model.safetensors", "state/moments.safetensors"] {
        assert_eq!(bytes(&scene, &format!("whole/{name}")), bytes(&scene, &format!("parts/{name}")), "{name}");
    }
}

/// Starts the program and sends it Ctrl-C as soon as it has a run in the folder `out`.
#[cfg(unix)]
fn interrupted(scene: &Scene, out: &str, arguments: &[&str]) {
    let child = scene.command(arguments).stderr(std::process::Stdio::piped()).spawn().expect("the program starts");
    wait_for(&scene.path(out).join("config.toml"));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let output = child.wait_with_output().expect("an end");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        // The usual case: the signal came while it trained.
        Some(130) => assert!(message.contains("--resume"), "{message}"),
        // The handler was not in place yet: killed, and nothing saved.
        None => {}
        code => panic!("ended with {code:?}: {message}"),
    }
}

#[cfg(unix)]
fn wait_for(path: &Path) {
    for _ in 0..6000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} never appeared", path.display());
}

#[test]
fn divergence_ends_the_run_and_names_the_step() {
    let scene = Scene::new();
    scene.dataset("data", 12);
    let extra = ["--set", "lr=1e30", "--set", "warmup_epochs=0", "--set", "clip=0"];
    scene.fails(&train("run", &extra), 1, "step");
}

#[test]
fn bad_data_and_settings_are_named() {
    let scene = Scene::new();
    scene.dataset("data", 6);
    scene.fails(&train("run", &["--set", "epochs=0"]), 2, "epochs");
    scene.fails(&train("run", &["--set", "learning_rate=1"]), 2, "learning_rate");
    scene.fails(&["train", "--data", "data"], 2, "--out");
    scene.fails(&["train", "--out", "nowhere", "--resume"], 3, "config.toml");
    std::fs::create_dir_all(scene.path("data/green")).expect("a folder");
    scene.fails(&train("run", &[]), 3, "green");
    std::fs::remove_dir(scene.path("data/green")).expect("an empty folder");
    std::fs::write(scene.path("data/red/broken.png"), b"\x89PNG\r\n\x1a\n").expect("a file");
    scene.fails(&train("run", &[]), 3, "broken.png");
    std::fs::write(scene.path("file"), b"").expect("a file");
    scene.fails(&train("file/run", &[]), 1, "file");
}

#[test]
fn the_demo_gives_one_number_for_one_seed() {
    let scene = Scene::new();
    let result = |out: &str| {
        let text = scene.ok(&["demo", "--epochs", "1", "--out", out]);
        let line = text.lines().find_map(|line| line.split_once("; ")).expect("a result").1.to_owned();
        (line, bytes(&scene, &format!("{out}/last/model.safetensors")))
    };
    assert_eq!(result("first"), result("second"));
    assert!(scene.path("first/digits.png").is_file());
}

/// The advice that an interrupted demo prints, followed from another folder.
#[test]
#[cfg(unix)]
fn an_interrupted_demo_is_resumed_by_train() {
    let scene = Scene::new();
    scene.ok(&["demo", "--epochs", "1", "--out", "whole"]);
    interrupted(&scene, "parts", &["demo", "--epochs", "1", "--out", "parts"]);
    std::fs::create_dir(scene.path("elsewhere")).expect("a folder");
    let mut resume = scene.command(&["train", "--out", "../parts", "--resume"]);
    let output = resume.current_dir(scene.path("elsewhere")).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bytes(&scene, "whole/last/model.safetensors"), bytes(&scene, "parts/last/model.safetensors"));
}

#[test]
fn a_run_takes_no_folder_that_is_in_use_and_no_folder_for_an_architecture() {
    let scene = Scene::new();
    scene.dataset("data", 6);
    std::fs::create_dir_all(scene.path("mila-nano")).expect("a folder");
    std::fs::create_dir_all(scene.path("papers/state")).expect("a folder");
    std::fs::write(scene.path("papers/state/notes.txt"), "mine").expect("a file");
    scene.fails(&train("papers", &[]), 2, "choose another --out");
    scene.fails(&train(".", &[]), 2, "choose another --out");
    scene.fails(&train("data/run", &[]), 2, "outside the data");
    assert_eq!(bytes(&scene, "papers/state/notes.txt"), b"mine");
    let ran = scene.mila(&train("run", &["--set", "epochs=1"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = scene.mila(&train("blind", &["--set", "epochs=1", "--set", "val_fraction=0"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("not validated"), "{}", ran.stdout);
}

#[test]
fn resuming_needs_no_weights_file_and_refuses_another_seed() {
    let scene = Scene::new();
    scene.dataset("data", 6);
    scene.ok(&train("first", &["--set", "epochs=1"]));
    std::fs::rename(scene.path("first/last/model.safetensors"), scene.path("w.safetensors")).expect("a file");
    scene.ok(&train("second", &["--set", "weights=w.safetensors", "--set", "epochs=1"]));
    let config = String::from_utf8(bytes(&scene, "second/config.toml")).expect("text");
    assert!(config.contains("weights = \"/") || cfg!(not(unix)), "{config}");
    std::fs::remove_file(scene.path("w.safetensors")).expect("a file");
    scene.ok(&["train", "--out", "second", "--resume", "--set", "epochs=2"]);
    assert!(String::from_utf8(bytes(&scene, "second/config.toml")).expect("text").contains("epochs = 2"));
    scene.fails(&["train", "--out", "second", "--resume", "--set", "seed=1"], 3, "seed");
    std::fs::remove_dir_all(scene.path("first/state")).expect("a state");
    let ran = scene.mila(&["train", "--out", "first", "--resume"]);
    assert!(ran.code == 0 && ran.stderr.contains("no saved state"), "{}", ran.stderr);
}

/// A limit on the size of files stands for a full disk.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_whole_files_and_a_run_to_go_on_with() {
    let scene = Scene::new();
    scene.dataset("data", 6);
    for out in ["whole", "full"] {
        scene.ok(&train(out, &["--set", "epochs=1"]));
    }
    let resume = |out| ["train", "--out", out, "--resume", "--set", "epochs=2"];
    scene.ok(&resume("whole"));
    let before = bytes(&scene, "full/last/model.safetensors");
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mila")])
        .args(resume("full"))
        .current_dir(scene.root())
        .output()
        .expect("a shell");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("model.safetensors"), "{message}");
    assert_eq!(bytes(&scene, "full/last/model.safetensors"), before);
    for folder in ["full", "full/last", "full/best", "full/state"] {
        for entry in std::fs::read_dir(scene.path(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            assert!(!name.ends_with(".tmp") && !name.ends_with(".new"), "{folder}/{name}");
        }
    }
    scene.ok(&resume("full"));
    for name in ["last/model.safetensors", "best/model.safetensors", "state/moments.safetensors"] {
        assert_eq!(bytes(&scene, &format!("whole/{name}")), bytes(&scene, &format!("full/{name}")), "{name}");
    }
}

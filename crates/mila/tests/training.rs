//! `train` and `demo`: the run directory, resuming, interruption, divergence.

#![cfg(feature = "train")]

mod scene;

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
    let child = scene
        .command(&train("parts", &["--set", "drop_path=0.3"]))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    wait_for(&scene.path("parts/config.toml"));
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
    scene.ok(&["train", "--out", "parts", "--resume"]);
    for name in ["last/model.safetensors", "best/model.safetensors", "state/moments.safetensors"] {
        assert_eq!(bytes(&scene, &format!("whole/{name}")), bytes(&scene, &format!("parts/{name}")), "{name}");
    }
}

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

//! `study`: cells that are done once, tables, interruption, settings that must not change.

#![cfg(feature = "train")]

mod scene;

use scene::Scene;
use serde_json::Value;

/// Two variants, two batches and a seed.
fn study<'a>(out: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let few = ["--passes", "8", "--seeds", "0", "--variants", "baseline,rope"];
    [&small(out)[..], &few[..], extra].concat()
}

fn small(out: &str) -> [&str; 8] {
    ["study", "ablation", "--data", "data", "--out", out, "--set", "batch=4"]
}

fn json(scene: &Scene, name: &str) -> Value {
    let text = std::fs::read(scene.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_study_is_listed_by_its_variants() {
    let text = Scene::new().ok(&["study"]);
    assert!(text.contains("ablation:") && text.contains("ablation-rope-32"), "{text}");
}

#[test]
fn cells_are_run_once_and_end_in_tables_and_a_picture() {
    let scene = Scene::new();
    scene.dataset("data", 12);
    scene.fails(&study("data/out", &[]), 2, "outside the data");
    assert!(!scene.path("data/out").exists());
    scene.fails(&[&small("out")[..], &["--seeds", "1,0,1"]].concat(), 2, "twice");
    // One cell now, then the rest; a second seed later.
    let table = scene.ok(&study("out", &["--cells", "1"]));
    assert!(table.contains("| baseline | 1 |") && !table.contains("RoPE"), "{table}");
    let first = std::fs::read(scene.path("out/cells/baseline-seed-0.json")).expect("a record");
    scene.ok(&study("out", &[]));
    let more = study("out", &["--seeds", "1"]);
    let table = scene.ok(&more);
    assert_eq!(std::fs::read(scene.path("out/cells/baseline-seed-0.json")).expect("a record"), first);
    assert!(table.contains("| + RoPE | 2 |"), "{table}");
    assert_eq!(scene.ok(&more), table, "nothing is left to run");
    assert_eq!(std::fs::read_to_string(scene.path("out/table.md")).expect("a table").trim_end(), table.trim_end());
    let csv = std::fs::read_to_string(scene.path("out/table.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(csv.lines().all(|line| line.split(',').count() == 18), "{csv}");

    let record = json(&scene, "out/cells/rope-seed-1.json");
    assert_eq!((&record["arch"], &record["steps"]), (&"ablation-rope-32".into(), &2.into()));
    assert!(record["inference_images_per_s"].as_f64().expect("a rate") > 0.0);
    assert_eq!(record["curve"].as_array().expect("a curve").len(), 2, "{record}");
    let table = json(&scene, "out/table.json");
    assert_eq!(table["rows"][1]["published"]["difference"], 2.4);
    assert_eq!(table["rows"][1]["top1"]["count"], 2);
    let [own, baseline] = [1, 0].map(|row| table["rows"][row]["top1"]["mean"].as_f64().expect("a mean"));
    let difference = table["rows"][1]["difference"]["value"].as_f64().expect("a difference");
    assert!((difference - (own - baseline)).abs() < 1e-9, "{difference} of {own} and {baseline}");
    let picture = image::open(scene.path("out/differences.png")).expect("a picture");
    assert!(picture.width() > 100);
}

/// A cell that was interrupted ends as one that was left alone.
#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_is_done() {
    let scene = Scene::new();
    scene.dataset("data", 40);
    let long = |out| [&small(out)[..], &["--variants", "baseline", "--passes", "240", "--seeds", "0"]].concat();
    scene.ok(&long("whole"));
    let child = scene.command(&long("parts")).stderr(std::process::Stdio::piped()).spawn().expect("a start");
    let begun = scene.path("parts/cells/baseline-seed-0/loss.csv");
    for _ in 0..6000 {
        if begun.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    let output = child.wait_with_output().expect("an end");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("the same command goes on"), "{message}");
    scene.ok(&long("parts"));
    let [whole, parts] = ["whole", "parts"].map(|out| json(&scene, &format!("{out}/cells/baseline-seed-0.json")));
    for key in ["top1", "validation_loss", "steps", "params"] {
        assert_eq!(whole[key], parts[key], "{key}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let scene = Scene::new();
    scene.dataset("data", 12);
    scene.fails(&["study", "no-such", "--data", "data", "--out", "out"], 2, "known are ablation");
    scene.fails(&["study", "ablation", "--data", "data"], 2, "--out");
    scene.fails(&["study", "ablation", "--out", "out"], 2, "--data");
    scene.fails(&["study", "ablation", "--data", "nowhere", "--out", "out"], 1, "nowhere");
    scene.fails(&study("out", &["--variants", "softmax"]), 2, "known are baseline");
    scene.fails(&study("out", &["--set", "seed=3"]), 2, "seed");
    scene.fails(&study("out", &["--set", "speed=3"]), 2, "speed");
    scene.ok(&study("out", &["--cells", "0"]));
    scene.fails(&study("out", &["--set", "lr=0.5"]), 2, "lr: 0.002 there, 0.5 now");
    std::fs::write(scene.path("out/cells/rope-seed-0.json"), "{}").expect("a file");
    scene.fails(&study("out", &[]), 3, "rope-seed-0.json");
}

/// Without normalisation a training may diverge: that is a result, and the other cells go on.
#[test]
fn a_cell_that_diverges_is_a_row_of_the_table() {
    let scene = Scene::new();
    scene.dataset("data", 12);
    let table = scene.ok(&study("out", &["--set", "lr=1e30", "--set", "warmup_epochs=0", "--set", "clip=0"]));
    assert!(table.contains("| baseline | 1, 1 diverged |") && table.contains("RoPE"), "{table}");
    assert!(json(&scene, "out/cells/baseline-seed-0.json")["diverged"].as_str().expect("a reason").contains("step"));
}

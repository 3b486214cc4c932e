//! `mila bench`: what it reports, what it refuses, and its exit codes. No test depends on how fast anything is.

mod scene;

use scene::Scene;
use serde_json::Value;

/// The shortest run that there is.
const QUICK: &[&str] = &["bench", "mila-nano", "--warmup", "0", "--iterations", "2"];

fn json(scene: &Scene, options: &[&str]) -> Value {
    serde_json::from_str(&scene.ok(&[QUICK, &["--json"], options].concat())).expect("JSON")
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    let value = json(&Scene::new(), &["--threads", "1", "--isa", "portable", "--batch", "3", "--size", "24x40"]);
    let keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "model",
        "size",
        "batch",
        "threads",
        "precision",
        "unit",
        "isa",
        "processor",
        "iterations",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "images_per_s",
        "gflops",
        "roof_gflops",
        "roof_share",
        "copy_gb_s",
        "peak_rss_mb",
    ];
    assert_eq!(keys, expected);
    assert_eq!(value["model"], "mila-nano");
    assert_eq!(value["size"], serde_json::json!([24, 40]));
    assert_eq!([&value["batch"], &value["threads"], &value["iterations"]], [3, 1, 2]);
    assert_eq!([&value["precision"], &value["isa"]], ["f32", "portable"]);
    assert!(value["unit"].is_null(), "{value}");
    assert!(number(&value, "copy_gb_s") > 0.0 && number(&value, "roof_gflops") > 0.0, "{value}");
    if cfg!(target_os = "linux") {
        assert!(number(&value, "peak_rss_mb") > 1.0, "{value}");
    }
}

/// The figures follow from the median, the batch and the exact count of multiply-accumulates.
#[test]
fn figures_agree_with_one_another() {
    let scene = Scene::new();
    let value = json(&scene, &["--batch", "2"]);
    let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(|key| number(&value, key));
    assert!(p50 > 0.0 && p50 <= p95 && p95 <= p99, "{value}");
    let counted: Value = serde_json::from_str(&scene.ok(&["models", "mila-nano", "--json"])).expect("JSON");
    let gflops = 2.0 * 2.0 * number(&counted, "macs") / (p50 * 1e6);
    assert!(close(number(&value, "gflops"), gflops), "{value}");
    assert!(close(number(&value, "images_per_s"), 2000.0 / p50), "{value}");
    assert!(close(number(&value, "roof_share"), gflops / number(&value, "roof_gflops")), "{value}");
}

#[test]
fn the_rows_of_a_profile_add_up() {
    let scene = Scene::new();
    let value = json(&scene, &["--profile"]);
    let profile = &value["profile"];
    assert_eq!(profile["passes"], 2);
    let rows = profile["rows"].as_array().expect("rows");
    let sum = |key| rows.iter().map(|row| number(row, key)).sum::<f64>();
    assert!(close(sum("ms"), number(profile, "total_ms")), "{profile}");
    assert!(close(sum("share"), 1.0), "{profile}");
    assert!(rows.is_sorted_by(|a, b| number(a, "ms") >= number(b, "ms")), "{profile}");
    let of = |name: &str| rows.iter().filter(|row| row["operator"] == name).collect::<Vec<_>>();
    assert_eq!(of("between operators").len(), 1, "{profile}");
    assert!(of("linear").iter().any(|row| row["output"] == serde_json::json!([1, 1, 10])), "{profile}");
    let mut kinds: Vec<String> = rows.iter().map(|row| format!("{} {}", row["operator"], row["output"])).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), rows.len(), "one row for an operator and an extent: {profile}");

    let table = scene.ok(&[QUICK, &["--profile"]].concat());
    for part in ["p50", "images a second", "of the roof", "GB/s", "between operators", "100.00 %"] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
}

#[test]
fn a_threshold_that_is_not_met_ends_with_4() {
    let scene = Scene::new();
    let ran = scene.fails(&[QUICK, &["--json", "--fail-above", "0"]].concat(), 4, "expected at most 0 ms");
    assert!(ran.stdout.contains("p50_ms"), "{}", ran.stdout);
    scene.ok(&[QUICK, &["--fail-above", "1e12"]].concat());
}

#[test]
fn where_the_weights_come_from_is_said() {
    let scene = Scene::new();
    let ran = scene.mila(&[QUICK, &["--seed", "7"]].concat());
    assert!(ran.code == 0 && ran.stderr.contains("random weights by seed 7"), "{}", ran.stderr);
    scene.weights("w.safetensors", mila::models::Task::Classify { classes: 4 }, |_| {});
    let ran = scene.mila(&[QUICK, &["--weights", "w.safetensors"]].concat());
    assert!(ran.code == 0 && !ran.stderr.contains("random weights"), "{}", ran.stderr);
    scene.fails(&["bench", "mila-t", "--weights", "w.safetensors"], 3, "does not hold the weights");
}

#[test]
fn wrong_usage_ends_with_2() {
    let scene = Scene::new();
    assert!(scene.ok(&["bench", "--help"]).contains("Examples:"));
    for (options, message) in [
        (&["--iterations", "0"][..], "--iterations"),
        (&["--batch", "0"], "--batch"),
        (&["--size", "0x5"], "at least 1x1"),
        (&["--size", "65535x65535"], "120 million"),
        (&["--size", "4000x4000", "--batch", "8"], "120 million"),
        (&["--fail-above", "fast"], "expected milliseconds"),
        (&["--fail-above", "NaN"], "expected milliseconds"),
        (&["--fail-above=-1"], "expected milliseconds"),
    ] {
        scene.fails(&[&["bench", "mila-nano"], options].concat(), 2, message);
    }
    scene.fails(&["bench", "resnet"], 2, "unknown architecture");
    scene.fails(&["bench", "runs/nowhere"], 2, "runs/nowhere: no such model directory");
    scene.fails(&["bench"], 2, "MODEL");
}

/// Ctrl-C ends with 130: by itself, or as a shell reports a process that the signal ended.
#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_ends_with_130() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    let scene = Scene::new();
    let mut child = scene
        .command(&["bench", "mila-nano", "--iterations", "1000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It listens before it says anything.
    let mut said = String::new();
    BufReader::new(child.stderr.take().expect("a pipe")).read_line(&mut said).expect("text");
    assert!(said.contains("random weights"), "{said}");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(killed.success());
    let status = child.wait().expect("an end");
    assert!(status.code() == Some(130) || status.signal() == Some(2), "{status}");
}

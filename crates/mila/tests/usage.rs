//! What is typed wrongly, and what closed or full streams do.

mod scene;

use std::io::Read;
use std::process::Stdio;

use scene::Scene;

#[test]
fn help_teaches_by_example() {
    let scene = Scene::new();
    let help = scene.ok(&["--help"]);
    for verb in ["models", "predict", "run", "eval", "inspect", "convert", "doctor", "Exit codes"] {
        assert!(help.contains(verb), "no `{verb}` in\n{help}");
    }
    for verb in ["predict", "run", "models", "eval", "bench", "inspect", "convert", "export", "doctor"] {
        assert!(scene.ok(&[verb, "--help"]).contains("Examples:"), "{verb}");
    }
    #[cfg(feature = "train")]
    for verb in ["demo", "train", "study"] {
        assert!(scene.ok(&[verb, "--help"]).contains("Examples:"), "{verb}");
    }
    #[cfg(not(feature = "train"))]
    for command in
        [&["demo"][..], &["train", "--data", "pets"], &["train", "--help"], &["study", "ablation", "--out", "x"]]
    {
        scene.fails(command, 2, "leaves training out");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let scene = Scene::new();
    scene.input("x.npy", [1, 3, 8, 8]);
    scene.fails(&["models", "mila-t", "--size", "0x5"], 2, "at least 1x1");
    scene.fails(&["models", "mila-t", "--size", "20000000x20000000"], 2, "at most 65535x65535");
    scene.fails(&["models", "mila-t", "--size", "224"], 2, "HEIGHTxWIDTH");
    scene.fails(&["models", "resnet"], 2, "mila-nano, mila-t");
    scene.fails(&["frobnicate"], 2, "unrecognized subcommand");
    #[cfg(feature = "train")]
    {
        scene.fails(&["study", "--seeds", "1"], 2, "NAME");
        scene.fails(&["study", "ablation", "--variants", "rope,ape,rope"], 2, "--variants: rope is there twice");
    }
    scene.fails(&["--threads", "0", "models"], 2, "at least 1");
    scene.fails(&["--threads", "100000000", "models"], 2, "at most 512");
    scene.picture("a.png", [1, 2, 3], 8);
    scene.fails(&["predict", "mila-nano", "a.png", "--size", "65535x65535"], 2, "120 million");
    scene.fails(&["predict", "nothing-like-this", "x.png"], 2, "unknown architecture");
    scene.fails(&["run", "x.npy", "--input", "x.npy", "--output", "y.npy"], 2, "--weights");
    scene.fails(
        &["run", "mila-nano", "--input", "x.npy", "--output", "y.npy", "--tap", "layers.9=t.npy"],
        2,
        "layers.2",
    );
    scene.fails(&["run", "mila-nano", "--input", "x.npy", "--output", "y.npy", "--tap", "layers.0"], 2, "NAME=FILE");
}

#[test]
fn models_count_exactly() {
    let scene = Scene::new();
    let value: serde_json::Value = serde_json::from_str(&scene.ok(&["models", "mila-t", "--json"])).expect("JSON");
    assert_eq!(value["params"], 24_392_200);
    assert_eq!(value["macs"], 4_131_401_728u64);
    assert_eq!(value["macs_with_norms"], 4_149_339_648u64);
    assert_eq!(value["macs_with_scan"], 4_131_401_728u64);
    scene.fails(&["models", "vim-ti", "--size", "64x64"], 2, "vim-ti does not take it");
    let all = scene.ok(&["models", "--size", "64x64"]);
    assert!(all.contains("mila-t") && !all.contains("vim-ti"), "{all}");
    let table = scene.ok(&["models", "mila-b", "--size", "512x512"]);
    assert!(table.contains("95,983,960") && table.contains("84,182,808,576"), "{table}");
    let all: serde_json::Value = serde_json::from_str(&scene.ok(&["models", "--json"])).expect("JSON");
    let names = all.as_array().expect("a list").iter().filter_map(|model| model["name"].as_str()).collect::<Vec<_>>();
    assert!(["mila-t", "convnext-b", "mambaout-s", "vmamba-t"].iter().all(|name| names.contains(name)), "{names:?}");
}

#[test]
fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(Scene::new().ok(&["completions", shell]).contains("predict"), "{shell}");
    }
}

#[test]
fn doctor_names_the_kernels() {
    let report = Scene::new().ok(&["--isa", "portable", "doctor"]);
    assert!(report.contains("kernels    portable") && report.contains("GFLOP/s"), "{report}");
}

/// A reader that goes away, as `head` does, is no error.
#[test]
fn a_closed_stdout_ends_quietly() {
    let scene = Scene::new();
    let mut child = scene
        .command(&["models", "mila-b"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    assert_eq!(child.wait().expect("an end").code(), Some(0), "{errors}");
    assert_eq!(errors, "");
}

/// Nobody reads the results, but the exit code still tells what was found.
#[test]
fn a_closed_stdout_does_not_hide_the_verdict() {
    let scene = Scene::new();
    scene.dataset("data", 2);
    std::fs::write(scene.path("broken.png"), b"no picture").expect("a file");
    for (arguments, code, message) in [
        (&["eval", "mila-nano", "data", "--classes", "2", "--min-top1", "1"][..], 4, "top-1 is"),
        (&["predict", "mila-nano", "data", "broken.png"][..], 3, "broken.png"),
    ] {
        let mut child =
            scene.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a start");
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
        assert_eq!(child.wait().expect("an end").code(), Some(code), "{errors}");
        assert!(errors.contains(message), "{errors}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_under_stdout_is_an_error() {
    let scene = Scene::new();
    let full = std::fs::File::create("/dev/full").expect("the full device");
    let output = scene.command(&["models"]).stdout(full).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

//! What the command-line tests play with: a folder, the program, pictures and tensors.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use mila::graph::Trace;
use mila::models::{Preset, Task};
use mila::ops::{Seeded, Source, Values, Wanted};
use mila::weights::write_tensors;

/// Name, shape, values.
pub(crate) type Tensor = (String, Vec<usize>, Vec<f32>);

/// A folder that is gone after the test.
pub(crate) struct Scene {
    folder: tempfile::TempDir,
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The program, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mila"));
        command.current_dir(self.root()).args(arguments).env_remove("MILA_THREADS").env_remove("MILA_ISA");
        command.env_remove("MILA_PRECISION");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn mila(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs the program, which has to succeed, and returns its results.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.mila(arguments);
        assert_eq!(ran.code, 0, "{arguments:?} failed:\n{}", ran.stderr);
        ran.stdout
    }

    /// Runs the program, which has to end with `code` and to say `message` on stderr.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32, message: &str) -> Ran {
        let ran = self.mila(arguments);
        assert_eq!(ran.code, code, "{arguments:?}:\n{}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(message), "{arguments:?} does not say `{message}`:\n{}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{arguments:?} panicked:\n{}", ran.stderr);
        ran
    }

    /// A picture of one colour with a gradient.
    pub(crate) fn picture(&self, name: &str, [red, green, blue]: [u8; 3], size: u32) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let shade = |v: u8, n: u32| v.saturating_sub((n * 60 / size.max(1)) as u8);
        let picture = RgbImage::from_fn(size, size, |x, y| Rgb([shade(red, x), shade(green, y), shade(blue, x + y)]));
        picture.save(&path).expect("a written picture");
    }

    /// A dataset of two classes that differ in colour, `images` pictures each.
    pub(crate) fn dataset(&self, name: &str, images: u8) {
        for i in 0..images {
            self.picture(&format!("{name}/blue/{i}.png"), [i, 40, 200 - i], 36);
            self.picture(&format!("{name}/red/{i}.png"), [220 - i, 40, i], 32);
        }
    }

    /// An input tensor, `[batch, 3, height, width]`.
    pub(crate) fn input(&self, name: &str, shape: [usize; 4]) {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect();
        mila::npy::write(&self.path(name), &shape, &values).expect("a written tensor");
    }

    /// Weights of mila-nano for `task`, those of seed 9 as `change` leaves them.
    pub(crate) fn weights(&self, name: &str, task: Task, change: impl Fn(&mut Vec<Tensor>)) {
        self.weights_of("mila-nano", name, task, change);
    }

    /// The same of another model.
    pub(crate) fn weights_of(&self, arch: &str, name: &str, task: Task, change: impl Fn(&mut Vec<Tensor>)) {
        let preset = Preset::find(arch).expect("a registered model");
        let manifest = Trace::of(preset, task).expect("a trace");
        let seeded = Seeded::new(9);
        let values = |wanted: &Wanted| seeded.fetch(wanted).expect("values").into_f32().into_owned();
        let tensor = |wanted: &Wanted| (wanted.name.clone(), wanted.shape.clone(), values(wanted));
        let mut tensors: Vec<Tensor> = manifest.manifest().iter().map(tensor).collect();
        change(&mut tensors);
        let stored = tensors.into_iter().map(|(name, shape, values)| (name, shape, Values::F32(values.into())));
        write_tensors(&self.path(name), stored).expect("written weights");
    }

    /// A model directory of mila-nano with those weights, whose `config.json` is `change`d.
    pub(crate) fn model(&self, name: &str, task: Task, change: impl Fn(&mut serde_json::Value)) {
        self.weights("weights.safetensors", Task::Classify { classes: 10 }, |_| {});
        self.ok(&["convert", "weights.safetensors", name, "--arch", "mila-nano"]);
        self.weights(&format!("{name}/model.safetensors"), task, |_| {});
        let file = self.path(name).join("config.json");
        let text = std::fs::read(&file).expect("a configuration");
        let mut config = serde_json::from_slice(&text).expect("JSON");
        change(&mut config);
        std::fs::write(file, config.to_string()).expect("a written configuration");
    }

    /// Shape and values of a written tensor.
    pub(crate) fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        mila::npy::read(&self.path(name)).expect("a written tensor")
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

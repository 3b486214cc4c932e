//! The block and whole models of reduced size against PyTorch: logits, each stage, each level of the pyramid.

use mila_models::{
    Architecture, Output, Preset, Task, ablation, convnext, mamba_nd, mambaout, mila, swin, vim, vmamba,
};
use mila_ops::reference::Array;
use mila_ops::{Builder, Dims, NoTap, Numeric, Result, Tap};

use crate::{Case, Factory, Formula, Golden, Tolerance, assert_close, formula_input};

/// The reduced MILA of the goldens.
pub const MILA_REDUCED: mila::Config =
    mila::Config { channels: 16, depths: &[1, 2, 1, 1], heads: &[1, 2, 4, 8], stem_stride: 4, drop_path: 0.0 };

/// The reduced ConvNeXt of the goldens.
pub const CONVNEXT_REDUCED: convnext::Config =
    convnext::Config { channels: [16, 32, 64, 128], depths: [1, 1, 2, 1], drop_path: 0.0 };

/// The reduced MambaOut of the goldens.
pub const MAMBAOUT_REDUCED: mambaout::Config =
    mambaout::Config { channels: [16, 32, 40, 48], depths: [1, 2, 1, 1], drop_path: 0.0 };

/// The reduced Swin of the goldens.
pub const SWIN_REDUCED: swin::Config =
    swin::Config { channels: 16, depths: [2, 2, 1, 1], heads: [1, 2, 4, 8], drop_path: 0.0 };

/// The reduced VMamba of the goldens.
pub const VMAMBA_REDUCED: vmamba::Config =
    vmamba::Config { channels: 16, depths: [1, 2, 1, 1], drop_path: 0.0, ..vmamba::Config::T };

/// The reduced Vim of the goldens.
pub const VIM_REDUCED: vim::Config =
    vim::Config { channels: 32, depth: 3, grid: [3, 5], drop_path: 0.0, ..vim::Config::TI };

/// The reduced VMamba of the first version.
pub const VMAMBA_V0_REDUCED: vmamba::Config =
    vmamba::Config { channels: 16, depths: [1, 2, 1, 1], drop_path: 0.0, ..vmamba::Config::V0_T };

/// The reduced Mamba-ND of the goldens.
pub const MAMBA_ND_REDUCED: mamba_nd::Config =
    mamba_nd::Config { channels: 32, depth: 6, merge_after: 3, grid: [6, 4], drop_path: 0.0, ..mamba_nd::Config::S };

/// Runs the MILA block of the goldens.
///
/// # Panics
/// With the case that fails.
pub fn blocks<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    let golden = Golden::open("mila_block");
    for case in &golden.cases {
        let [x, y] = ["x", "y"].map(|part| golden.map(&format!("{}/{part}", case.name)));
        let mut e = make();
        let block = mila::Block::build(&mut Builder::new(&mut e, &Formula), case.channels, case.heads, 0.0);
        let (block, e) = (block.expect("a block"), e.evaluating());
        let x = e.map(x.dims, &x.values).expect("a map");
        let found = block.forward(&e, x, &mut NoTap).and_then(|y| e.read(&y)).expect("a block's map");
        assert_close(&case.name, &found.values, &y.values, tolerance);
    }
}

/// Runs the models of the goldens at square, non-square and odd sizes.
///
/// # Panics
/// With the case that fails.
pub fn models<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    for (file, architecture, stages) in [
        ("mila_reduced", Architecture::Mila(MILA_REDUCED), "layers"),
        ("mila_nano", Architecture::Mila(mila::Config::NANO), "layers"),
        ("convnext_reduced", Architecture::ConvNext(CONVNEXT_REDUCED), "stages"),
        ("mambaout_reduced", Architecture::MambaOut(MAMBAOUT_REDUCED), "stages"),
        ("swin_reduced", Architecture::Swin(SWIN_REDUCED), "layers"),
        ("vim_reduced", Architecture::Vim(VIM_REDUCED), "layers"),
        ("vmamba_reduced", Architecture::VMamba(VMAMBA_REDUCED), "layers"),
        ("vmamba_v0_reduced", Architecture::VMamba(VMAMBA_V0_REDUCED), "layers"),
    ] {
        let golden = Golden::open(file);
        for case in &golden.cases {
            model(make, tolerance, (file, &golden, case), architecture, stages);
        }
    }
    let (file, golden) = ("mamba_nd_reduced", Golden::open("mamba_nd_reduced"));
    for case in &golden.cases {
        let skip = if case.variant == "before_norm" { mamba_nd::Skip::Input } else { mamba_nd::Skip::Normed };
        let architecture = Architecture::MambaNd(mamba_nd::Config { skip, ..MAMBA_ND_REDUCED });
        model(make, tolerance, (file, &golden, case), architecture, "backbone.layers");
    }
    let (file, golden) = ("ablation_reduced", Golden::open("ablation_reduced"));
    for case in &golden.cases {
        model(make, tolerance, (file, &golden, case), ablation_reduced(&case.variant), "layers");
    }
}

/// The reduced ablation of the goldens: the design of a registered variant with small sizes.
///
/// # Panics
/// If no variant of that name is registered.
pub fn ablation_reduced(variant: &str) -> Architecture {
    let preset = Preset::find(&format!("ablation-{variant}")).expect("a registered variant");
    let Architecture::Ablation(config) = preset.architecture else { panic!("{variant} is of another family") };
    let sizes = ablation::Config { channels: 16, depths: &[1, 2, 1], head_dim: 8, patch: 2, grid: 8, ..config };
    Architecture::Ablation(ablation::Config { drop_path: 0.0, ..sizes })
}

/// Runs one case.
fn model<E: Numeric + 'static>(
    make: Factory<E>,
    tolerance: Tolerance,
    (file, golden, case): (&'static str, &Golden, &Case),
    architecture: Architecture,
    stages: &'static str,
) {
    let task = if case.op == "pyramid" { Task::Pyramid } else { Task::Classify { classes: 10 } };
    let mut e = make();
    let model = architecture.build(&mut Builder::new(&mut e, &Formula), task).expect("a model");
    let e = e.evaluating();
    let mut tap = Stages { e: &e, prefix: stages, golden, case, file, tolerance };
    let image = image(&e, case);
    match model.forward(&e, image, &mut tap).expect("a model's output") {
        Output::Logits(logits) => compare(&tap, "logits", e.read(&logits).expect("logits")),
        Output::Pyramid(maps) => {
            for (i, map) in maps.iter().enumerate() {
                compare(&tap, &format!("maps.{i}"), e.read(map).expect("a level"));
            }
        }
    }
}

/// Runs registered models at their released sizes against timm's own: logits of a thousand classes.
///
/// # Panics
/// With the model that differs.
pub fn presets<E: Numeric + 'static>(make: Factory<E>, tolerance: Tolerance) {
    logits_of("presets", make, |_| tolerance);
}

/// Runs registered models of the Mamba families at their released sizes against `tools/golden/mamba.py`.
///
/// # Panics
/// With the model that differs.
pub fn mamba_presets<E: Numeric + 'static>(make: Factory<E>, tolerance: impl Fn(&str) -> Tolerance) {
    logits_of("mamba_presets", make, tolerance);
}

fn logits_of<E: Numeric + 'static>(file: &str, make: Factory<E>, tolerance: impl Fn(&str) -> Tolerance) {
    let golden = Golden::open(file);
    for case in &golden.cases {
        let preset = Preset::find(&case.name).expect("a registered name");
        let mut e = make();
        let model = preset.build(&mut e, &Formula, Task::Classify { classes: 1000 }).expect("a model");
        let e = e.evaluating();
        let logits = model.forward(&e, image(&e, case), &mut NoTap).expect("a model's output").logits();
        let found = e.read(&logits.expect("a classifier gives logits")).expect("logits");
        let wanted = golden.map(&format!("{}/logits", case.name));
        assert_eq!(found.dims, wanted.dims, "{}: extent", case.name);
        assert_close(&case.name, &found.values, &wanted.values, tolerance(&case.name));
    }
}

/// The golden image, given as `[batch, 3, height, width]`, as a map.
fn image<E: Numeric + 'static>(e: &E, case: &Case) -> E::Map {
    let dims = Dims::new(case.batch, case.height, case.width, 3);
    let planes = formula_input(dims.volume());
    let mut values = Vec::with_capacity(dims.volume());
    for b in 0..dims.batch {
        for n in 0..dims.tokens() {
            values.extend((0..3).map(|c| planes[(b * 3 + c) * dims.tokens() + n]));
        }
    }
    e.map(dims, &values).expect("an image")
}

struct Stages<'a, E> {
    e: &'a E,
    prefix: &'static str,
    golden: &'a Golden,
    case: &'a Case,
    file: &'static str,
    tolerance: Tolerance,
}

impl<E: Numeric + 'static> Stages<'_, E> {
    /// The stage that a tap name stands for, if it is one.
    fn stage(&self, name: &str) -> Option<usize> {
        name.strip_prefix(self.prefix)?.strip_prefix('.')?.parse().ok()
    }
}

fn compare<E>(tap: &Stages<E>, part: &str, found: Array<f32>) {
    let what = format!("{} {}/{part}", tap.file, tap.case.name);
    let wanted = tap.golden.map(&format!("{}/{part}", tap.case.name));
    assert_eq!(found.dims, wanted.dims, "{what}: extent");
    assert_close(&what, &found.values, &wanted.values, tap.tolerance);
}

impl<E: Numeric + 'static> Tap<E> for Stages<'_, E> {
    fn wants(&self, name: &str) -> bool {
        self.case.op == "classify" && self.stage(name).is_some()
    }

    fn see(&mut self, name: &str, map: E::Map) -> Result<E::Map> {
        let stage = self.stage(name).expect("only stages are wanted");
        compare(self, &format!("stages.{stage}"), self.e.read(&map)?);
        Ok(map)
    }
}

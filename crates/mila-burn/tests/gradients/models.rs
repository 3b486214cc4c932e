//! Whole models in training with drop path: a trainer's gradients against the reference's finite differences.

use mila_burn::{AdamW, Burn, ImageBatch, Trainer};
use mila_models::{Architecture, Task, convnext, mamba_nd, mambaout, mila, swin, vim, vmamba};
use mila_ops::reference::{Array, Reference};
use mila_ops::{Builder, Dims, Mode, NoTap};
use mila_parity::{
    CONVNEXT_REDUCED, Formula, MAMBA_ND_REDUCED, MAMBAOUT_REDUCED, MILA_REDUCED, SWIN_REDUCED, VIM_REDUCED,
    VMAMBA_REDUCED, VMAMBA_V0_REDUCED, ablation_reduced,
};

use crate::check::GRADIENT;
use crate::forms;
use crate::golden::image;
use crate::point::{Point, Variable, sample, signs};

const TASK: Task = Task::Classify { classes: 10 };
const SEED: u64 = 5;
/// Entries of a parameter that are differentiated one by one.
const ENTRIES: usize = 4;

/// Mean cross entropy of the f64 reference in the training step 0.
fn loss(architecture: Architecture, point: &Point, labels: &[u32]) -> f64 {
    let mut e = Reference::<f64>::new(Mode::Train { seed: SEED, step: 0 });
    let model = architecture.build(&mut Builder::new(&mut e, point), TASK).expect("a model");
    let image = point.inputs().remove(0);
    let logits: Array<f64> =
        model.forward(&e, image, &mut NoTap).expect("a forward pass").logits().expect("the logits of a classifier");
    let row = |(row, &label): (&[f64], &u32)| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label as usize];
    let rows = logits.values.chunks_exact(10).zip(labels);
    rows.map(row).sum::<f64>() / labels.len() as f64
}

fn check(architecture: Architecture, dims: Dims, names: &[&str]) {
    let labels: Vec<u32> = (0..dims.batch as u32).map(|i| (3 + 4 * i) % 10).collect();
    let build = |declared: &mut Burn| architecture.build(&mut Builder::new(declared, &Formula), TASK);
    let trainer = || Trainer::new(AdamW::default(), None, SEED, build).expect("a model");
    let tensors = trainer().tensors().expect("the tensors");
    let mut variables: Vec<Variable> = tensors.iter().map(|(w, values)| Variable::parameter(w, values)).collect();
    let values = image(dims);
    variables.push(Variable::input(0, dims, &values));
    let mut point = Point(variables);
    let value = |point: &Point| loss(architecture, point, &labels);
    let wanted_loss = value(&point);
    let differences: Vec<_> = names
        .iter()
        .map(|&name| {
            let index = point.0.iter().position(|v| v.name == name).unwrap_or_else(|| panic!("no parameter {name}"));
            let count = point.0[index].values.len();
            let entries = sample(name, count, ENTRIES).into_iter();
            let entries: Vec<_> = entries.map(|i| (i, point.entry(index, i, &value))).collect();
            let signs = signs(name, count);
            (name, entries, point.along(index, &signs, &value), signs)
        })
        .collect();
    for form in forms() {
        let mut trainer = trainer().with_form(form);
        let progress = trainer.step(ImageBatch { dims, values: &values }, &labels, 1e-3).expect("a step");
        assert!((progress.loss / wanted_loss - 1.0).abs() < 1e-5, "{form:?}: {}, {wanted_loss}", progress.loss);
        let state = trainer.state().expect("the state");
        for (name, entries, along, signs) in &differences {
            let moment = state.tensors.iter().find(|(n, _)| n.strip_prefix("first/") == Some(name));
            // After one step from zero and without clipping, the first moment is a tenth of the gradient.
            let gradient: Vec<f64> = moment.expect("a moment").1.iter().map(|&m| f64::from(m) / 0.1).collect();
            let scale = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            assert!(scale > 1e-4, "{form:?}: the gradient of {name} is {scale:e} at most");
            let mut worst: f64 = 0.0;
            for &(index, wanted) in entries {
                let difference = (gradient[index] - wanted).abs();
                let found = gradient[index];
                assert!(difference < GRADIENT * scale, "{form:?}: {name}[{index}] {found}, {wanted}, scale {scale:e}");
                worst = worst.max(difference / scale);
            }
            let found: f64 = gradient.iter().zip(signs).map(|(g, s)| g * s).sum();
            let difference = (found - along).abs();
            let bound = GRADIENT * scale * (gradient.len() as f64).sqrt();
            assert!(difference < bound, "{form:?}: {name} along signs {found}, {along}, bound {bound:e}");
            eprintln!("{worst:.1e} {form:?} {name}, along signs {:.1e}", difference / bound * GRADIENT);
        }
    }
}

#[test]
fn mila_with_drop_path() {
    let config = mila::Config { drop_path: 0.5, ..MILA_REDUCED };
    let names = [
        "patch_embed.conv1.conv.weight",
        "patch_embed.conv3.1.norm.weight",
        "layers.0.blocks.0.cpe1.weight",
        "layers.0.downsample.conv.1.conv.bias",
        "layers.1.blocks.0.attn.qk.weight",
        "layers.1.blocks.1.attn.lepe.weight",
        "layers.1.blocks.1.norm1.bias",
        "layers.2.blocks.0.mlp.fc1.weight",
        "layers.2.downsample.conv.2.norm.weight",
        "layers.3.blocks.0.act_proj.weight",
        "layers.3.blocks.0.out_proj.bias",
        "head.weight",
    ];
    check(Architecture::Mila(config), Dims::new(3, 40, 24, 3), &names);
}

#[test]
fn convnext_with_drop_path() {
    let config = convnext::Config { drop_path: 0.5, ..CONVNEXT_REDUCED };
    let names = [
        "stem.0.weight",
        "stem.1.bias",
        "stages.0.blocks.0.conv_dw.weight",
        "stages.1.downsample.1.weight",
        "stages.2.blocks.1.mlp.fc1.weight",
        "stages.2.blocks.1.gamma",
        "stages.3.blocks.0.norm.weight",
        "head.fc.bias",
    ];
    check(Architecture::ConvNext(config), Dims::new(3, 40, 24, 3), &names);
}

#[test]
fn mambaout_with_drop_path() {
    let config = mambaout::Config { drop_path: 0.5, ..MAMBAOUT_REDUCED };
    let names = [
        "stem.conv1.weight",
        "stem.norm1.weight",
        "stages.0.blocks.0.fc1.weight",
        "stages.0.blocks.0.conv.weight",
        "stages.1.downsample.norm.bias",
        "stages.1.blocks.1.norm.weight",
        "stages.2.blocks.0.fc1.bias",
        "stages.2.downsample.conv.weight",
        "stages.3.blocks.0.fc2.weight",
        "head.pre_logits.norm.weight",
        "head.fc.bias",
    ];
    check(Architecture::MambaOut(config), Dims::new(3, 40, 24, 3), &names);
}

/// Of every variant what it adds, and what it changes the gradient of.
#[test]
fn ablation_with_drop_path() {
    let [block, last] = ["layers.1.blocks.1", "layers.2.blocks.0"];
    for (variant, parts) in [
        ("baseline", ["attn.qk.weight", "attn.v.weight"]),
        ("input-gate", ["attn.x_proj.weight", "attn.dt_proj.bias"]),
        ("forget-gate", ["attn.A_log", "attn.dt_proj.bias"]),
        ("shortcut", ["attn.D", "attn.v.weight"]),
        ("no-norm", ["attn.qk.weight", "attn.proj.bias"]),
        ("single-head", ["attn.qk.weight", "attn.v.weight"]),
        ("block-all", ["attn.qk.weight", "dwc.weight"]),
        ("block-sub", ["attn.qk.bias", "act_proj.weight"]),
        ("ape", ["attn.ape", "attn.qk.weight"]),
        ("lepe", ["attn.lepe.weight", "attn.v.weight"]),
        ("cpe", ["cpe1.weight", "attn.qk.weight"]),
        ("rope", ["attn.qk.weight", "norm1.bias"]),
    ] {
        let names = [
            format!("{block}.{}", parts[0]),
            format!("{last}.{}", parts[1]),
            "layers.0.downsample.reduction.weight".into(),
            "patch_embed.norm.weight".into(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        check(ablation_reduced(variant).with_drop_path(0.3), Dims::new(3, 16, 16, 3), &names);
    }
}

#[test]
fn swin_with_drop_path() {
    let config = swin::Config { drop_path: 0.5, ..SWIN_REDUCED };
    let names = [
        "patch_embed.proj.weight",
        "layers.0.blocks.0.attn.qkv.weight",
        "layers.0.blocks.1.attn.relative_position_bias_table",
        "layers.1.downsample.norm.weight",
        "layers.1.blocks.0.norm1.bias",
        "layers.1.blocks.1.attn.proj.weight",
        "layers.2.downsample.reduction.weight",
        "layers.2.blocks.0.mlp.fc2.bias",
        "layers.3.blocks.0.norm2.weight",
        "norm.weight",
        "head.fc.weight",
    ];
    check(Architecture::Swin(config), Dims::new(3, 60, 36, 3), &names);
}

#[test]
fn vim_with_drop_path() {
    let config = vim::Config { channels: 16, depth: 2, grid: [2, 3], drop_path: 0.3, ..VIM_REDUCED };
    let names = [
        "patch_embed.proj.weight",
        "cls_token",
        "pos_embed",
        "layers.0.norm.weight",
        "layers.0.mixer.in_proj.weight",
        "layers.0.mixer.conv1d.weight",
        "layers.0.mixer.A_b_log",
        "layers.0.mixer.x_proj_b.weight",
        "layers.1.mixer.A_log",
        "layers.1.mixer.dt_proj.bias",
        "layers.1.mixer.dt_proj_b.weight",
        "layers.1.mixer.D_b",
        "layers.1.mixer.out_proj.weight",
        "norm_f.weight",
        "head.weight",
    ];
    check(Architecture::Vim(config), Dims::new(3, 32, 48, 3), &names);
}

/// The last of the stages has one token.
#[test]
fn vmamba_with_drop_path() {
    let depths = [1, 1, 1, 1];
    let second = vmamba::Config { depths, drop_path: 0.3, ..VMAMBA_REDUCED };
    let names = [
        "patch_embed.0.weight",
        "layers.0.blocks.0.op.in_proj.weight",
        "layers.0.blocks.0.op.conv2d.weight",
        "layers.0.blocks.0.op.x_proj_weight",
        "layers.0.blocks.0.op.A_logs",
        "layers.0.downsample.1.weight",
        "layers.1.blocks.0.op.dt_projs_weight",
        "layers.1.blocks.0.op.dt_projs_bias",
        "layers.1.blocks.0.op.Ds",
        "layers.2.blocks.0.op.out_norm.weight",
        "layers.2.blocks.0.mlp.fc1.weight",
        "layers.3.blocks.0.op.Ds",
        "classifier.head.weight",
    ];
    check(Architecture::VMamba(second), Dims::new(3, 32, 32, 3), &names);
    let first = vmamba::Config { depths, states: 4, drop_path: 0.3, ..VMAMBA_V0_REDUCED };
    let names = [
        "patch_embed.0.weight",
        "layers.0.blocks.0.op.in_proj.weight",
        "layers.0.blocks.0.op.conv2d.bias",
        "layers.0.blocks.0.op.A_logs",
        "layers.0.downsample.reduction.weight",
        "layers.1.blocks.0.op.x_proj_weight",
        "layers.1.blocks.0.op.dt_projs_bias",
        "layers.2.blocks.0.op.Ds",
        "layers.3.blocks.0.op.out_proj.weight",
    ];
    check(Architecture::VMamba(first), Dims::new(3, 32, 32, 3), &names);
}

/// Each block along another order.
#[test]
fn mamba_nd_with_drop_path() {
    let names = [
        "backbone.patch_embed.projection.weight",
        "backbone.pos_embed",
        "backbone.layers.0.norm.weight",
        "backbone.layers.0.mixer.in_proj.weight",
        "backbone.layers.1.mixer.conv1d.weight",
        "backbone.layers.1.mixer.A_log",
        "backbone.layers.2.mixer.x_proj.weight",
        "backbone.layers.2.down_sample_layer.reduction.weight",
        "backbone.layers.3.mixer.dt_proj.bias",
        "backbone.layers.3.mixer.D",
        "backbone.ln1.weight",
        "head.fc.weight",
    ];
    for skip in [mamba_nd::Skip::Normed, mamba_nd::Skip::Input] {
        let sizes = mamba_nd::Config { channels: 16, depth: 4, merge_after: 2, grid: [4, 4], ..MAMBA_ND_REDUCED };
        let config = mamba_nd::Config { skip, drop_path: 0.3, ..sizes };
        check(Architecture::MambaNd(config), Dims::new(3, 32, 32, 3), &names);
    }
}

/// A gradient that is finite and not zero for every trained tensor of every family.
#[test]
fn every_parameter_is_trained() {
    let pictures = [
        Architecture::Mila(MILA_REDUCED),
        Architecture::ConvNext(CONVNEXT_REDUCED),
        Architecture::MambaOut(MAMBAOUT_REDUCED),
        Architecture::Swin(SWIN_REDUCED),
        Architecture::VMamba(VMAMBA_REDUCED),
        Architecture::VMamba(VMAMBA_V0_REDUCED),
    ];
    let pictures = pictures.map(|architecture| (architecture, Dims::new(3, 72, 40, 3)));
    let variants = [
        "baseline",
        "input-gate",
        "forget-gate",
        "shortcut",
        "no-norm",
        "single-head",
        "block-all",
        "block-sub",
        "ape",
        "lepe",
        "cpe",
        "rope",
    ];
    let variants = variants.map(|variant| (ablation_reduced(variant), Dims::new(3, 16, 16, 3)));
    let by_input = mamba_nd::Config { skip: mamba_nd::Skip::Input, ..MAMBA_ND_REDUCED };
    let of_one_grid = [
        (Architecture::Vim(VIM_REDUCED), Dims::new(3, 48, 80, 3)),
        (Architecture::MambaNd(MAMBA_ND_REDUCED), Dims::new(3, 48, 32, 3)),
        (Architecture::MambaNd(by_input), Dims::new(3, 48, 32, 3)),
    ];
    for (architecture, dims) in pictures.into_iter().chain(variants).chain(of_one_grid) {
        for form in forms() {
            let build = |declared: &mut Burn| architecture.build(&mut Builder::new(declared, &Formula), TASK);
            let mut trainer = Trainer::new(AdamW::default(), None, SEED, build).expect("a model").with_form(form);
            trainer.step(ImageBatch { dims, values: &image(dims) }, &[3, 7, 1], 1e-3).expect("a step");
            let state = trainer.state().expect("the state");
            let moments =
                state.tensors.iter().filter_map(|(name, values)| Some((name.strip_prefix("first/")?, values)));
            let mut count = 0;
            for (name, moment) in moments {
                let what = format!("{architecture:?}, {form:?}: the gradient of {name}");
                assert!(moment.iter().all(|m| m.is_finite()), "{what} is not finite");
                // MILA's has a batch norm behind it, which subtracts it again.
                let vanishes = name.ends_with("downsample.conv.2.conv.bias");
                assert!(vanishes || moment.iter().any(|&m| m.abs() > 1e-8), "{what} is zero");
                count += 1;
            }
            let trained = trainer.tensors().expect("the tensors");
            assert_eq!(count, trained.iter().filter(|(w, _)| w.kind == mila_ops::Kind::Parameter).count());
        }
    }
}

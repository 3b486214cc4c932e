//! Sizes that do not make a model are refused, not met by a panic.

use mila_models::{Architecture, Preset, Task, ablation, mila};
use mila_ops::reference::Reference;
use mila_ops::{Builder, Error, Seeded};

const TASKS: [Task; 2] = [Task::Classify { classes: 3 }, Task::Pyramid];

const SMALL: mila::Config =
    mila::Config { channels: 8, depths: &[1, 1], heads: &[1, 2], stem_stride: 2, drop_path: 0.0 };
const SMALL_ABLATION: ablation::Config =
    ablation::Config { channels: 8, depths: &[1, 1], head_dim: 4, ..ablation::Config::BASELINE_32 };

/// The error of every task.
fn refusals(architecture: Architecture) -> [Error; 2] {
    TASKS.map(|task| {
        let (mut reference, source) = (Reference::<f32>::eval(), Seeded::new(0));
        match architecture.build(&mut Builder::new(&mut reference, &source), task) {
            Ok(_) => panic!("{architecture:?} is built for {task:?}"),
            Err(error) => error,
        }
    })
}

fn is_unsupported(architecture: Architecture, what: &str) {
    for error in refusals(architecture) {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().starts_with(what), "{error}");
    }
}

#[test]
fn stages_and_heads_of_mila_belong_together() {
    let mila = |depths, heads| Architecture::Mila(mila::Config { depths, heads, ..SMALL });
    is_unsupported(mila(&[1, 1], &[2]), "MILA of 2 stages with heads for 1");
    is_unsupported(mila(&[1], &[1, 2]), "MILA of 1 stages with heads for 2");
    is_unsupported(mila(&[], &[]), "MILA of 0 stages with heads for 0");
    is_unsupported(mila(&[1; 64], &[1; 64]), "MILA of 64 stages with heads for 64");
    for stem_stride in [0, 3, 8] {
        let what = format!("a stem stride of {stem_stride}");
        is_unsupported(Architecture::Mila(mila::Config { stem_stride, ..SMALL }), &what);
    }
    let mut reference = Reference::<f32>::eval();
    let trunk = |b: &mut Builder<_>| mila::Trunk::build(b, &mila::Config { heads: &[], ..SMALL }, mila::Padding::First);
    let source = Seeded::new(0);
    assert!(matches!(trunk(&mut Builder::new(&mut reference, &source)), Err(Error::Unsupported { .. })));
    for error in refusals(mila(&[1, 1], &[0, 2])).into_iter().chain(refusals(mila(&[1, 1], &[3, 2]))) {
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}

#[test]
fn the_ablation_wants_stages_heads_and_patches() {
    let cases = [
        ablation::Config { depths: &[], ..SMALL_ABLATION },
        ablation::Config { head_dim: 0, ..SMALL_ABLATION },
        ablation::Config { patch: 0, ..SMALL_ABLATION },
        ablation::Config { depths: &[1; 64], ..SMALL_ABLATION },
    ];
    let found = [
        "0 stages of heads of 4 channels",
        "2 stages of heads of 0 channels",
        "2 stages of heads of 4 channels",
        "64 stages of heads of 4 channels",
    ];
    for (config, what) in cases.into_iter().zip(found) {
        is_unsupported(Architecture::Ablation(config), what);
    }
    // Heads wider than the channels are none, and three channels a head leave some of the eight over.
    for head_dim in [16, 3] {
        for error in refusals(Architecture::Ablation(ablation::Config { head_dim, ..SMALL_ABLATION })) {
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
    }
}

/// The small sizes themselves make models, or the refusals above would say nothing.
#[test]
fn what_fits_is_built() {
    for architecture in [Architecture::Mila(SMALL), Architecture::Ablation(SMALL_ABLATION)] {
        for task in TASKS {
            let (mut reference, source) = (Reference::<f32>::eval(), Seeded::new(0));
            let built = architecture.build(&mut Builder::new(&mut reference, &source), task);
            assert!(built.is_ok(), "{architecture:?} {task:?}");
        }
    }
}

#[test]
fn features_of_every_architecture() {
    let features = |name: &str| Preset::find(name).expect("a registered name").architecture.features();
    let found =
        ["mila-t", "ablation-baseline", "swin-t", "convnext-t", "mambaout-t", "vim-ti", "mamba-nd-s", "vmamba-t"];
    assert_eq!(found.map(features), [512, 768, 768, 768, 576, 192, 384, 768]);
    assert_eq!(Architecture::Mila(mila::Config { depths: &[], heads: &[], ..SMALL }).features(), 8);
    assert_eq!(Architecture::Ablation(ablation::Config { depths: &[], ..SMALL_ABLATION }).features(), 8);
}

//! Exact counts of every registered model, from its own body.

use mila_graph::{Sizes, Trace};
use mila_models::{Preset, Task};
use mila_ops::Kind;

const CLASSIFY: Task = Task::Classify { classes: 1000 };

fn trace(name: &str, task: Task) -> Trace {
    Trace::of(Preset::find(name).expect("a registered name"), task).expect("a model that traces")
}

#[test]
fn parameters() {
    for (name, classifier, dense) in
        [("mila-t", 24_392_200, 23_880_096), ("mila-s", 43_015_048, 42_502_944), ("mila-b", 95_983_960, 95_216_304)]
    {
        assert_eq!(trace(name, CLASSIFY).parameters(), classifier, "{name}");
        assert_eq!(trace(name, Task::Pyramid).parameters(), dense, "{name} pyramid");
    }
    assert_eq!(trace("mila-nano", Task::Classify { classes: 10 }).parameters(), 453_082);
}

#[test]
fn decayed_and_exempt_parameters() {
    for (name, exempt, decayed) in
        [("mila-t", 97_960, 24_294_240), ("mila-s", 182_056, 42_832_992), ("mila-b", 272_584, 95_711_376)]
    {
        let trace = trace(name, CLASSIFY);
        let count = |decay| {
            let tensors = trace.manifest().iter().filter(|w| w.kind == Kind::Parameter && w.decay == decay);
            tensors.map(|w| w.volume()).sum::<usize>()
        };
        assert_eq!((count(false), count(true)), (exempt, decayed), "{name}");
    }
}

/// Spec section 4.1: without norms, and with norms in evaluation.
#[test]
fn macs_at_224() {
    for (name, macs, with_norms) in [
        ("mila-t", 4_131_401_728, 4_149_339_648),
        ("mila-s", 7_248_635_904, 7_277_612_544),
        ("mila-b", 16_113_736_704, 16_157_201_664),
    ] {
        let cost = trace(name, CLASSIFY).cost(Sizes::square(224));
        assert_eq!((cost.macs, cost.macs_with_norms), (macs, with_norms), "{name}");
    }
}

/// Families that the paper compares with: parameters, and multiply-accumulates at 224 without and with norms.
#[test]
fn other_families() {
    for (name, parameters, macs, with_norms) in [
        ("convnext-t", 28_589_128, 4_455_531_264, 4_470_399_744),
        ("convnext-s", 50_223_688, 8_683_712_256, 8_705_354_496),
        ("convnext-b", 88_591_464, 15_354_729_472, 15_383_585_792),
        ("mambaout-t", 26_545_096, 4_469_655_744, 4_486_040_064),
        ("mambaout-s", 48_488_072, 8_936_423_616, 8_960_334_336),
        ("mambaout-b", 84_813_092, 15_794_325_760, 15_826_206_720),
        ("swin-t", 28_288_354, 4_490_566_656, 4_509_194_496),
        ("swin-s", 49_606_258, 8_740_875_264, 8_768_534_784),
        ("swin-b", 87_768_224, 15_430_946_816, 15_467_826_176),
    ] {
        let trace = trace(name, CLASSIFY);
        let cost = trace.cost(Sizes::square(224));
        assert_eq!((trace.parameters(), cost.macs, cost.macs_with_norms), (parameters, macs, with_norms), "{name}");
        assert_eq!(cost.macs_with_scan, macs, "{name} has no recurrence");
    }
}

#[test]
fn macs_at_other_sizes() {
    let (tiny, base) = (trace("mila-t", CLASSIFY), trace("mila-b", CLASSIFY));
    for (side, t, b) in [
        (256, 5_395_959_808, 21_046_278_144),
        (288, 6_829_125_632, 26_636_491_776),
        (384, 12_140_269_568, 47_353_165_824),
        (448, 16_524_070_912, 64_452_642_816),
        (512, 21_582_303_232, 84_182_808_576),
    ] {
        assert_eq!(tiny.cost(Sizes::square(side)).macs, t, "T at {side}");
        assert_eq!(base.cost(Sizes::square(side)).macs, b, "B at {side}");
    }
}

/// Pyramid of an 800x1333 and of a one-pixel image (spec section 1.12).
#[test]
fn pyramid_extents() {
    let trace = trace("mila-t", Task::Pyramid);
    let extents = |height, width| {
        let sizes = Sizes { batch: 1, height, width };
        let level = |id: &mila_graph::Id| {
            let node = &trace.nodes()[id.0];
            [node.extents[1].at(sizes), node.extents[2].at(sizes), node.channels]
        };
        trace.outputs().iter().map(level).collect::<Vec<_>>()
    };
    assert_eq!(extents(800, 1333), [[200, 334, 64], [100, 167, 128], [50, 84, 256], [25, 42, 512]]);
    assert_eq!(extents(427, 640), [[107, 160, 64], [54, 80, 128], [27, 40, 256], [14, 20, 512]]);
    assert_eq!(extents(1, 1), [[1, 1, 64], [1, 1, 128], [1, 1, 256], [1, 1, 512]]);
}

#[test]
fn layers_add_up_to_the_total() {
    for preset in Preset::all() {
        let trace = Trace::of(preset, CLASSIFY).expect("a model that traces");
        let layers = trace.layers(Sizes { batch: 1, height: 200, width: 333 });
        let cost = trace.cost(Sizes { batch: 1, height: 200, width: 333 });
        assert_eq!(layers.iter().map(|l| l.macs).sum::<u64>(), cost.macs, "{}", preset.name);
        assert_eq!(layers.iter().map(|l| l.parameters).sum::<usize>(), trace.parameters(), "{}", preset.name);
    }
}

/// Names, shapes and order of the released state dicts, where the specification lies beside the project.
#[test]
fn manifests_are_the_released_state_dicts() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec/mila_state_dict.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("SKIPPED: manifests_are_the_released_state_dicts wants mila_state_dict.json of the specification");
        return;
    };
    let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (variant, name) in [("T", "mila-t"), ("S", "mila-s"), ("B", "mila-b")] {
        for (kind, task) in [("cls", CLASSIFY), ("dense", Task::Pyramid)] {
            let derived = |name: &str| name.ends_with("rope.rotations") || name.ends_with("num_batches_tracked");
            let entries = stored[variant][kind].as_object().expect("an object");
            let wanted: Vec<(&str, Vec<usize>)> = entries
                .iter()
                .filter(|(name, _)| !derived(name))
                .map(|(name, shape)| (name.as_str(), serde_json::from_value(shape.clone()).expect("a shape")))
                .collect();
            let trace = trace(name, task);
            let found: Vec<(&str, Vec<usize>)> =
                trace.manifest().iter().map(|w| (w.name.as_str(), w.shape.clone())).collect();
            assert_eq!(found, wanted, "{name} {kind}");
        }
    }
}

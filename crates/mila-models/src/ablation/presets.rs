//! The rows of Tables 1 and 2, at the paper's size and for images of 32x32 pixels.

use mila_ops::Normalisation;

use super::{BlockDesign, Config, Design, Encoding, ForgetGate, Heads, InputGate, Shortcut};
use crate::registry::{Architecture, Preprocessing, Preset, Published};

const PAPER: &str = "arXiv 2405.16605";
const BASE: Design = Design::BASELINE;
const INPUT_GATE: Design = Design { input_gate: InputGate::Softplus, ..BASE };
const FORGET_GATE: Design = Design { forget_gate: ForgetGate::Recurrent, ..BASE };
const SHORTCUT: Design = Design { shortcut: Shortcut::Learned, ..BASE };
const NO_NORM: Design = Design { normalisation: Normalisation::Absent, ..BASE };
const SINGLE_HEAD: Design = Design { heads: Heads::Single, ..BASE };
const BLOCK_ALL: Design = Design { block: BlockDesign::MambaAll, ..BASE };
const BLOCK_SUB: Design = Design { block: BlockDesign::MambaSub, ..BASE };
const APE: Design = Design { positions: Encoding::Ape, ..BASE };
const LEPE: Design = Design { positions: Encoding::Lepe, ..BASE };
const CPE: Design = Design { positions: Encoding::Cpe, ..BASE };
const ROPE: Design = Design { positions: Encoding::Rope, ..BASE };

/// Every variant twice. Published are parameters, FLOPs, images a second (GPU and batch are not stated) and top-1.
pub(crate) const PRESETS: &[Preset] = &[
    full(
        "ablation-baseline",
        "the ablation's baseline: Swin-T with linear attention",
        BASE,
        ("28M", "4.5G", 1152, 77.6),
    ),
    full("ablation-input-gate", "the baseline with Mamba's input gate", INPUT_GATE, ("29M", "4.5G", 1069, 77.8)),
    full("ablation-forget-gate", "the baseline with Mamba's forget gate", FORGET_GATE, ("29M", "4.8G", 743, 78.4)),
    full("ablation-shortcut", "the baseline with Mamba's shortcut", SHORTCUT, ("28M", "4.5G", 1066, 77.8)),
    full("ablation-no-norm", "the baseline without attention normalisation", NO_NORM, ("28M", "4.5G", 1215, 72.4)),
    full("ablation-single-head", "the baseline with one head", SINGLE_HEAD, ("24M", "3.9G", 1540, 73.5)),
    full_all("ablation-block-all", "Mamba's block for the baseline's whole block", ("28M", "4.7G", 915, 79.4)),
    full("ablation-block-sub", "Mamba's block for the baseline's attention", BLOCK_SUB, ("31M", "4.8G", 1010, 80.9)),
    full("ablation-ape", "the baseline with absolute positions, 224x224 only", APE, ("30M", "4.5G", 1132, 80.0)),
    full("ablation-lepe", "the baseline with locally enhanced positions", LEPE, ("28M", "4.5G", 1074, 81.6)),
    full("ablation-cpe", "the baseline with conditional positions", CPE, ("28M", "4.5G", 1099, 81.7)),
    full("ablation-rope", "the baseline with rotary positions", ROPE, ("28M", "4.5G", 1113, 80.0)),
    small("ablation-baseline-32", "ablation-baseline for 32x32 images", BASE),
    small("ablation-input-gate-32", "ablation-input-gate for 32x32 images", INPUT_GATE),
    small("ablation-forget-gate-32", "ablation-forget-gate for 32x32 images", FORGET_GATE),
    small("ablation-shortcut-32", "ablation-shortcut for 32x32 images", SHORTCUT),
    small("ablation-no-norm-32", "ablation-no-norm for 32x32 images", NO_NORM),
    small("ablation-single-head-32", "ablation-single-head for 32x32 images", SINGLE_HEAD),
    small_all("ablation-block-all-32", "ablation-block-all for 32x32 images"),
    small("ablation-block-sub-32", "ablation-block-sub for 32x32 images", BLOCK_SUB),
    small("ablation-ape-32", "ablation-ape for 32x32 images only", APE),
    small("ablation-lepe-32", "ablation-lepe for 32x32 images", LEPE),
    small("ablation-cpe-32", "ablation-cpe for 32x32 images", CPE),
    small("ablation-rope-32", "ablation-rope for 32x32 images", ROPE),
];

/// Parameters, multiply-accumulates, images a second and top-1 as printed.
type Printed = (&'static str, &'static str, u32, f32);

const fn preset(name: &'static str, about: &'static str, config: Config, published: Option<Printed>) -> Preset {
    let (classes, preprocessing, published) = match published {
        None => (10, Preprocessing::SMALL, None),
        Some((parameters, macs, images_per_s, top1)) => {
            let published = Published { parameters, macs, images_per_s: Some(images_per_s), top1 };
            (1000, Preprocessing::IMAGENET, Some(published))
        }
    };
    let architecture = Architecture::Ablation(config);
    Preset { name, aliases: &[], about, paper: PAPER, architecture, classes, preprocessing, published }
}

/// At the paper's size.
const fn full(name: &'static str, about: &'static str, design: Design, published: Printed) -> Preset {
    preset(name, about, Config { design, ..Config::BASELINE }, Some(published))
}

/// Block design "all" at the paper's size: of the depths that fit the printed sizes, those that change one stage.
const fn full_all(name: &'static str, about: &'static str, published: Printed) -> Preset {
    let config = Config { depths: &[2, 2, 9, 2], design: BLOCK_ALL, ..Config::BASELINE };
    preset(name, about, config, Some(published))
}

/// For images of 32x32 pixels.
const fn small(name: &'static str, about: &'static str, design: Design) -> Preset {
    preset(name, about, Config { design, ..Config::BASELINE_32 }, None)
}

/// Block design "all" for images of 32x32 pixels, with a block more in the middle stage for the MLPs that it lacks.
const fn small_all(name: &'static str, about: &'static str) -> Preset {
    preset(name, about, Config { depths: &[2, 3, 1], design: BLOCK_ALL, ..Config::BASELINE_32 }, None)
}

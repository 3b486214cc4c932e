//! The ablation of "Demystify Mamba in Vision" (arXiv 2405.16605): one change to linear attention at a time.

use super::settings::Budget;
use super::{Study, Variant};

pub(crate) const STUDY: Study = Study {
    name: "ablation",
    about: "what each of Mamba's differences to linear attention brings by itself, and each positional encoding",
    source: "arXiv 2405.16605, Tables 1 and 2: ImageNet-1K at 224x224, 300 epochs; GPU and batch are not stated",
    variants: &[
        variant("baseline", "baseline", "ablation-baseline-32", "ablation-baseline"),
        variant("input-gate", "(1) + input gate", "ablation-input-gate-32", "ablation-input-gate"),
        variant("forget-gate", "(2) + forget gate", "ablation-forget-gate-32", "ablation-forget-gate"),
        variant("shortcut", "(3) + shortcut", "ablation-shortcut-32", "ablation-shortcut"),
        variant("no-norm", "(4) - normalisation", "ablation-no-norm-32", "ablation-no-norm"),
        variant("single-head", "(5) - multi-head", "ablation-single-head-32", "ablation-single-head"),
        variant("block-all", "(6) block design, all", "ablation-block-all-32", "ablation-block-all"),
        variant("block-sub", "(6) block design, sub", "ablation-block-sub-32", "ablation-block-sub"),
        variant("ape", "+ APE", "ablation-ape-32", "ablation-ape"),
        variant("lepe", "+ LePE", "ablation-lepe-32", "ablation-lepe"),
        variant("cpe", "+ CPE", "ablation-cpe-32", "ablation-cpe"),
        variant("rope", "+ RoPE", "ablation-rope-32", "ablation-rope"),
    ],
    budget: Budget::SMALL,
};

const fn variant(name: &'static str, label: &'static str, arch: &'static str, published: &'static str) -> Variant {
    Variant { name, label, arch, published }
}

"""Writes every golden: `python tools/golden/make.py`. A second run writes the same bytes.

Arithmetic is f64 (rotary angles f32); results are stored as f32. Maps are [batch, height, width, channels].
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

import ablation
import checkpoints
import families
import mila
import operators
import recurrence
from families import add_model_case, image
from operators import Cases
from values import fill, symmetric

CRATES = Path(__file__).resolve().parents[2] / "crates"
GOLDEN = CRATES / "mila-models" / "tests" / "golden"

REDUCED = mila.Config(16, (1, 2, 1, 1), (1, 2, 4, 8), num_classes=10)
# Every variant, but for the baseline itself by the one thing that it changes.
ABLATION = (
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
)
NANO = mila.Config(32, (1, 1, 1), (2, 4, 8), num_classes=10, stem_stride=2)

# One parameter of each kind, all with gradients well above rounding. The bias of a convolution that batch statistics
# follow is left out: its gradient is zero.
TRAINED = (
    "patch_embed.conv1.conv.weight",
    "patch_embed.conv2.1.norm.weight",
    "patch_embed.conv3.1.conv.weight",
    "layers.0.blocks.0.cpe1.weight",
    "layers.0.blocks.0.attn.qk.weight",
    "layers.0.blocks.0.attn.qk.bias",
    "layers.0.blocks.0.attn.lepe.bias",
    "layers.0.blocks.0.act_proj.weight",
    "layers.0.blocks.0.mlp.fc1.weight",
    "layers.0.downsample.conv.0.conv.bias",
    "layers.0.downsample.conv.1.conv.weight",
    "layers.0.downsample.conv.2.norm.bias",
    "layers.1.blocks.1.norm1.weight",
    "layers.1.blocks.1.in_proj.weight",
    "layers.1.blocks.1.dwc.weight",
    "layers.3.blocks.0.out_proj.bias",
    "norm.weight",
    "head.weight",
    "head.bias",
)
NORMS = ("patch_embed.conv1.norm", "layers.1.downsample.conv.2.norm")


def write(name: str, cases: Cases) -> None:
    """f32, contiguous; the descriptions are one JSON string, since the order of several entries is not fixed."""
    tensors = {key: tensor.detach().to(torch.float32).contiguous() for key, tensor in cases.tensors.items()}
    for key, tensor in tensors.items():
        assert tensor.isfinite().all(), f"{name}: {key} is not finite"
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / name).write_bytes(save(tensors, metadata={"cases": json.dumps(cases.descriptions)}))


def block() -> Cases:
    cases = Cases()
    for batch, height, width, channels, heads in ((2, 5, 7, 32, 2), (1, 1, 1, 16, 1), (1, 8, 8, 16, 1)):
        x = symmetric("input", (batch, height, width, channels), 2.0).double()
        y = fill(mila.Block(channels, heads))(x)
        cases.add(f"block_{height}x{width}x{channels}", "block", {"x": x}, {"y": y}, channels=channels, heads=heads)
    return cases


def classify(cases: Cases, config: mila.Config, sizes) -> None:
    model = fill(mila.Classifier(config)).eval()
    for batch, height, width in sizes:
        logits, stages = model(image(batch, height, width))
        outputs = {"logits": logits} | {f"stages.{i}": x for i, x in enumerate(stages)}
        add_model_case(cases, "classify", (batch, height, width), outputs)


def pyramid(cases: Cases, config: mila.Config, sizes) -> None:
    model = fill(mila.Pyramid(config)).eval()
    for size in sizes:
        add_model_case(cases, "pyramid", size, {f"maps.{i}": x for i, x in enumerate(model(image(*size)))})


def mila_reduced() -> Cases:
    cases = Cases()
    sizes = ((1, 64, 64), (1, 64, 32), (1, 33, 47), (1, 7, 1), (3, 32, 32))
    classify(cases, REDUCED, sizes)
    pyramid(cases, REDUCED, sizes)
    return cases


def mila_nano() -> Cases:
    cases = Cases()
    classify(cases, NANO, ((2, 32, 32), (1, 17, 40)))
    return cases


def ablation_reduced() -> Cases:
    """Widths 16..64, depths 1,2,1, heads of 8 channels; the name of a case is that of its variant and its size."""
    cases = Cases()
    for variant in ABLATION:
        model = fill(ablation.Classifier(ablation.Config(16, (1, 2, 1), 8, 2, 8, variant))).eval()
        # Absolute positions are those of one grid.
        for batch, height, width in ((2, 16, 16),) if variant == "ape" else ((2, 16, 16), (1, 9, 14)):
            logits, stages = model(image(batch, height, width))
            outputs = {"logits": logits} | {f"stages.{i}": x for i, x in enumerate(stages)}
            name = f"{variant}_{height}x{width}"
            cases.add(name, "classify", {}, outputs, variant=variant, batch=batch, height=height, width=width)
    return cases


def gradients() -> Cases:
    """One training step: batch statistics, mean cross entropy, global clip 5.0, AdamW."""
    cases = Cases()
    for height, width in ((32, 32), (64, 64)):
        model, labels = fill(mila.Classifier(REDUCED)).train(), [3, 7]
        logits, _ = model(image(len(labels), height, width))
        loss = F.cross_entropy(logits, torch.tensor(labels))
        loss.backward()
        parameters = dict(model.named_parameters())
        outputs = {"logits": logits, "loss": loss.detach().reshape(1)}
        outputs |= {f"gradients/{name}": parameters[name].grad.clone() for name in TRAINED}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        outputs["gradient_norm"] = norm.reshape(1)
        adamw(model).step()
        outputs |= {f"updated/{name}": parameters[name] for name in TRAINED}
        buffers = dict(model.named_buffers())
        for name in NORMS:
            outputs |= {f"updated/{name}.{kind}": buffers[f"{name}.{kind}"] for kind in ("running_mean", "running_var")}
        scalars = {"batch": len(labels), "height": height, "width": width, "labels": labels}
        scalars |= {"clip": 5.0, "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05}
        scalars |= {"loss": loss.item(), "gradient_norm": norm.item()}
        cases.add(f"train_{height}x{width}", "train", {}, outputs, **scalars)
    return cases


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    """Weight decay 0.05, none on 1-D parameters (norms and biases)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    kept = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, foreach=False)


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        write("operators.safetensors", operators.all_cases())
        write("mila_block.safetensors", block())
        write("mila_reduced.safetensors", mila_reduced())
        write("mila_nano.safetensors", mila_nano())
        write("convnext_reduced.safetensors", families.convnext_reduced())
        write("mambaout_reduced.safetensors", families.mambaout_reduced())
        write("swin_reduced.safetensors", families.swin_reduced())
        write("vmamba_reduced.safetensors", families.vmamba_reduced())
        write("vmamba_v0_reduced.safetensors", families.vmamba_v0_reduced())
        write("vim_reduced.safetensors", families.vim_reduced())
        write("mamba_nd_reduced.safetensors", families.mamba_nd_reduced())
        write("presets.safetensors", families.presets())
        write("ablation_reduced.safetensors", ablation_reduced())
        write("mamba_presets.safetensors", families.mamba_presets())
    write("gradients.safetensors", gradients())
    write("recurrence.safetensors", recurrence.all_cases())
    checkpoints.write_all(CRATES / "mila-weights" / "tests" / "pth")
    for path in sorted(GOLDEN.glob("*.safetensors")):
        print(f"{path.stat().st_size:>8} {path.name}")


if __name__ == "__main__":
    main()

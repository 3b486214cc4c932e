"""The families that the paper compares with, from timm itself or from `mamba.py`: reduced models stage by stage, and the logits
of registered models at their released sizes."""

from collections.abc import Callable

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.mambaout import MambaOut
from torch import Tensor, nn

import mamba
import swin
from operators import Cases
from values import fill, parameter, symmetric

# Registered name, timm's name, height and width of the image.
PRESETS = (
    ("convnext-t", "convnext_tiny", 64, 96),
    ("convnext-s", "convnext_small", 64, 96),
    ("convnext-b", "convnext_base", 64, 96),
    ("mambaout-t", "mambaout_tiny", 64, 96),
    ("mambaout-s", "mambaout_small", 64, 96),
    ("mambaout-b", "mambaout_base", 64, 96),
    ("swin-t", "swin_tiny_patch4_window7_224", 224, 224),
    ("swin-s", "swin_small_patch4_window7_224", 224, 224),
    ("swin-b", "swin_base_patch4_window7_224", 224, 224),
)
# Registered names of models of our own, and the image.
MAMBA_PRESETS = {"vmamba-t": (64, 96), "vmamba-t-s1l8": (64, 96), "vim-ti": (224, 224), "mamba-nd-s": (224, 224)}


def image(batch: int, height: int, width: int) -> Tensor:
    return symmetric("input", (batch, 3, height, width), 2.0).double()


def add_model_case(cases: Cases, op: str, size: tuple[int, int, int], outputs: dict[str, Tensor]) -> None:
    batch, height, width = size
    name = f"{op}_{height}x{width}" + (f"_batch{batch}" if batch > 1 else "")
    cases.add(name, op, {}, outputs, batch=batch, height=height, width=width)


def stage_by_stage(
    cases: Cases,
    model: nn.Module,
    stages: nn.Module,
    size: tuple[int, int, int],
    planes: bool,
    cut: tuple[int, int] | None = None,
) -> None:
    """Logits, and the output of each module of `stages`, which includes the downsample before it."""
    outputs = {}
    for i, stage in enumerate(stages):
        order = (0, 2, 3, 1) if planes else (0, 1, 2, 3)
        keep = lambda _, __, y, i=i, order=order: outputs.__setitem__(f"stages.{i}", y.permute(order))  # noqa: E731
        stage.register_forward_hook(keep)
    height, width = cut or size[1:]
    logits = model(image(*size)[:, :, :height, :width])
    add_model_case(cases, "classify", size, outputs | {"logits": logits})


def convnext_reduced() -> Cases:
    cases = Cases()
    for size in ((1, 64, 64), (1, 96, 64), (1, 45, 70)):
        model = fill(ConvNeXt(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), num_classes=10)).eval()
        stage_by_stage(cases, model, model.stages, size, planes=True)
    return cases


def mambaout_reduced() -> Cases:
    cases = Cases()
    for size in ((1, 64, 64), (2, 45, 70), (1, 7, 1)):
        model = fill(MambaOut(depths=(1, 2, 1, 1), dims=(16, 32, 40, 48), num_classes=10)).eval()
        stage_by_stage(cases, model, model.stages, size, planes=False)
    return cases


def swin_reduced() -> Cases:
    """timm's own model at sizes whose maps are whole windows or within one, and with our windows at others."""
    cases = Cases()
    for size in ((1, 112, 56), (2, 56, 28)):
        model = swin.reduced(size[1:])
        worst = (swin.of_any_size()(image(*size)) - model(image(*size))).abs().max()
        assert worst < 1e-12, f"{size}: our windows differ from timm's by {worst}"
        stage_by_stage(cases, model, model.layers, size, planes=False)
    for size in ((1, 45, 70), (1, 66, 35)):
        # What is left over at the border does not enter the stem; timm refuses it.
        cut = [n - n % 4 for n in size[1:]]
        model = swin.of_any_size()
        stage_by_stage(cases, model, model.layers, size, planes=False, cut=cut)
    size = (1, 45, 70)
    x, maps = swin.of_any_size().patch_embed(swin.F.pad(image(*size), (0, 2, 0, 3))), {}
    for i, stage in enumerate(swin.of_any_size().layers):
        x = stage(x)
        weight, bias = (parameter(f"norm{i}.{kind}", x.shape[-1:]).double() for kind in ("weight", "bias"))
        maps[f"maps.{i}"] = swin.F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)
    add_model_case(cases, "pyramid", size, maps)
    return cases


def presets() -> Cases:
    """timm's own models under the names of the registry; their weights follow from the names, so only logits are stored."""
    cases = Cases()
    for name, timm_name, height, width in PRESETS:
        model = fill(timm.create_model(timm_name)).eval()
        scalars = {"batch": 1, "height": height, "width": width}
        cases.add(name, "classify", {}, {"logits": model(image(1, height, width))}, **scalars)
    return cases


def mamba_presets() -> Cases:
    """Models of our own under the names of the registry, of which the small ones stand for their family."""
    cases = Cases()
    for name, (height, width) in MAMBA_PRESETS.items():
        logits, _ = fill(mamba.MODELS[name]()).eval()(image(1, height, width))
        cases.add(name, "classify", {}, {"logits": logits}, batch=1, height=height, width=width)
    return cases


def with_stages(cases: Cases, make: Callable[[int, int], nn.Module], sizes: tuple[tuple[int, int, int], ...]) -> Cases:
    """Models of our own that return logits and stages; `make` takes the height and width of the image."""
    for size in sizes:
        logits, stages = fill(make(*size[1:])).eval()(image(*size))
        add_model_case(cases, "classify", size, {f"stages.{i}": x for i, x in enumerate(stages)} | {"logits": logits})
    return cases


def vmamba_reduced() -> Cases:
    config = mamba.VMambaConfig(16, (1, 2, 1, 1), num_classes=10)
    return with_stages(Cases(), lambda *_: mamba.VMamba(config), ((1, 64, 64), (2, 45, 70), (1, 7, 1)))


def vmamba_v0_reduced() -> Cases:
    config = mamba.VMambaConfig(16, (1, 2, 1, 1), states=16, first_version=True, num_classes=10)
    return with_stages(Cases(), lambda *_: mamba.VMamba(config), ((1, 64, 64), (1, 45, 70)))


def vim_reduced() -> Cases:
    return with_stages(Cases(), lambda *_: mamba.Vim(32, 3, 3, 5, 10), ((2, 48, 80),))


def mamba_nd_reduced() -> Cases:
    """As released, and with the residual taken before the norm."""
    cases = with_stages(Cases(), lambda *_: mamba.MambaNd(32, 6, 3, 6, 4, 10), ((2, 48, 32),))
    before = with_stages(Cases(), lambda *_: mamba.MambaNd(32, 6, 3, 6, 4, 10, after_norm=False), ((1, 48, 32),))
    cases.descriptions += [case | {"variant": "before_norm"} for case in before.descriptions]
    cases.tensors |= before.tensors
    return cases

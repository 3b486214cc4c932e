"""Cases of `operators.safetensors`: one operator each, with inputs, parameters and outputs stored."""

import torch
import torch.nn.functional as F
from torch import Tensor

import mila
import swin
from values import parameter, symmetric

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}
SIZES = ((1, 1), (2, 3), (5, 7), (8, 8))

Tensors = dict[str, Tensor]


class Cases:
    """Collects tensors under `case/name` and a description of each case; all arithmetic is f64."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self.descriptions: list[dict] = []

    def add(self, case: str, op: str, inputs: Tensors, outputs: Tensors, **scalars) -> None:
        for name, tensor in (inputs | outputs).items():
            self.tensors[f"{case}/{name}"] = tensor
        self.descriptions.append({"name": case, "op": op, **scalars})


def values(case: str, *, x: tuple[int, ...], **parameters: tuple[int, ...]) -> Tensors:
    """The input `x` and the named parameters of a case, f64, by the rules of `values.py`."""
    named = {name: parameter(f"{case}/{name}", shape).double() for name, shape in parameters.items()}
    return {"x": symmetric(f"{case}/x", x, 2.0).double()} | named


def linear(cases: Cases) -> None:
    for activation, apply in ACTIVATIONS.items():
        case = f"linear_{activation}"
        p = values(case, x=(2, 3, 5, 6), weight=(10, 6), bias=(10,))
        y = apply(F.linear(p["x"], p["weight"], p["bias"]))
        cases.add(case, "linear", p, {"y": y}, activation=activation)
    p = values("linear_no_bias", x=(1, 2, 3, 7), weight=(5, 7))
    cases.add("linear_no_bias", "linear", p, {"y": F.linear(p["x"], p["weight"])}, activation="none")


def convolution(cases: Cases) -> None:
    def add(name, batch, size, c_in, c_out, kernel, stride, padding, groups=1, bias=True):
        height, width = size
        case = f"conv_{name}_{height}x{width}"
        shapes = {"weight": (c_out, c_in // groups, kernel, kernel)} | ({"bias": (c_out,)} if bias else {})
        p = values(case, x=(batch, height, width, c_in), **shapes)
        y = F.conv2d(p["x"].permute(0, 3, 1, 2), p["weight"], p.get("bias"), stride, padding, groups=groups)
        scalars = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups, "activation": "none"}
        cases.add(case, "conv", p, {"y": y.permute(0, 2, 3, 1)}, **scalars)

    for size in SIZES:
        add("3x3_s1", 1, size, 3, 5, 3, 1, 1)
        add("3x3_s2", 1, size, 3, 5, 3, 2, 1, bias=False)
        add("depthwise_3x3_s1", 2, size, 6, 6, 3, 1, 1, groups=6)
        add("depthwise_3x3_s2", 1, size, 6, 6, 3, 2, 1, groups=6)
        add("depthwise_7x7_s1", 1, size, 5, 5, 7, 1, 3, groups=5)
    add("1x1_s1", 2, (5, 7), 4, 9, 1, 1, 0)
    add("4x4_s4", 2, (8, 8), 3, 6, 4, 4, 0)
    add("4x4_s4", 1, (9, 11), 3, 6, 4, 4, 0)
    add("2x2_s2", 2, (8, 8), 4, 6, 2, 2, 0)
    add("2x2_s2", 1, (5, 7), 4, 6, 2, 2, 0)
    add("grouped_3x3_s1", 1, (5, 7), 4, 6, 3, 1, 1, groups=2)


def layer_norm(cases: Cases) -> None:
    for eps, channels in ((1e-5, 24), (1e-6, 7)):
        case = f"layer_norm_{eps:.0e}"
        p = values(case, x=(2, 3, 2, channels), weight=(channels,), bias=(channels,))
        y = F.layer_norm(p["x"], (channels,), p["weight"], p["bias"], eps)
        cases.add(case, "layer_norm", p, {"y": y}, eps=eps)


def batch_norm(cases: Cases) -> None:
    for mode in ("eval", "train"):
        case, c = f"batch_norm_{mode}", 6
        p = values(case, x=(3, 4, 5, c), weight=(c,), bias=(c,), running_mean=(c,), running_var=(c,))
        mean, var, train = p["running_mean"].clone(), p["running_var"].clone(), mode == "train"
        y = F.batch_norm(p["x"].permute(0, 3, 1, 2), mean, var, p["weight"], p["bias"], train, 0.1, 1e-5)
        out = {"y": y.permute(0, 2, 3, 1)}
        if train:
            out |= {"batch_mean": p["x"].mean((0, 1, 2)), "batch_var_unbiased": p["x"].var((0, 1, 2), correction=1)}
            out |= {"running_mean_after": mean, "running_var_after": var}
        cases.add(case, "batch_norm", p, out, mode=mode, eps=1e-5, momentum=0.1)


def linear_attention(cases: Cases) -> None:
    shapes = ((1, 1, 1, 8, 2), (2, 1, 3, 8, 2), (1, 3, 2, 8, 1), (1, 2, 2, 4, 1), (2, 5, 7, 24, 3), (1, 4, 4, 64, 2))
    for batch, height, width, channels, heads in shapes:
        case = f"linear_attention_{height}x{width}x{channels}_{heads}"
        qk = symmetric(f"{case}/qk", (batch, height, width, 2 * channels), 2.0).double()
        v = symmetric(f"{case}/v", (batch, height, width, channels), 2.0).double()
        y = mila.linear_attention(qk, v, heads)
        cases.add(case, "linear_attention", {"qk": qk, "v": v}, {"y": y}, heads=heads)


def mean_over_tokens(cases: Cases) -> None:
    p = values("mean_tokens", x=(2, 5, 7, 6))
    cases.add("mean_tokens", "mean_tokens", p, {"y": p["x"].mean(dim=(1, 2))})


def pad(cases: Cases) -> None:
    for multiple, size in ((2, (5, 7)), (2, (4, 3)), (4, (5, 8)), (4, (1, 1)), (4, (8, 4))):
        case = f"pad_{multiple}_{size[0]}x{size[1]}"
        p = values(case, x=(2, *size, 3))
        cases.add(case, "pad", p, {"y": mila.pad_to_multiple(p["x"], multiple)}, multiple=multiple)


def channels(cases: Cases) -> None:
    p = values("channels", x=(2, 3, 5, 11))
    cases.add("channels", "channels", p, {"y": p["x"][..., 4:9]}, start=4, end=9)
    p = {name: symmetric(f"concat/{name}", (2, 3, 5, c), 2.0).double() for name, c in (("a", 4), ("b", 7))}
    cases.add("concat", "concat", p, {"y": torch.cat([p["a"], p["b"]], dim=-1)})


def windows(cases: Cases) -> None:
    # Batch, height, width, heads, channels of a head, side, shift.
    shapes = (
        (1, 1, 1, 1, 8, 7, 3),
        (1, 7, 7, 1, 32, 7, 3),
        (1, 14, 14, 1, 8, 7, 3),
        (1, 14, 7, 3, 8, 7, 0),
        (2, 5, 6, 2, 12, 4, 1),
        (1, 9, 8, 1, 20, 7, 3),
        (1, 16, 4, 2, 5, 7, 0),
    )
    for batch, height, width, heads, d, side, shift in shapes:
        case = f"window_attention_{height}x{width}_{heads}x{d}_{side}_{shift}"
        x = symmetric(f"{case}/x", (batch, height, width, 3 * heads * d), 2.0).double()
        table = parameter(f"{case}/table", ((2 * side - 1) ** 2, heads)).double()
        y = swin.window_attention(x, table, heads, side, shift)
        cases.add(case, "window_attention", {"x": x, "table": table}, {"y": y}, heads=heads, side=side, shift=shift)
    for size in ((6, 4), (2, 2)):
        case = f"patches_{size[0]}x{size[1]}"
        p = values(case, x=(2, *size, 3))
        cases.add(case, "patches", p, {"y": swin.patches(p["x"])})


def all_cases() -> Cases:
    cases = Cases()
    for add in (linear, convolution, layer_norm, batch_norm, linear_attention, mean_over_tokens, pad, channels, windows):
        add(cases)
    return cases

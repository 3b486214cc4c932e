"""Cases of `recurrence.safetensors`: gated linear recurrences, written as their papers have them, with gradients.

All arithmetic is f64. Gradients are those of sum(w * y). Maps are [batch, height, width, channels].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from operators import Cases, Tensors
from values import symmetric


def order(name: str, height: int, width: int) -> list[int | None]:
    """The tokens of a scan order; None beyond the map."""
    rows = [h * width + w for h in range(height) for w in range(width)]
    columns = [h * width + w for w in range(width) for h in range(height)]
    if name.startswith("windows"):
        side = int(name.removeprefix("windows").removesuffix("_reversed"))
        tokens = []
        for top in range(0, height, side):
            for left in range(0, width, side):
                for h in range(top, top + side):
                    for w in range(left, left + side):
                        tokens.append(h * width + w if h < height and w < width else None)
    else:
        tokens = rows if name.startswith("rows") else columns
    return tokens[::-1] if name.endswith("_reversed") else tokens


def along(x: Tensor, tokens: list[int | None]) -> Tensor:
    """[batch, height, width, channels] as [batch, steps, channels], zeros beyond the map."""
    flat = F.pad(x.flatten(1, 2), (0, 0, 0, 1))
    return flat[:, [-1 if token is None else token for token in tokens]]


def on_map(y: Tensor, tokens: list[int | None], height: int, width: int) -> Tensor:
    steps = [tokens.index(token) for token in range(height * width)]
    return y[:, steps].unflatten(1, (height, width))


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """S6 (Mamba, arXiv 2312.00752, algorithm 2): u, delta [B, L, D], a [D, N], b, c [B, L, N], d [D].

    Returns the output [B, L, D] and the last state [B, D, N].
    """
    state, outputs = torch.zeros(u.shape[0], *a.shape, dtype=u.dtype), []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * a)
        state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * b[:, t, None, :]
        outputs.append((state * c[:, t, None, :]).sum(-1) + d * u[:, t])
    return torch.stack(outputs, 1), state


def s6(cases: Cases, name: str, path: str, size: tuple[int, int, int], channels: int, states: int) -> None:
    batch, height, width = size
    shape = (batch, height, width)
    case = f"s6_{name}"
    p = inputs(case, v=(*shape, channels), raw=(*shape, channels), k=(*shape, states), q=(*shape, states),
               bias=(channels,), a_log=(channels, states), d=(channels,))
    tokens = order(path, height, width)
    delta = F.softplus(along(p["raw"], tokens) + p["bias"])
    a = -torch.exp(p["a_log"])
    y, state = selective_scan(along(p["v"], tokens), delta, a, along(p["k"], tokens), along(p["q"], tokens), p["d"])
    add(cases, case, p, on_map(y, tokens, height, width), state.transpose(1, 2)[:, None], gate="factored", order=path,
        input="of_gate", heads=1)


def linear(cases: Cases, name: str, gate: str, normaliser: str, path: str, size: tuple[int, int, int], heads: int,
           keys: int, values: int) -> None:
    """Linear attention with a gate: the state [keys, values] of each head decays, and is divided by a sum of keys."""
    batch, height, width = size
    shape = (batch, height, width)
    case = f"{gate}_{name}"
    channels = {"none": 0, "scalar": heads, "keys": heads * keys, "values": heads * values, "factored": heads * values}
    shapes = {"v": (*shape, heads * values), "k": (*shape, heads * keys), "q": (*shape, heads * keys)}
    if channels[gate] > 0:
        shapes["raw" if gate == "factored" else "log"] = (*shape, channels[gate])
    if gate == "factored":
        shapes |= {"bias": (heads * values,), "a_log": (heads * values, keys)}
    p = inputs(case, **shapes)
    tokens = order(path, height, width)

    def split(x: Tensor, width: int) -> Tensor:
        return along(x, tokens).unflatten(2, (heads, width))

    q, k, v = split(p["q"], keys), split(p["k"], keys), split(p["v"], values)
    state = torch.zeros(batch, heads, keys, values, dtype=torch.float64)
    sums = torch.zeros(batch, heads, keys, 1, dtype=torch.float64)
    outputs = []
    for t in range(len(tokens)):
        if gate == "scalar":
            decay = torch.exp(split(p["log"], 1)[:, t, :, None])
        elif gate == "keys":
            decay = torch.exp(split(p["log"], keys)[:, t, :, :, None])
        elif gate == "values":
            decay = torch.exp(split(p["log"], values)[:, t, :, None])
        elif gate == "factored":
            delta = F.softplus(along(p["raw"], tokens) + p["bias"]).unflatten(2, (heads, values))[:, t, :, None]
            decay = torch.exp(delta * -torch.exp(p["a_log"]).unflatten(0, (heads, values)).transpose(1, 2))
        else:
            decay = torch.ones(1, dtype=torch.float64)
        state = decay * state + k[:, t, :, :, None] * v[:, t, :, None]
        sums = (decay if normaliser == "gated" else 1.0) * sums + k[:, t, :, :, None]
        o = (q[:, t, :, :, None] * state).sum(2)
        if normaliser != "none":
            o = o / ((q[:, t, :, :, None] * sums).sum(2) + 1e-6)
        outputs.append(o.flatten(1))
    y = on_map(torch.stack(outputs, 1), tokens, height, width)
    state = state if normaliser == "none" else torch.cat((state, sums), 3)
    add(cases, case, p, y, state, gate=gate, order=path, heads=heads, input="none", normaliser=normaliser)


def inputs(case: str, **shapes: tuple[int, ...]) -> Tensors:
    """Symmetric values; queries and keys are positive, logarithms of gates negative."""
    tensors = {}
    for name, shape in shapes.items():
        x = symmetric(f"{case}/{name}", shape).double()
        x = 0.1 + x.abs() if name in ("q", "k") else -x.abs() if name == "log" else x
        tensors[name] = x.float().double().requires_grad_()
    return tensors


def add(cases: Cases, case: str, p: Tensors, y: Tensor, state: Tensor, **scalars) -> None:
    w = symmetric(f"{case}/w", tuple(y.shape)).double()
    (w * y).sum().backward()
    gradients = {f"gradients/{name}": x.grad for name, x in p.items()}
    outputs = {"y": y, "state": state, "w": w} | gradients
    cases.add(case, "recurrence", p, outputs, **({"normaliser": "none"} | scalars))


def all_cases() -> Cases:
    cases = Cases()
    s6(cases, "rows", "rows", (2, 3, 5), 6, 4)
    s6(cases, "one_state", "columns", (1, 5, 4), 9, 1)
    s6(cases, "reversed", "columns_reversed", (1, 3, 4), 5, 16)
    s6(cases, "padded", "windows2", (2, 3, 5), 6, 4)
    s6(cases, "padded_reversed", "windows2_reversed", (1, 5, 3), 6, 2)
    linear(cases, "plain", "none", "gated", "rows", (1, 4, 5), 2, 3, 4)
    linear(cases, "ssd", "scalar", "none", "rows", (2, 3, 4), 3, 4, 2)
    linear(cases, "gla", "keys", "gated", "columns", (1, 3, 5), 2, 4, 3)
    linear(cases, "lru", "values", "none", "rows_reversed", (1, 4, 4), 1, 1, 6)
    # Row 2 of the MILA paper's ablation.
    linear(cases, "ablation", "factored", "ungated", "rows", (1, 5, 6), 2, 4, 4)
    return cases

"""The Mamba families in PyTorch, written to be read beside their papers; the scan is a loop over tokens.

    VMamba     "VMamba: Visual State Space Model", arXiv 2401.10166
    Vim        "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", 2401.09417
    Mamba-ND   "Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data", 2402.05892

    D, N, R    channels of the scan, states of each, channels from which the step sizes come
    u, Δ       what is scanned, step sizes; [batch, tokens, D]
    A, B, C    rates [D, N], input and output matrices [batch, tokens, N]

A map is [batch, height, width, channels], a sequence [batch, tokens, channels]. Parameter names are those of the released
checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORDERS = ("rows", "columns", "rows reversed", "columns reversed")


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t;  y_t = C_t h_t + D u_t   (Mamba, arXiv 2312.00752, algorithm 2)."""
    state, outputs = u.new_zeros(u.shape[0], *a.shape), []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(step * a) * state + step * u[:, t, :, None] * b[:, t, None, :]
        outputs.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(outputs, 1) + d * u


def s6(u: Tensor, x_proj: Tensor, dt: Tensor, dt_bias: Tensor, a_log: Tensor, d: Tensor) -> Tensor:
    """The scan of u with step sizes, B and C made of u itself."""
    rank, states = dt.shape[1], a_log.shape[1]
    delta, b, c = (u @ x_proj.T).split([rank, states, states], dim=-1)
    return selective_scan(u, F.softplus(delta @ dt.T + dt_bias), -a_log.exp(), b, c, d)


def sequence(x: Tensor, order: str) -> Tensor:
    """The tokens of a map along an order."""
    x = x.transpose(1, 2) if "columns" in order else x
    x = x.flatten(1, 2)
    return x.flip(1) if "reversed" in order else x


def grid(y: Tensor, order: str, height: int, width: int) -> Tensor:
    """The inverse of `sequence`."""
    y = y.flip(1) if "reversed" in order else y
    if "columns" in order:
        return y.unflatten(1, (width, height)).transpose(1, 2)
    return y.unflatten(1, (height, width))


def on_planes(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


# ---- VMamba


@dataclass(frozen=True)
class VMambaConfig:
    """Widths double from stage to stage. The first version has a gate, 16 states and patches, and no MLP."""

    width: int
    depths: tuple[int, ...]
    ratio: int = 2
    states: int = 1
    first_version: bool = False
    num_classes: int = 1000


class CrossScan(nn.Module):
    """Four scans with parameters of their own, added up: SS2D of the released code."""

    def __init__(self, config: VMambaConfig, width: int):
        super().__init__()
        inner, rank, states = config.ratio * width, -(-width // 16), config.states
        self.gated = config.first_version
        self.x_proj_weight = nn.Parameter(torch.empty(4, rank + 2 * states, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, inner))
        self.A_logs = nn.Parameter(torch.empty(4 * inner, states))
        self.Ds = nn.Parameter(torch.empty(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.in_proj = nn.Linear(width, 2 * inner if self.gated else inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=self.gated)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        x, z = x.chunk(2, dim=-1) if self.gated else (x, None)
        x = F.silu(on_planes(self.conv2d, x))
        height, width, inner = x.shape[1:]
        y = 0
        for k, order in enumerate(ORDERS):
            own = slice(k * inner, (k + 1) * inner)
            weights = self.x_proj_weight[k], self.dt_projs_weight[k], self.dt_projs_bias[k]
            scanned = s6(sequence(x, order), *weights, self.A_logs[own], self.Ds[own])
            y = y + grid(scanned, order, height, width)
        y = self.out_norm(y)
        return self.out_proj(y * F.silu(z) if self.gated else y)


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VMambaBlock(nn.Module):
    def __init__(self, config: VMambaConfig, width: int):
        super().__init__()
        self.norm, self.op = nn.LayerNorm(width), CrossScan(config, width)
        if not config.first_version:
            self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.op(self.norm(x))
        return x + self.mlp(self.norm2(x)) if hasattr(self, "mlp") else x


class PatchMerging(nn.Module):
    """Tokens (0,0), (1,0), (0,1), (1,1) of 2x2 side by side, zeros beyond the map; norm, linear."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Stage(nn.Module):
    def __init__(self, config: VMambaConfig, width: int, depth: int, last: bool):
        super().__init__()
        self.blocks = nn.Sequential(*(VMambaBlock(config, width) for _ in range(depth)))
        if not last:
            self.downsample = PatchMerging(width) if config.first_version else halving(width, 2 * width)


def halving(width: int, wider: int) -> nn.Sequential:
    """Convolution at place 1 and norm at place 3, as the released code has it between changes of layout."""
    return nn.Sequential(ToPlanes(), nn.Conv2d(width, wider, 3, 2, 1), ToLast(), nn.LayerNorm(wider))


class ToPlanes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class VMamba(nn.Module):
    def __init__(self, config: VMambaConfig):
        super().__init__()
        width, half = config.width, config.width // 2
        if config.first_version:
            self.patch_embed = nn.Sequential(nn.Conv2d(3, width, 4, 4), ToLast(), nn.LayerNorm(width))
        else:
            first = nn.Conv2d(3, half, 3, 2, 1), ToLast(), nn.LayerNorm(half), ToPlanes(), nn.GELU()
            second = nn.Conv2d(half, width, 3, 2, 1), ToLast(), nn.LayerNorm(width)
            self.patch_embed = nn.Sequential(*first, *second)
        widths = [width * 2**stage for stage in range(4)]
        stages = enumerate(zip(widths, config.depths, strict=True))
        self.layers = nn.ModuleList(Stage(config, *sizes, last=stage == 3) for stage, sizes in stages)
        self.classifier = nn.ModuleDict(
            {"norm": nn.LayerNorm(widths[-1]), "head": nn.Linear(widths[-1], config.num_classes)}
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and every stage before it is halved. image: [batch, 3, height, width]."""
        x, stages = self.patch_embed(image), []
        for stage in self.layers:
            x = stage.blocks(x)
            stages.append(x)
            x = stage.downsample(x) if hasattr(stage, "downsample") else x
        return self.classifier["head"](self.classifier["norm"](x).mean((1, 2))), stages


# ---- Vim and Mamba-ND


class Mamba(nn.Module):
    """Mamba's block along one order, or along both directions of a sequence with a convolution and a scan for each."""

    def __init__(self, width: int, both: bool, states: int = 16, taps: int = 4):
        super().__init__()
        inner, rank = 2 * width, -(-width // 16)
        self.both = both
        ends = ("", "_b") if both else ("",)
        for end in ends:
            self.register_parameter("A_b_log" if end else "A_log", nn.Parameter(torch.empty(inner, states)))
            self.register_parameter(f"D{end}", nn.Parameter(torch.empty(inner)))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        for end in ends:
            self.add_module(f"conv1d{end}", nn.Conv1d(inner, inner, taps, padding=taps - 1, groups=inner))
            self.add_module(f"x_proj{end}", nn.Linear(inner, rank + 2 * states, bias=False))
            self.add_module(f"dt_proj{end}", nn.Linear(rank, inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def along(self, x: Tensor, z: Tensor, end: str) -> Tensor:
        """Causal convolution, scan and gate along a sequence."""
        conv, dt = getattr(self, f"conv1d{end}"), getattr(self, f"dt_proj{end}")
        u = F.silu(conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        a_log = self.A_b_log if end else self.A_log
        y = s6(u, getattr(self, f"x_proj{end}").weight, dt.weight, dt.bias, a_log, getattr(self, f"D{end}"))
        return y * F.silu(z)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y = self.along(x, z, "")
        if self.both:
            y = (y + self.along(x.flip(1), z.flip(1), "_b").flip(1)) / 2
        return self.out_proj(y)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x²) + 1e-5) · weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    def __init__(self, mixer: Mamba, norm: nn.Module):
        super().__init__()
        self.mixer, self.norm = mixer, norm


class Vim(nn.Module):
    """Patches of 16, a class token in the middle, blocks of both directions."""

    def __init__(self, width: int, depth: int, rows: int, columns: int, num_classes: int = 1000):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, rows * columns + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16)})
        self.head = nn.Linear(width, num_classes)
        self.layers = nn.ModuleList(Layer(Mamba(width, both=True), RmsNorm(width)) for _ in range(depth))
        self.norm_f = RmsNorm(width)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the residual stream after every layer, [batch, 1, tokens, width]."""
        x = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        middle = x.shape[1] // 2
        x = torch.cat([x[:, :middle], self.cls_token.expand(len(x), -1, -1), x[:, middle:]], 1) + self.pos_embed
        stages = []
        for layer in self.layers:
            x = x + layer.mixer(layer.norm(x))
            stages.append(x[:, None])
        return self.head(self.norm_f(x)[:, middle]), stages


class MambaNd(nn.Module):
    """Patches of 8; layer i scans along ORDERS[i mod 4] of (rows, rows reversed, columns, columns reversed)."""

    ALTERNATING = (ORDERS[0], ORDERS[2], ORDERS[1], ORDERS[3])

    def __init__(
        self, width: int, depth: int, merge_after: int, rows: int, columns: int, num_classes: int = 1000, after_norm=True
    ):
        super().__init__()
        self.merge_after, self.after_norm = merge_after, after_norm
        backbone = {"patch_embed": nn.ModuleDict({"projection": nn.Conv2d(3, width, 8, 8)})}
        backbone["layers"] = nn.ModuleList(Layer(Mamba(width, both=False), nn.LayerNorm(width)) for _ in range(depth))
        merging = {"reduction": nn.Linear(4 * width, width, bias=False), "norm": nn.LayerNorm(4 * width)}
        backbone["layers"][merge_after].down_sample_layer = nn.ModuleDict(merging)
        backbone |= {f"ln{i}": nn.LayerNorm(width, 1e-6) for i in (1, 2)}
        self.backbone = nn.ModuleDict(backbone)
        self.backbone.register_parameter("pos_embed", nn.Parameter(torch.empty(1, rows * columns, width)))
        self.head = nn.ModuleDict({"fc": nn.Linear(width, num_classes)})

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the map after every layer, merged where that is its last part."""
        part = self.backbone
        x = part["patch_embed"]["projection"](image).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        x = x + part.pos_embed.unflatten(1, (height, width))
        stages = []
        for i, layer in enumerate(part["layers"]):
            height, width = x.shape[1:3]
            order, normed = self.ALTERNATING[i % 4], layer.norm(x)
            mixed = grid(layer.mixer(sequence(normed, order)), order, height, width)
            x = (normed if self.after_norm else x) + mixed
            if i == self.merge_after:
                # Channel c of the pixel (row, column) of 2x2 is channel 4 c + 2 row + column.
                merged = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
                merging = layer.down_sample_layer
                x = merging["reduction"](merging["norm"](merged)).unflatten(1, (height // 2, width // 2))
            stages.append(x)
        return self.head["fc"](part["ln2"](part["ln1"](x).mean((1, 2)))), stages


# ---- Released sizes

VMAMBA: dict[str, VMambaConfig] = {
    "vmamba-t": VMambaConfig(96, (2, 2, 5, 2)),
    "vmamba-s": VMambaConfig(96, (2, 2, 15, 2)),
    "vmamba-b": VMambaConfig(128, (2, 2, 15, 2)),
    "vmamba-t-s1l8": VMambaConfig(96, (2, 2, 8, 2), ratio=1),
    "vmamba-s-s1l20": VMambaConfig(96, (2, 2, 20, 2), ratio=1),
    "vmamba-b-s1l20": VMambaConfig(128, (2, 2, 20, 2), ratio=1),
    "vmamba-v0-t": VMambaConfig(96, (2, 2, 9, 2), states=16, first_version=True),
    "vmamba-v0-s": VMambaConfig(96, (2, 2, 27, 2), states=16, first_version=True),
    "vmamba-v0-b": VMambaConfig(128, (2, 2, 27, 2), states=16, first_version=True),
}

MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda config=config: VMamba(config) for name, config in VMAMBA.items()},
    **{f"vim-{name}": lambda width=width: Vim(width, 24, 14, 14) for name, width in (("ti", 192), ("s", 384), ("b", 768))},
    **{f"mamba-nd-{name}": lambda width=width: MambaNd(width, 24, 9, 28, 28) for name, width in (("s", 384), ("b", 768))},
}

"""The ablation of arXiv 2405.16605 (Tables 1 and 2) in PyTorch: Swin with global linear attention, one change at a time.

The paper released no code for these models; this follows its equations (2) and (10) to (12), Figure 3 and Swin. Nothing is
shared with the Rust bodies but the parameter names. A map is [batch, height, width, channels]; drop path is zero here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mila import DepthwiseConv, Mlp, pad_to_multiple, rotary_table, rotate


@dataclass(frozen=True)
class Config:
    """Sizes of a model and its one change; `grid` is the side of the first stage's tokens, for absolute positions."""

    dim: int
    depths: tuple[int, ...]
    head_dim: int
    patch: int
    grid: int
    variant: str
    num_classes: int = 10


def weighted(q: Tensor, k: Tensor, v: Tensor, heads: int, variant: str) -> Tensor:
    """phi(Q) (phi(K)^T V) / N over phi(Q) mean(phi(K)) + 1e-6, per head. q, k: [B, H, W, K]; v: [B, H, W, C]."""
    batch, height, width, channels = v.shape
    tokens = height * width
    q, k = F.elu(q) + 1, F.elu(k) + 1
    placed_q, placed_k = q, k
    if variant == "rope":
        table = rotary_table(height, width, q.shape[-1])
        placed_q, placed_k = rotate(q, *table), rotate(k, *table)

    def split(x: Tensor) -> Tensor:  # [batch, heads, tokens, width of a head]
        return x.reshape(batch, tokens, heads, -1).transpose(1, 2)

    y = split(placed_q) @ (split(placed_k).transpose(-1, -2) @ split(v)) / tokens
    if variant != "no-norm":
        y = y / (split(q) * split(k).mean(dim=2, keepdim=True)).sum(-1, keepdim=True).add(1e-6)
    return y.transpose(1, 2).reshape(batch, height, width, channels)


def decayed(q: Tensor, k: Tensor, v: Tensor, heads: int, delta: Tensor, a: Tensor) -> Tensor:
    """Equations (4) and (11): S_i = exp(delta_i A) S_{i-1} + K_i^T V_i, Z_i = Z_{i-1} + K_i^T, y_i = Q_i S_i / (Q_i Z_i).

    Tokens come row by row. delta: as v; a: [channels, width of a head], negative.
    """
    batch, height, width, channels = v.shape
    rows = lambda x: (F.elu(x) + 1).reshape(batch, height * width, heads, -1)
    q, k = rows(q), rows(k)
    v, delta = v.reshape(batch, -1, channels), delta.reshape(batch, -1, channels)
    state = torch.zeros(batch, channels, a.shape[1], dtype=v.dtype)
    sums = torch.zeros_like(k[:, 0])
    own = torch.arange(channels) // (channels // heads)  # The head of a channel.
    out = []
    for i in range(height * width):
        state = torch.exp(delta[:, i, :, None] * a) * state + v[:, i, :, None] * k[:, i, own]
        sums = sums + k[:, i]
        out.append((state * q[:, i, own]).sum(-1) / ((q[:, i] * sums).sum(-1)[:, own] + 1e-6))
    return torch.stack(out, dim=1).reshape(batch, height, width, channels)


class Attention(nn.Module):
    """`keys` channels of all heads' queries and keys, `inside` of the values, from `inputs` channels."""

    def __init__(self, c: Config, inputs: int, keys: int, inside: int, grid: int, project_values: bool):
        super().__init__()
        self.variant = c.variant
        self.heads = 1 if c.variant == "single-head" else inside // c.head_dim
        keys = c.head_dim if c.variant == "single-head" else keys
        self.qk = nn.Linear(inputs, 2 * keys)
        if project_values:
            self.v = nn.Linear(inputs, inside)
        if c.variant == "ape":
            self.ape = nn.Parameter(torch.zeros(grid, grid, keys))
        if c.variant in ("input-gate", "forget-gate"):
            rank = max(inputs // 16, 1)
            self.x_proj = nn.Linear(inputs, rank, bias=False)
            self.dt_proj = nn.Linear(rank, inside)
        if c.variant == "forget-gate":
            self.A_log = nn.Parameter(torch.zeros(inside, c.head_dim))
        if c.variant == "lepe":
            self.lepe = DepthwiseConv(inside)
        if c.variant == "shortcut":
            self.D = nn.Parameter(torch.ones(inside))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, dim=-1)
        v = self.v(x) if hasattr(self, "v") else x
        if self.variant == "ape":
            k = k + self.ape
        if self.variant == "input-gate":
            v = F.softplus(self.dt_proj(self.x_proj(x))) * v
        if self.variant == "forget-gate":
            delta = F.softplus(self.dt_proj(self.x_proj(x)))
            y = decayed(q, k, v, self.heads, delta, -self.A_log.exp())
        else:
            y = weighted(q, k, v, self.heads, self.variant)
        if self.variant == "shortcut":
            y = y + self.D * v
        if self.variant == "lepe":
            y = y + self.lepe(v)
        return y


class TransformerAttention(Attention):
    """The attention with the projection that follows it."""

    def __init__(self, c: Config, dim: int, grid: int):
        super().__init__(c, dim, dim, dim, grid, project_values=True)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(super().forward(x))


class Block(nn.Module):
    """A Transformer block; Mamba's block in the place of its attention ("sub") or of all of it ("all", twice as wide)."""

    def __init__(self, c: Config, dim: int, grid: int):
        super().__init__()
        self.variant = c.variant
        if c.variant == "cpe":
            self.cpe1 = DepthwiseConv(dim)
        self.norm1 = nn.LayerNorm(dim)
        if c.variant in ("block-all", "block-sub"):
            inside = 2 * dim if c.variant == "block-all" else dim
            self.in_proj = nn.Linear(dim, inside)
            self.act_proj = nn.Linear(dim, inside)
            self.dwc = DepthwiseConv(inside)
            self.attn = Attention(c, inside, dim, inside, grid, project_values=False)
            self.out_proj = nn.Linear(inside, dim)
        else:
            self.attn = TransformerAttention(c, dim, grid)
        if c.variant != "block-all":
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = Mlp(dim, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "cpe":
            x = x + self.cpe1(x)
        y = self.norm1(x)
        if self.variant in ("block-all", "block-sub"):
            u = F.silu(self.dwc(self.in_proj(y)))
            x = x + self.out_proj(self.attn(u) * F.silu(self.act_proj(y)))
        else:
            x = x + self.attn(y)
        return x if self.variant == "block-all" else x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches side by side, and their norm."""

    def __init__(self, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Swin's: the four tokens of each 2x2 window side by side, norm, linear."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, 2)
        windows = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(windows, dim=-1)))


class Stage(nn.Module):
    """Blocks of one width, then the merging, except after the last stage."""

    def __init__(self, c: Config, index: int):
        super().__init__()
        dim, grid = c.dim * 2**index, -(-c.grid // 2**index)
        self.blocks = nn.Sequential(*(Block(c, dim, grid) for _ in range(c.depths[index])))
        if index + 1 < len(c.depths):
            self.downsample = PatchMerging(dim)


class Classifier(nn.Module):
    """Norm, mean over tokens, linear. Result: logits and the stages' outputs before their mergings."""

    def __init__(self, c: Config):
        super().__init__()
        self.patch = c.patch
        self.patch_embed = PatchEmbed(c.dim, c.patch)
        self.layers = nn.ModuleList(Stage(c, index) for index in range(len(c.depths)))
        width = c.dim * 2 ** (len(c.depths) - 1)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, c.num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.patch_embed(pad_to_multiple(image.permute(0, 2, 3, 1), self.patch))
        stages = []
        for stage in self.layers:
            x = stage.blocks(x)
            stages.append(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.head(self.norm(x).mean(dim=(1, 2))), stages

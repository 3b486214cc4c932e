"""MILA in PyTorch, written to be read beside the paper; the oracle that the Rust executors are compared with.

"Demystify Mamba in Vision: A Linear Attention Perspective", arXiv 2405.16605.

    C, N       width, tokens (N = H * W, row-major)
    Q, K, V    queries, keys, values; Q and K pass phi(x) = elu(x) + 1
    R          2-D rotary position encoding, applied before the heads are split
    LePE, CPE  local positional branches, depthwise 3x3 convolutions

A map is [batch, height, width, channels] everywhere; height and width are read from it, never from N.
Parameter names are those of the released checkpoints. Arithmetic is in the dtype of the weights (f64 for the goldens),
except the rotary angles, cosines and sines, which are f32 as in the released models.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of one model: C0, blocks and heads per stage; stage i has width C0 * 2^i."""

    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    num_classes: int = 1000
    stem_stride: int = 4
    mlp_ratio: int = 4

    @property
    def dims(self) -> list[int]:
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]


T = Config(64, (2, 4, 8, 4), (2, 4, 8, 16))
S = Config(64, (3, 6, 21, 6), (2, 4, 8, 16))
B = Config(96, (3, 6, 21, 6), (3, 6, 12, 24))


def rotary_table(height: int, width: int, channels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, [height, width, channels / 2].

    Pair m < C/4 turns by row * theta_m, pair m >= C/4 by column * theta_(m - C/4), theta_k = 10000^(-k / (C/4)).
    """
    if channels % 4 != 0:
        raise ValueError(f"rotary positions: expected channels divisible by 4, found {channels}")
    k_max = channels // 4
    theta = torch.pow(torch.tensor(10000.0, dtype=dtype), -torch.arange(k_max, dtype=dtype) / k_max)
    rows = torch.arange(height, dtype=dtype)[:, None, None] * theta
    columns = torch.arange(width, dtype=dtype)[None, :, None] * theta
    shape = (height, width, k_max)
    angles = torch.cat([rows.expand(shape), columns.expand(shape)], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """R x: each complex pair is the channels (2m, 2m + 1). x: [batch, height, width, channels]."""
    re, im = x[..., 0::2], x[..., 1::2]
    return torch.stack([re * cos - im * sin, im * cos + re * sin], dim=-1).flatten(-2)


def linear_attention(qk: Tensor, v: Tensor, heads: int, table_dtype: torch.dtype = torch.float32) -> Tensor:
    """o_i = (R q_i)^T S / (q_i^T z + 1e-6), S = 1/N sum_j (R k_j) v_j^T, z = 1/N sum_j k_j, per head.

    qk: [batch, height, width, 2C], queries then keys, before phi; v: [batch, height, width, C]; result: as v.
    """
    batch, height, width, channels = v.shape
    tokens = height * width
    q, k = (F.elu(qk) + 1).split(channels, dim=-1)
    cos, sin = rotary_table(height, width, channels, table_dtype)

    def split_heads(x: Tensor) -> Tensor:  # [batch, heads, tokens, head_dim]
        return x.reshape(batch, tokens, heads, channels // heads).transpose(1, 2)

    q_rotated, k_rotated = split_heads(rotate(q, cos, sin)), split_heads(rotate(k, cos, sin))
    q, k, v = split_heads(q), split_heads(k), split_heads(v)
    state = k_rotated.transpose(-1, -2) @ v / tokens
    normaliser = q @ k.mean(dim=2)[..., None] + 1e-6
    return (q_rotated @ state / normaliser).transpose(1, 2).reshape(batch, height, width, channels)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros below and to the right until height and width are multiples of `multiple`."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


class Conv2d(nn.Conv2d):
    """A convolution of maps [batch, height, width, channels]; padding keeps the size at stride 1."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = True):
        super().__init__(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseConv(Conv2d):
    """Depthwise 3x3 with bias: CPE, LePE and the convolution before the attention."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, groups=dim)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of maps [batch, height, width, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvLayer(nn.Module):
    """Convolution, then batch norm and ReLU if asked for."""

    def __init__(self, c_in, c_out, kernel=3, stride=1, groups=1, bias=False, norm=True, relu=True):
        super().__init__()
        self.conv = Conv2d(c_in, c_out, kernel, stride, groups, bias)
        if norm:
            self.norm = BatchNorm(c_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if hasattr(self, "norm"):
            x = self.norm(x)
        return F.relu(x) if self.relu else x


class Stem(nn.Module):
    """Image to the map of stage 0, at 1/4 (or 1/2) of the size. Nothing follows the sum."""

    def __init__(self, dim: int, stride: int):
        super().__init__()
        hidden = dim // 2
        self.conv1 = ConvLayer(3, hidden, stride=2)
        self.conv2 = nn.Sequential(ConvLayer(hidden, hidden), ConvLayer(hidden, hidden, relu=False))
        self.conv3 = nn.Sequential(
            ConvLayer(hidden, 4 * dim, stride=stride // 2), ConvLayer(4 * dim, dim, kernel=1, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.conv2(x) + x)


class PatchMerging(nn.Module):
    """Width C to 2C at half the size, through 8C channels; only the last convolution has a norm."""

    def __init__(self, dim: int):
        super().__init__()
        wide = 8 * dim
        self.conv = nn.Sequential(
            ConvLayer(dim, wide, kernel=1, bias=True, norm=False),
            ConvLayer(wide, wide, stride=2, groups=wide, bias=True, norm=False),
            ConvLayer(wide, 2 * dim, kernel=1, bias=True, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class LinearAttention(nn.Module):
    """Linear attention with RoPE inside and LePE outside the normaliser. The values are not projected."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(dim, 2 * dim)
        self.lepe = DepthwiseConv(dim)

    def forward(self, u: Tensor) -> Tensor:
        return linear_attention(self.qk(u), u, self.heads) + self.lepe(u)


class Mlp(nn.Module):
    """C to ratio * C, exact GELU, back to C."""

    def __init__(self, dim: int, ratio: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """The MILA block (paper, section 5): CPE, gated linear attention, CPE, MLP. Drop path is zero here."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.cpe1 = DepthwiseConv(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, dim)
        self.act_proj = nn.Linear(dim, dim)
        self.dwc = DepthwiseConv(dim)
        self.attn = LinearAttention(dim, heads)
        self.out_proj = nn.Linear(dim, dim)
        self.cpe2 = DepthwiseConv(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cpe1(x)
        y = self.norm1(x)
        gate = F.silu(self.act_proj(y))
        u = F.silu(self.dwc(self.in_proj(y)))
        x = x + self.out_proj(self.attn(u) * gate)
        x = x + self.cpe2(x)
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    """Blocks of one width, then the merging, except after the last stage."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: int, last: bool):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        if not last:
            self.downsample = PatchMerging(dim)


class Trunk(nn.Module):
    """Stem and stages, shared by the two heads.

    `pad_first` chooses the rule at odd sizes. False (classifier): convolutions see their own implicit zeros.
    True (pyramid): the image is zero-padded to a multiple of the stem's stride and the input of each merging to even
    sizes, so that the padding passes through the first 1x1 convolution and becomes ReLU(bias).
    """

    def add_trunk(self, config: Config, pad_first: bool) -> None:
        self.pad_first = pad_first
        self.stem_stride = config.stem_stride
        self.patch_embed = Stem(config.embed_dim, config.stem_stride)
        last = len(config.depths) - 1
        self.layers = nn.ModuleList(
            Stage(dim, depth, heads, config.mlp_ratio, stage == last)
            for stage, (dim, depth, heads) in enumerate(zip(config.dims, config.depths, config.heads))
        )

    def stages(self, image: Tensor) -> Iterator[Tensor]:
        """Each stage's output before its merging. image: [batch, 3, height, width]."""
        x = image.permute(0, 2, 3, 1)
        x = self.patch_embed(pad_to_multiple(x, self.stem_stride) if self.pad_first else x)
        for stage in self.layers:
            x = stage.blocks(x)
            yield x
            if hasattr(stage, "downsample"):
                x = stage.downsample(pad_to_multiple(x, 2) if self.pad_first else x)


class Classifier(Trunk):
    """Norm first, then the mean over tokens, then the linear head. Result: logits and the stages' outputs."""

    def __init__(self, config: Config):
        super().__init__()
        self.add_trunk(config, pad_first=False)
        self.norm = nn.LayerNorm(config.dims[-1])
        self.head = nn.Linear(config.dims[-1], config.num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        stages = list(self.stages(image))
        return self.head(self.norm(stages[-1]).mean(dim=(1, 2))), stages


class Pyramid(Trunk):
    """The dense backbone: a layer norm of its own on each stage's output. Result: one map per stage."""

    def __init__(self, config: Config):
        super().__init__()
        for stage, dim in enumerate(config.dims):
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))
        self.add_trunk(config, pad_first=True)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.get_submodule(f"norm{i}")(x) for i, x in enumerate(self.stages(image))]

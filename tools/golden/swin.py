"""Attention within windows, and Swin at any size: the windows of `crates/mila-ops/src/windows.rs`, by a mask over all pairs.

Where extents are multiples of the window's side or below it, timm computes the same; `check` says so.
"""

import types

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor

from values import fill, parameter

SIDE = 7


def window_of(extent: int, side: int, shift: int) -> Tensor:
    """The number of the window that each token of an axis is in."""
    if extent <= side:
        return torch.zeros(extent, dtype=torch.long)
    return (torch.arange(extent) - shift).div(side, rounding_mode="floor")


def window_attention(qkv: Tensor, table: Tensor, heads: int, side: int, shift: int) -> Tensor:
    """softmax(q kᵀ / √d + bias) v over the tokens of one window; qkv: [batch, height, width, 3C]; table: [offsets, heads]."""
    batch, height, width, channels = qkv.shape
    tokens, d = height * width, channels // 3 // heads
    q, k, v = qkv.reshape(batch, tokens, 3, heads, d).permute(2, 0, 3, 1, 4)
    row, column = (x.flatten() for x in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    down, across = row[:, None] - row, column[:, None] - column
    windows = torch.stack([window_of(height, side, shift)[row], window_of(width, side, shift)[column]])
    together = (windows[:, :, None] == windows[:, None, :]).all(dim=0)
    # Offsets of pairs in different windows may lie beyond the table; they are masked.
    index = ((down + side - 1) * (2 * side - 1) + across + side - 1).where(together, torch.tensor(0))
    scores = q @ k.transpose(-1, -2) / d**0.5 + table[index].permute(2, 0, 1)
    weights = scores.masked_fill(~together, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(batch, height, width, channels // 3)


def patches(x: Tensor) -> Tensor:
    """2x2 tokens in one, column by column."""
    return torch.cat([x[:, row::2, column::2] for column in range(2) for row in range(2)], dim=-1)


def reduced(size: tuple[int, int]) -> SwinTransformer:
    """timm's own model for one size. Where a window covers the map, timm's table is smaller: the middle of ours."""
    model = fill(SwinTransformer(size, embed_dim=16, depths=(2, 2, 1, 1), num_heads=(1, 2, 4, 8), num_classes=10)).eval()
    with torch.no_grad():
        for name, table in model.named_parameters():
            if name.endswith("relative_position_bias_table"):
                block = model.get_submodule(name.removesuffix(".attn.relative_position_bias_table"))
                rows, columns = (slice(SIDE - n, SIDE - 1 + n) for n in block.window_size)
                whole = parameter(name, ((2 * SIDE - 1) ** 2, table.shape[1])).double()
                table.copy_(whole.unflatten(0, (2 * SIDE - 1, -1))[rows, columns].flatten(0, 1))
    return model


def of_any_size() -> SwinTransformer:
    """The same model with our windows in place of timm's."""

    def attend(self: SwinTransformerBlock, x: Tensor) -> Tensor:
        attn = self.attn
        table = attn.relative_position_bias_table
        return attn.proj(window_attention(attn.qkv(x), table, attn.num_heads, SIDE, self.target_shift_size[0]))

    sizes = {"embed_dim": 16, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "num_classes": 10}
    model = fill(SwinTransformer(224, always_partition=True, strict_img_size=False, **sizes)).eval()
    for stage in model.layers:
        for block in stage.blocks:
            block._attn = types.MethodType(attend, block)
    return model

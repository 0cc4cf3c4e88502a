"""Gradients of one tile of keys and values from a list of query tokens: what the key-major kernels share.

Letters: N tokens, H query heads, G key heads, J = H / G query heads of a key head (JP: the next power of two),
D channels per head (DP: padded), K keys of a tile, T query tokens at a time, R = T * JP rows.

All query heads of a key head are rows of one product, so that a key's gradient is summed over them in registers.
Probabilities come back from the log-sum-exps. Scores are kept transposed, [K, R]: they are the left operands of the
products that follow, without a transposition.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch


class KeyTile(NamedTuple):
    """What one program takes, and how it is started."""

    keys: int
    tokens: int
    warps: int
    stages: int


def key_tile(
    q: Tensor,  # [N, H, D]
    num_key_heads: int,
) -> KeyTile:
    """Tile for q's dtype and head size: half precision has tensor cores, float32 must do without."""
    padded_heads, channels = padded_sizes(q, num_key_heads)
    # channels up to: keys, rows, warps, stages
    if q.dtype == torch.float32:
        by_width = {64: (32, 32, 4, 2), 128: (16, 16, 8, 2), None: (16, 16, 4, 1)}
    else:
        by_width = {32: (64, 64, 4, 3), 64: (64, 32, 4, 3), 128: (64, 32, 8, 2), None: (32, 16, 8, 3)}
    keys, rows, warps, stages = next(x for most, x in by_width.items() if most is None or channels <= most)
    return KeyTile(keys, max(1, rows // padded_heads), warps, stages)


def padded_sizes(q: Tensor, num_key_heads: int) -> tuple[int, int]:
    """JP and DP."""
    return launch.next_power_of_2(q.shape[1] // num_key_heads), launch.padded_channels(q.shape[2])


def constants(
    q: Tensor,  # [N, H, D]
    num_key_heads: int,
    tile: KeyTile,
) -> dict[str, int | str]:
    """The ``tl.constexpr`` arguments of ``add_up``, and launch options."""
    padded_heads, channels = padded_sizes(q, num_key_heads)
    return dict(
        G=num_key_heads,
        J=q.shape[1] // num_key_heads,
        JP=padded_heads,
        D=q.shape[2],
        DP=channels,
        T=tile.tokens,
        PRECISION=launch.precision(q.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def scales(channels: int) -> tuple[float, float]:
    """Of scores: natural, and for base 2."""
    return channels**-0.5, channels**-0.5 * math.log2(math.e)


@triton.jit
def add_up(
    q,  # [N, H, D]
    grad_out,  # [N, H, D]
    lse2,  # [N, H]
    row_dot,  # [N, H]
    gate,  # [N, 3] or None
    tokens,  # query tokens, int32
    first,
    last,  # tokens[first .. last - 1] attend to the keys
    key,  # [K, DP]
    value,  # [K, DP]
    group,
    scale,
    scale2,
    COLUMN: tl.constexpr,  # of the gate
    K: tl.constexpr,
    G: tl.constexpr,
    J: tl.constexpr,
    JP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of ``key`` and ``value``: two of [K, DP] float32."""
    row = tl.arange(0, T * JP)
    place, head = row // JP, row % JP
    channel = tl.arange(0, DP)
    grad_key = tl.zeros((K, DP), tl.float32)
    grad_value = tl.zeros((K, DP), tl.float32)
    for position in range(first, last, T):
        token = tl.load(tokens + tl.minimum(position + place, last - 1)).to(tl.int64)  # past the end: the last again
        there = position + place < last
        at = token * (G * J) + group * J + head  # in [N, H]
        if J < JP:
            there = there & (head < J)
            at = tl.where(head < J, at, token * (G * J))
        to = at[:, None] * D + channel[None, :]
        if D == DP:
            query = tl.load(q + to)
            grad = tl.load(grad_out + to)
        else:
            query = tl.load(q + to, mask=(channel < D)[None, :], other=0.0)
            grad = tl.load(grad_out + to, mask=(channel < D)[None, :], other=0.0)
        lse = tl.where(there, tl.load(lse2 + at), float("inf"))  # rows of nothing: probability 0
        dot = tl.load(row_dot + at)
        scores = tl.dot(key, tl.trans(query), input_precision=PRECISION)  # [K, R]
        weight = tl.exp2(scores * scale2 - lse[None, :])
        if gate is not None:
            weight *= tl.load(gate + token * 3 + COLUMN)[None, :]
        grad_weight = tl.dot(value, tl.trans(grad), input_precision=PRECISION)
        grad_value = tl.dot(weight.to(grad.dtype), grad, grad_value, input_precision=PRECISION)
        grad_score = weight * (grad_weight - dot[None, :])
        grad_key = tl.dot(grad_score.to(query.dtype), query, grad_key, input_precision=PRECISION)
    return grad_key * scale, grad_value


@triton.jit
def load_keys(x, row, there, group, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):
    """Rows of [N, G, D] for one key head: [K, DP], zeros where nothing is."""
    channel = tl.arange(0, DP)
    mask = there[:, None] if D == DP else there[:, None] & (channel < D)[None, :]
    return tl.load(x + (row * G + group)[:, None] * D + channel[None, :], mask=mask, other=0.0)

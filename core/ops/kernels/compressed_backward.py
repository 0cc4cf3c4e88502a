"""Gradients of the pooled keys and values, from the attention of every token to the cells of its sample.

Letters: N tokens, M cells, B samples, H query heads, G key heads, J = H / G query heads of a key head, D channels per
head, K cells of a tile, I items.

Few keys meet very many queries. An item is a tile of K cells and a chunk of the tokens of their sample; its program
walks the chunk in tiles of T tokens x J heads with the gradients of its keys in registers. Either every item stores
its part and a second kernel adds the parts of a tile in order (the same bits each time), or items add theirs to the
result with atomics. With ``p = exp2(score - lse2)`` and gate ``w``:
``dv += (w p)^T grad_out``, ``dk += (w p (grad_out v - row_dot))^T q / sqrt(D)``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.block_plan import BlockPlan
from core.ops.kernels import launch
from core.ops.kernels.compressed import has_warp_group_products
from core.ops.tiles import Tiles, make_tiles

PROGRAMS = 2048  # aimed at: fills the largest GPU several times; parts of 128 cells then take 64 MiB at 64 channels
LEAST_TOKENS = 64  # of a chunk: shorter ones spend their time on starting and on parts
ELEMENTS, AT_ONCE = 256, 16  # of a program that adds parts: values, and parts that are on their way together


class BackwardShape(NamedTuple):
    """What one program takes, and how it is started."""

    keys: int
    rows: int
    warps: int
    stages: int


def backward_shape(q: Tensor) -> BackwardShape:
    """Tile for q's dtype, head size and device: as large as registers hold without spilling."""
    channels = launch.padded_channels(q.shape[2])
    if q.dtype == torch.float32:  # no tensor cores
        return BackwardShape(32, 32, 8, 2) if channels <= 64 else BackwardShape(16, 16, 8, 2)
    if channels <= 32:  # 128 cells, so that queries are read seldom; with 32 rows Hopper runs two programs at once
        return BackwardShape(128, 32 if has_warp_group_products(q.device) else 64, 8, 3)
    if channels == 64:
        return BackwardShape(128, 64 if has_warp_group_products(q.device) else 32, 8, 2)
    return BackwardShape(64 if channels == 128 else 32, 32, 8, 2)


@dataclass(frozen=True)
class KeyItems:
    """Which cells meet which tokens. Items of one tile are consecutive, their chunks ascend."""

    tiles: Tiles  # of cells
    tile: Tensor  # [I] int32
    first_token: Tensor  # [I] int32
    last_token: Tensor  # [I] int32, behind the chunk
    cu_items: Tensor  # [tiles + 1] int32: first item of each tile, then I

    def __len__(self) -> int:
        return self.tile.shape[0]


def key_items(
    plan: BlockPlan,
    keys: int,
    tokens: int,  # T: chunks are multiples of it
    groups: int,
) -> KeyItems:
    """The table of items for tiles of ``keys`` cells, kept with the plan."""
    return plan.memo.get(("key_items", keys, tokens, groups), lambda: _make_items(plan, keys, tokens, groups))


def _make_items(plan: BlockPlan, keys: int, tokens: int, groups: int) -> KeyItems:
    tiles = make_tiles(plan.cu_cells, keys)
    cells = plan.cu_cells.diff().tolist()
    lengths = [b - a for a, b in zip(plan.sample_tokens, plan.sample_tokens[1:], strict=False)]
    meetings = sum(launch.cdiv(m, keys) * n for m, n in zip(cells, lengths, strict=True))  # tiles x tokens
    chunk = max(LEAST_TOKENS, launch.cdiv(meetings * groups, PROGRAMS))
    chunk = launch.cdiv(chunk, tokens) * tokens
    device = plan.cu_seqlens.device
    chunks = torch.tensor([launch.cdiv(n, chunk) for n in lengths], device=device)
    per_tile = chunks[tiles.segment.long()]
    cu_items = torch.cat([per_tile.new_zeros(1), per_tile.cumsum(0)])
    tile = torch.arange(len(tiles), device=device).repeat_interleave(per_tile)
    sample = tiles.segment.long()[tile]
    rank = torch.arange(tile.shape[0], device=device) - cu_items[tile]
    first = plan.cu_seqlens[sample] + rank * chunk
    last = torch.minimum(first + chunk, plan.cu_seqlens[sample + 1])
    return KeyItems(tiles, tile.int(), first.int(), last.int(), cu_items.int())


def compressed_key_gradients(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    vc: Tensor,  # [M, G, D]
    grad_out: Tensor,  # [N, H, D] of the sum of all branches
    lse2: Tensor,  # [N, H] float32, base 2, of compressed_forward
    row_dot: Tensor,  # [N, H] float32: sum over D of grad_out times this branch's output
    gate: Tensor | None,  # [N, 3] float32, column 0 is this branch's; None: 1
    plan: BlockPlan,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``kc`` and ``vc``, each [M, G, D] float32; zeros for cells of a sample without tokens.

    Not deterministic: faster by the second kernel, but sums are in any order.
    """
    (heads, channels), (cells, groups) = q.shape[1:], kc.shape[:2]
    shape, per_group = backward_shape(q), heads // groups
    heads_per_tile = min(shape.rows, launch.next_power_of_2(per_group))
    tokens = shape.rows // heads_per_tile
    items = key_items(plan, shape.keys, tokens, groups)
    result = q.new_zeros(2, cells, groups, channels, dtype=torch.float32)
    if deterministic:
        parts = q.new_empty(len(items), groups, 2, shape.keys, channels, dtype=torch.float32)
    launch.run(
        _key_gradients,
        (len(items), groups),
        q,
        kc,
        vc,
        grad_out,
        lse2,
        row_dot,
        gate,
        items.tile,
        items.first_token,
        items.last_token,
        items.tiles.start,
        items.tiles.stop,
        parts if deterministic else result,
        channels**-0.5,
        channels**-0.5 * math.log2(math.e),
        result.stride(0),
        HEADS=heads,
        GROUPS=groups,
        CHANNELS=channels,
        PADDED=launch.padded_channels(q.shape[2]),
        KEYS=shape.keys,
        ROWS=shape.rows,
        HEADS_PER_TILE=heads_per_tile,
        ATOMIC=not deterministic,
        PRECISION=launch.precision(q.dtype),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    if deterministic:
        launch.run(
            _add_parts,
            (len(items.tiles), 2 * groups, launch.cdiv(shape.keys * channels, ELEMENTS)),
            parts,
            items.cu_items,
            items.tiles.start,
            items.tiles.stop,
            result,
            result.stride(0),
            GROUPS=groups,
            CHANNELS=channels,
            KEYS=shape.keys,
            ELEMENTS=ELEMENTS,
            AT_ONCE=AT_ONCE,
        )
    return result[0], result[1]


@triton.jit
def _key_gradients(
    q,  # [N, HEADS, CHANNELS]
    kc,  # [M, GROUPS, CHANNELS]
    vc,
    grad_out,  # [N, HEADS, CHANNELS]
    lse2,  # [N, HEADS]
    row_dot,  # [N, HEADS]
    gate,  # [N, 3] or None
    tile_of_item,  # [I]
    first_tokens,  # [I]
    last_tokens,  # [I]
    first_cells,  # [tiles]
    last_cells,
    out,  # ATOMIC: [2, M, GROUPS, CHANNELS]; else the parts [I, GROUPS, 2, KEYS, CHANNELS]
    scale,
    scale2,
    value_offset,  # ATOMIC: from gradients of keys to those of values
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS_PER_TILE: tl.constexpr,
    ATOMIC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    PER_GROUP: tl.constexpr = HEADS // GROUPS
    TOKENS: tl.constexpr = ROWS // HEADS_PER_TILE
    HEAD_PARTS: tl.constexpr = (PER_GROUP + HEADS_PER_TILE - 1) // HEADS_PER_TILE
    item, group = tl.program_id(0), tl.program_id(1)
    tile = tl.load(tile_of_item + item)
    first_token, last_token = tl.load(first_tokens + item), tl.load(last_tokens + item)
    first_cell = tl.load(first_cells + tile)
    num_cells = tl.load(last_cells + tile) - first_cell

    key, row, channel = tl.arange(0, KEYS), tl.arange(0, ROWS), tl.arange(0, PADDED)
    real_keys = (key < num_cells)[:, None]
    if PADDED != CHANNELS:
        real_keys = real_keys & (channel < CHANNELS)[None, :]
    key_values = (first_cell + key).to(tl.int64)[:, None] * (GROUPS * CHANNELS) + group * CHANNELS + channel[None, :]
    k = tl.load(kc + key_values, mask=real_keys, other=0.0)
    v = tl.load(vc + key_values, mask=real_keys, other=0.0)
    dk, dv = tl.zeros((KEYS, PADDED), tl.float32), tl.zeros((KEYS, PADDED), tl.float32)

    for part in range(HEAD_PARTS):
        token = row // HEADS_PER_TILE
        head = group * PER_GROUP + part * HEADS_PER_TILE + row % HEADS_PER_TILE
        real_heads = head < (group + 1) * PER_GROUP
        head = tl.minimum(head, HEADS - 1)
        first_row, left = first_token.to(tl.int64), last_token - first_token
        whole = left // TOKENS
        for _ in tl.range(0, whole):
            dk, dv = _meet(
                k, v, dk, dv, q, grad_out, lse2, row_dot, gate, first_row, token, head, channel, real_heads, scale2,
                HEADS, CHANNELS, PADDED, PER_GROUP % HEADS_PER_TILE != 0, PRECISION,
            )  # fmt: skip
            first_row += TOKENS
        left -= whole * TOKENS
        for _ in tl.range(whole, whole + tl.cdiv(left, TOKENS)):
            dk, dv = _meet(
                k, v, dk, dv, q, grad_out, lse2, row_dot, gate, first_row, tl.minimum(token, left - 1), head, channel,
                real_heads & (token < left), scale2, HEADS, CHANNELS, PADDED, True, PRECISION,
            )  # fmt: skip
            first_row += TOKENS
            left -= TOKENS
    dk *= scale

    if ATOMIC:
        tl.atomic_add(out + key_values, dk, mask=real_keys, sem="relaxed")
        tl.atomic_add(out + value_offset + key_values, dv, mask=real_keys, sem="relaxed")
    else:
        to = out + (item.to(tl.int64) * GROUPS + group) * (2 * KEYS * CHANNELS)
        to += key[:, None] * CHANNELS + channel[None, :]
        tl.store(to, dk, mask=real_keys)
        tl.store(to + KEYS * CHANNELS, dv, mask=real_keys)


@triton.jit
def _meet(
    k,  # [KEYS, PADDED]
    v,
    dk,  # [KEYS, PADDED]
    dv,
    q,
    grad_out,
    lse2,
    row_dot,
    gate,
    first_row,  # token row that ``token`` counts from
    token,  # [ROWS]
    head,  # [ROWS]
    channel,  # [PADDED]
    real,  # [ROWS]: the others repeat rows that exist, and count nothing
    scale2,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dk`` (before scaling) and ``dv`` with what one tile of rows adds to them."""
    at = token * HEADS + head
    lse = tl.load(lse2 + first_row * HEADS + at)
    dot = tl.load(row_dot + first_row * HEADS + at)
    values = first_row * (HEADS * CHANNELS) + at[:, None] * CHANNELS + channel[None, :]
    if PADDED == CHANNELS:
        query = tl.load(q + values)
        dout = tl.load(grad_out + values)
    else:
        query = tl.load(q + values, mask=(channel < CHANNELS)[None, :], other=0.0)
        dout = tl.load(grad_out + values, mask=(channel < CHANNELS)[None, :], other=0.0)
    if MASKED:
        lse = tl.where(real, lse, float("inf"))
    weight = tl.exp2(tl.dot(k, tl.trans(query), input_precision=PRECISION) * scale2 - lse[None, :])  # [KEYS, ROWS]
    if gate is not None:
        weight *= tl.load(gate + first_row * 3 + token * 3)[None, :]
    dv = tl.dot(weight.to(dout.dtype), dout, dv, input_precision=PRECISION)
    change = tl.dot(v, tl.trans(dout), input_precision=PRECISION) - dot[None, :]
    dk = tl.dot((weight * change).to(query.dtype), query, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def _add_parts(
    parts,  # [I, GROUPS, 2, KEYS, CHANNELS]
    cu_items,  # [tiles + 1]
    first_cells,  # [tiles]
    last_cells,
    out,  # [2, M, GROUPS, CHANNELS]
    value_offset,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    KEYS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    SIZE: tl.constexpr = GROUPS * 2 * KEYS * CHANNELS
    tile, group, of_value = tl.program_id(0), tl.program_id(1) // 2, tl.program_id(1) % 2
    element = tl.program_id(2) * ELEMENTS + tl.arange(0, ELEMENTS)
    key, channel = element // CHANNELS, element % CHANNELS
    first_cell = tl.load(first_cells + tile)
    real = key < tl.load(last_cells + tile) - first_cell
    first_item = tl.load(cu_items + tile)
    count = tl.load(cu_items + tile + 1) - first_item
    at = parts + first_item.to(tl.int64) * SIZE + tl.program_id(1) * (KEYS * CHANNELS) + element
    total = tl.zeros((AT_ONCE, ELEMENTS), tl.float32)
    for start in tl.range(0, count, AT_ONCE):
        item = start + tl.arange(0, AT_ONCE)
        here = (item < count)[:, None] & real[None, :]
        total += tl.load(at[None, :] + item.to(tl.int64)[:, None] * SIZE, mask=here, other=0.0)
    total = tl.sum(total, 0)
    to = out + of_value.to(tl.int64) * value_offset
    tl.store(to + ((first_cell + key).to(tl.int64) * GROUPS + group) * CHANNELS + channel, total, mask=real)

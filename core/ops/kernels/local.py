"""Attention to chosen blocks and to the window, and the gated sum of all branches, in one kernel.

Letters as in tile_walk; W blocks, I tiles, S blocks chosen per token.

A row keeps a running maximum and a running sum, in base 2. What is left out costs next to nothing per score: rows
that are no members of a piece subtract infinity; past a block's end the last key is repeated, which moves no maximum,
with a zero for its value and in the sum.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch
from core.ops.kernels.tile_walk import (
    ENTRIES,
    LARGEST_KEYS,
    contiguous,
    heads_together,
    load_keys,
    load_rows,
    piece,
    pieces_of,
    store_rows,
    tile_rows,
    tile_shape,
    tile_size,
)
from core.ops.kernels.unions import Unions
from core.ops.tiles import Tiles


@dataclass(frozen=True)
class LocalResult:
    """The sum, and what the backward pass needs: with a gate the two parts, always their log-sum-exps."""

    out: Tensor  # [N, H, D] in the dtype of q, like the parts
    selected: Tensor | None = None  # [N, H, D]
    window: Tensor | None = None  # [N, H, D]
    lse2_selected: Tensor | None = None  # [N, H] float32, base 2; -inf where a token chose nothing
    lse2_window: Tensor | None = None  # [N, H] float32, base 2


def local_tile_size(
    q: Tensor,  # [N, H, D]
    num_key_heads: int,
    selected: bool,
) -> int:
    """T of the tiles that ``local_forward`` takes; ``selected``: with unions."""
    return tile_size(q, num_key_heads, selected)


def local_forward(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    tiles: Tiles,  # of T positions; segments are windows if ``cu_windows`` is given
    order: Tensor | None,  # [N] int32: position -> token; None: the same
    *,
    unions: Unions | None = None,  # of these tiles
    cu_blocks: Tensor | None = None,  # [W + 1] int32: first token of each block, then N
    cu_windows: Tensor | None = None,  # [windows + 1] int32: first position of each window, then N
    coarse: Tensor | None = None,  # [N, H, D] what the cells gave
    gate: Tensor | None = None,  # [N, 3] float32: weights of the cells, the chosen blocks, the window
    keep_parts: bool,
) -> LocalResult:
    """``gate`` times coarse, attention to the chosen blocks and to the own window, summed in float32.

    Without a gate ``out`` is the one branch that is asked for, by ``unions`` or by ``cu_windows``. A token that
    chose nothing gets zeros. ``keep_parts``: return also what the backward pass needs. Tokens that no tile covers
    stay unwritten.
    """
    (n, heads, d), groups, shape = q.shape, k.shape[1], tile_shape(q)
    assert tiles.size == local_tile_size(q, groups, unions is not None), "these tiles were made for another kernel"
    assert k.numel() < LARGEST_KEYS and contiguous(q, k, v, order, coarse, gate), tuple(k.shape)
    assert (gate is None) == (coarse is None) and (gate is not None or (unions is None) != (cu_windows is None))
    together = heads_together(q, groups, shape.rows)

    def kept(branch: object, part_of_sum: bool) -> tuple[Tensor | None, Tensor | None]:
        """Room for a branch's result and log-sum-exp."""
        if branch is None or not keep_parts:
            return None, None
        return torch.empty_like(q) if part_of_sum else None, q.new_empty((n, heads), dtype=torch.float32)

    out = torch.empty_like(q)
    selected, lse2_selected = kept(unions, gate is not None)
    window, lse2_window = kept(cu_windows, gate is not None)
    launch.run(
        _local_forward,
        (len(tiles) * groups, launch.cdiv(heads // groups, together)),
        *(q, k, v, tiles.start, tiles.stop, tiles.segment, order),
        *((None, None, None) if unions is None else (unions.blocks, unions.members, unions.count)),
        *(cu_blocks, cu_windows, coarse, gate),
        *(out, selected, window, lse2_selected, lse2_window),
        len(tiles),
        d**-0.5 * math.log2(math.e),
        G=groups,
        J=heads // groups,
        JP=together,
        D=d,
        DP=launch.padded_channels(d),
        T=tiles.size,
        U=0 if unions is None else unions.blocks.shape[2],
        BK=shape.piece,
        BW=shape.window,
        PRECISION=launch.precision(q.dtype),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return LocalResult(out, selected, window, lse2_selected, lse2_window)


@triton.jit(do_not_specialize=["num_tiles"])
def _local_forward(
    q, k, v, starts, stops, segments, order, blocks, members, counts, cu_blocks, cu_windows, coarse, gate,
    out, selected, window, lse2_selected, lse2_window, num_tiles, scale2,
    G: tl.constexpr, J: tl.constexpr, JP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, T: tl.constexpr,
    U: tl.constexpr, BK: tl.constexpr, BW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // G
    g = tl.program_id(0) % G
    place, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
    query = load_rows(q, row, there, D, DP)
    k += g * D
    v += g * D
    total = tl.zeros((T * JP, DP), tl.float32)
    if blocks is not None:
        entries = (g * num_tiles + tile).to(tl.int64) * U
        count = tl.load(counts + g * num_tiles + tile)
        part, lse2 = _attend_blocks(
            query, k, v, blocks + entries, members + entries, cu_blocks, count, place, scale2,
            G, D, DP, BK, PRECISION,
        )  # fmt: skip
        _, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
        if selected is not None:
            store_rows(selected, row, there, part, D, DP)
        if lse2_selected is not None:
            tl.store(lse2_selected + row, lse2, mask=there)
        if gate is not None:
            part *= tl.load(gate + token * 3 + 1, mask=there, other=0.0)[:, None]
        total += part
    if cu_windows is not None:
        segment = tl.load(segments + tile)
        first = tl.load(cu_windows + segment)
        stop = tl.load(cu_windows + segment + 1)
        part, lse2 = _attend_window(query, k, v, order, first, stop, scale2, G, D, DP, BW, PRECISION)
        _, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
        if window is not None:
            store_rows(window, row, there, part, D, DP)
        if lse2_window is not None:
            tl.store(lse2_window + row, lse2, mask=there)
        if gate is not None:
            part *= tl.load(gate + token * 3 + 2, mask=there, other=0.0)[:, None]
        total += part
    if gate is not None:
        total += tl.load(gate + token * 3, mask=there, other=0.0)[:, None] * load_rows(coarse, row, there, D, DP)
    store_rows(out, row, there, total, D, DP)


@triton.jit
def _attend_blocks(
    query, k, v, blocks, members, cu_blocks, count, place, scale2,
    G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of the rows to the blocks of a union that their tokens chose: values [R, DP], log-sum-exp [R]."""
    highest = tl.full((query.shape[0],), float("-inf"), tl.float32)
    norm = tl.zeros((query.shape[0],), tl.float32)
    acc = tl.zeros((query.shape[0], DP), tl.float32)
    column = tl.arange(0, 2 * BK)
    left = column < BK
    for entry in range(0, count, ENTRIES):
        begins, ends, firsts, stops, chosen = pieces_of(
            blocks, members, cu_blocks, entry + tl.arange(0, ENTRIES), count, BK
        )
        for i in range(0, tl.max(ends, 0), 2):
            first_a, stop_a, who_a = piece(begins, ends, firsts, stops, chosen, i, BK)
            first_b, stop_b, who_b = piece(begins, ends, firsts, stops, chosen, i + 1, BK)
            key = tl.where(left, first_a, first_b - BK) + column
            stop = tl.where(left, stop_a, stop_b)
            last = tl.minimum(key, stop - 1)
            keys = load_keys(k, last, last >= 0, G, D, DP)
            values = load_keys(v, key, key < stop, G, D, DP)
            # 1 or 0 for each key: a saturating subtraction instead of a comparison and a choice.
            length = tl.where(left, (stop_a - first_a).to(tl.float32), (stop_b - first_b + BK).to(tl.float32))
            weight = tl.clamp(length - column.to(tl.float32), 0.0, 1.0)
            member_a = ((who_a >> place) & 1) != 0
            member_b = ((who_b >> place) & 1) != 0
            s = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
            peak_a = tl.max(tl.where(left[None, :], s, float("-inf")), 1) * scale2
            peak_b = tl.max(tl.where(left[None, :], float("-inf"), s), 1) * scale2
            peak = tl.maximum(highest, tl.where(member_a, peak_a, float("-inf")))
            peak = tl.maximum(peak, tl.where(member_b, peak_b, float("-inf")))
            base = tl.where(peak == float("-inf"), 0.0, peak)
            shrink = tl.exp2(highest - base)
            base_a = tl.where(member_a, base, float("inf"))
            base_b = tl.where(member_b, base, float("inf"))
            p = tl.exp2(s * scale2 - tl.where(left[None, :], base_a[:, None], base_b[:, None]))
            norm = norm * shrink + tl.sum(p * weight[None, :], 1)
            acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
            highest = peak
    return _normalised(acc, norm, highest)


@triton.jit
def _attend_window(
    query, k, v, order, first, stop, scale2,
    G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of the rows to the tokens at the positions ``first .. stop - 1`` of ``order``."""
    highest = tl.full((query.shape[0],), float("-inf"), tl.float32)
    norm = tl.zeros((query.shape[0],), tl.float32)
    acc = tl.zeros((query.shape[0], DP), tl.float32)
    for begin in range(first, stop, BW):
        position = begin + tl.arange(0, BW)
        inside = position < stop
        key = tl.minimum(position, stop - 1)
        if order is not None:
            key = tl.load(order + key)
        keys = load_keys(k, key, key >= 0, G, D, DP)
        values = load_keys(v, key, inside, G, D, DP)
        s = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
        peak = tl.maximum(highest, tl.max(s, 1) * scale2)
        shrink = tl.exp2(highest - peak)
        p = tl.exp2(s * scale2 - peak[:, None])
        norm = norm * shrink + tl.sum(p * tl.where(inside, 1.0, 0.0)[None, :], 1)
        acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
        highest = peak
    return _normalised(acc, norm, highest)


@triton.jit
def _normalised(acc, norm, highest):
    """Values and log-sum-exp; zeros and -inf for a row without keys."""
    norm = tl.where(highest == float("-inf"), 1.0, norm)
    return acc / norm[:, None], highest + tl.log2(norm)

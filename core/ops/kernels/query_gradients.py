"""Gradient of the queries through all branches of spatial sparse attention, in one kernel.

Letters as in tile_walk; M cells, W blocks, B samples, I tiles. For one branch, with probabilities p = exp2(s - lse)
recomputed, and u the product of the output's gradient with the values: ``dq = gate * scale * sum of p (u - dot) k``,
where dot is the product of the output's gradient with the branch's result (row_dots). The gate multiplies each
branch's sum, not its terms.

Keys that are not there are zeros: their terms vanish with them, as long as p is finite. It is at most 1 in exact
arithmetic, so its exponent is cut at 0.
"""

import math

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
)
from core.ops.kernels.unions import Unions
from core.ops.tiles import Tiles


def query_gradients(
    q: Tensor,  # [N, H, D]
    k: Tensor | None,  # [N, G, D]
    v: Tensor | None,  # [N, G, D]
    kc: Tensor | None,  # [M, G, D]
    vc: Tensor | None,  # [M, G, D]
    grad_out: Tensor,  # [N, H, D] gradient of the gated sum
    *,
    gate: Tensor | None,  # [N, 3] float32; None: 1
    dots: Tensor,  # [3, N, H] float32, of row_dots
    lse2_coarse: Tensor | None = None,  # [N, H] float32, base 2, like the next two; None: without this branch
    lse2_selected: Tensor | None = None,
    lse2_window: Tensor | None = None,
    unions: Unions | None = None,  # of these tiles
    cu_blocks: Tensor | None = None,  # [W + 1] int32
    cu_windows: Tensor | None = None,  # [windows + 1] int32
    cu_cells: Tensor | None = None,  # [B + 1] int32
    sample_of_tile: Tensor | None = None,  # [I] int32
    tiles: Tiles,  # segments are windows if ``cu_windows`` is given
    order: Tensor | None,  # [N] int32: position -> token; None: the same
) -> Tensor:
    """The gradient of ``q``, in its dtype, through the branches whose log-sum-exp is given.

    Each branch needs its own tables: cells ``cu_cells`` and ``sample_of_tile``, chosen blocks ``unions`` and
    ``cu_blocks``, the window ``cu_windows``. Tiles may have any power of two of positions that makes 16 rows or more.
    """
    heads, d = q.shape[1:]
    keys, cells = k if k is not None else kc, kc if kc is not None else k
    assert keys is not None and cells is not None and max(keys.numel(), cells.numel()) < LARGEST_KEYS
    assert contiguous(q, k, v, kc, vc, grad_out, gate, dots, lse2_coarse, lse2_selected, lse2_window, order)
    groups, shape = keys.shape[1], tile_shape(q)
    together = heads_together(q, groups, shape.rows)
    rows = tiles.size * together
    assert rows >= 16 and rows & (rows - 1) == 0, tiles.size
    dq = torch.empty_like(q)
    launch.run(
        _query_gradients,
        (len(tiles) * groups, launch.cdiv(heads // groups, together)),
        *(q, k, v, kc, vc, grad_out, gate, dots),
        *(lse2_coarse, lse2_selected, lse2_window),
        *((None, None, None) if unions is None else (unions.blocks, unions.members, unions.count)),
        *(cu_blocks, cu_windows, cu_cells, sample_of_tile),
        *(tiles.start, tiles.stop, tiles.segment, order, dq, q.shape[0], len(tiles)),
        d**-0.5,
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
        num_warps=min(8, shape.gradient_warps * max(1, rows // shape.rows)),
        num_stages=shape.stages,
    )
    return dq


@triton.jit(do_not_specialize=["num_tokens", "num_tiles"])
def _query_gradients(
    q, k, v, kc, vc, grad_out, gate, dots, lse2_coarse, lse2_selected, lse2_window, blocks, members, counts,
    cu_blocks, cu_windows, cu_cells, sample_of_tile, starts, stops, segments, order, dq, num_tokens, num_tiles,
    scale, scale2,
    G: tl.constexpr, J: tl.constexpr, JP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, T: tl.constexpr,
    U: tl.constexpr, BK: tl.constexpr, BW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // G
    g = tl.program_id(0) % G
    place, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
    query = load_rows(q, row, there, D, DP)
    grad = load_rows(grad_out, row, there, D, DP)
    branch = num_tokens.to(tl.int64) * (G * J)  # values of ``dots`` of one branch
    total = tl.zeros((T * JP, DP), tl.float32)
    if lse2_selected is not None:
        entries = (g * num_tiles + tile).to(tl.int64) * U
        count = tl.load(counts + g * num_tiles + tile)
        lse2, dot = _row_numbers(lse2_selected, dots + branch, row, there)
        part = _through_blocks(
            query, grad, lse2, dot, k + g * D, v + g * D, blocks + entries, members + entries, cu_blocks, count,
            place, scale2, G, D, DP, BK, PRECISION,
        )  # fmt: skip
        _, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
        total += _gated(part, gate, token, 1, there)
    if lse2_window is not None:
        segment = tl.load(segments + tile)
        first = tl.load(cu_windows + segment)
        stop = tl.load(cu_windows + segment + 1)
        lse2, dot = _row_numbers(lse2_window, dots + branch * 2, row, there)
        part = _through_range(
            query, grad, lse2, dot, k + g * D, v + g * D, order, first, stop, scale2, G, D, DP, BW, PRECISION
        )
        _, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
        total += _gated(part, gate, token, 2, there)
    if lse2_coarse is not None:
        sample = tl.load(sample_of_tile + tile)
        first = tl.load(cu_cells + sample)
        stop = tl.load(cu_cells + sample + 1)
        lse2, dot = _row_numbers(lse2_coarse, dots, row, there)
        part = _through_range(
            query, grad, lse2, dot, kc + g * D, vc + g * D, None, first, stop, scale2, G, D, DP, BW, PRECISION
        )
        _, token, row, there = tile_rows(starts, stops, order, tile, g, tl.program_id(1) * JP, T, J, JP, G)
        total += _gated(part, gate, token, 0, there)
    store_rows(dq, row, there, total * scale, D, DP)


@triton.jit
def _row_numbers(lse2, dots, row, there):
    """Log-sum-exp and dot of each row; without any key, infinity, so that every probability is 0."""
    value = tl.load(lse2 + row, mask=there, other=float("inf"))
    return tl.where(value == float("-inf"), float("inf"), value), tl.load(dots + row, mask=there, other=0.0)


@triton.jit
def _gated(part, gate, token, BRANCH: tl.constexpr, there):
    if gate is not None:
        part *= tl.load(gate + token * 3 + BRANCH, mask=there, other=0.0)[:, None]
    return part


@triton.jit
def _through_blocks(
    query, grad, lse2, dot, k, v, blocks, members, cu_blocks, count, place, scale2,
    G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum of p (u - dot) k over the blocks of a union, for the rows whose token chose them: [R, DP]."""
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
            inside = key < tl.where(left, stop_a, stop_b)
            keys = load_keys(k, key, inside, G, D, DP)
            values = load_keys(v, key, inside, G, D, DP)
            lse2_a = tl.where(((who_a >> place) & 1) != 0, lse2, float("inf"))
            lse2_b = tl.where(((who_b >> place) & 1) != 0, lse2, float("inf"))
            s = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
            u = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
            p = tl.exp2(tl.minimum(s * scale2 - tl.where(left[None, :], lse2_a[:, None], lse2_b[:, None]), 0.0))
            acc = tl.dot((p * (u - dot[:, None])).to(keys.dtype), keys, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _through_range(
    query, grad, lse2, dot, k, v, order, first, stop, scale2,
    G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum of p (u - dot) k over the keys at the positions ``first .. stop - 1`` of ``order``: [R, DP]."""
    acc = tl.zeros((query.shape[0], DP), tl.float32)
    for begin in range(first, stop, BW):
        position = begin + tl.arange(0, BW)
        inside = position < stop
        key = position
        if order is not None:
            key = tl.load(order + position, mask=inside, other=0)
        keys = load_keys(k, key, inside, G, D, DP)
        values = load_keys(v, key, inside, G, D, DP)
        acc = _add_keys(acc, query, grad, lse2, dot, keys, values, scale2, PRECISION)
    return acc


@triton.jit
def _add_keys(acc, query, grad, lse2, dot, keys, values, scale2, PRECISION: tl.constexpr):
    s = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    u = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
    p = tl.exp2(tl.minimum(s * scale2 - lse2[:, None], 0.0))
    return tl.dot((p * (u - dot[:, None])).to(keys.dtype), keys, acc, input_precision=PRECISION)

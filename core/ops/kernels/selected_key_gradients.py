"""Gradients of keys and values from the attention of every token to its selected blocks.

Letters as in core.ops.kernels.key_gradients; W blocks, S selected per token, U = G * W lists, I parts of lists.

The choices are turned around: one sort gives every (key head, block) the list of tokens that chose it, in rising
order. Lists are cut into parts of bounded length, so that a block which everybody chose is the work of many programs.
A program has one part of a list and one tile of the block's keys. It adds to the result directly if the list has one
part; else sums of parts are kept apart and added in order, or added atomically where the order may vary. All sizes
follow from numbers known to the host: nothing is read back.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.block_plan import BlockPlan
from core.ops.kernels import launch
from core.ops.kernels.key_gradients import add_up, constants, key_tile, load_keys, scales

PARTIAL_BYTES = 2**28  # of the sums of parts, at most
SHORTEST_PART = 256  # tokens of a part, at least; less would be cut for nothing
SUMS = 2048  # keys times channels that a program adds up


def selected_key_gradients(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    grad_out: Tensor,  # [N, H, D]
    lse2: Tensor,  # [N, H] float32, base 2, of the attention to the selected blocks
    row_dot: Tensor,  # [N, H] float32: grad_out times that attention's output, summed over channels
    gate: Tensor | None,  # [N, 3] float32: column 1 weights the output
    block_index: Tensor,  # [G, N, S] int32, those of a token distinct; -1 is none
    plan: BlockPlan,
    dk: Tensor,  # [N, G, D] float32, added to
    dv: Tensor,  # [N, G, D] float32, added to
    deterministic: bool = True,
) -> None:
    """Add the gradients of ``k`` and ``v``; the same bits every time if ``deterministic``."""
    groups, channels, num_blocks = k.shape[1], k.shape[2], plan.cu_blocks.shape[0] - 1
    if 0 in block_index.shape:
        return
    largest = plan.memo.get("largest block", lambda: int(plan.cu_blocks.diff().max()))
    row_bytes = 2 * 4 * channels
    needed = 2 * largest * block_index.numel() * row_bytes  # twice what parts of one token would take
    length = max(SHORTEST_PART, launch.cdiv(launch.cdiv(needed, PARTIAL_BYTES), 64) * 64)
    lists = token_lists(block_index, plan, length)
    cut = length < block_index.shape[1]  # else no list has two parts
    rows = 2 * largest * block_index.numel() // length if cut and deterministic else 0
    partial = torch.empty((rows, 2, channels), dtype=torch.float32, device=q.device)
    tile = key_tile(q, groups)
    tiles = launch.cdiv(largest, tile.keys)
    launch.run(
        _selected_key_gradients,
        (lists.list_of_part.shape[0] * tiles,),  # the tiles of a block, which read the same queries, side by side
        q,
        k,
        v,
        grad_out,
        lse2,
        row_dot,
        gate,
        plan.cu_blocks,
        *lists,
        partial,
        dk,
        dv,
        num_blocks,
        tiles,
        *scales(channels),
        K=tile.keys,
        DETERMINISTIC=deterministic,
        **constants(q, groups, tile),
    )
    if rows:
        padded = launch.next_power_of_2(channels)
        keys = max(1, SUMS // padded)
        launch.run(
            _add_parts,
            (groups * num_blocks, launch.cdiv(largest, keys)),
            plan.cu_blocks,
            lists.first_part,
            lists.first_row,
            partial,
            dk,
            dv,
            num_blocks,
            K=keys,
            G=groups,
            D=channels,
            DP=padded,
        )


class Lists(NamedTuple):
    """List ``u`` is of the tokens that chose block ``u % W`` for key head ``u // W``."""

    tokens: Tensor  # [G N S] int32, list by list; those of no list last
    first_token: Tensor  # [U + 1] int32: where each list begins in ``tokens``, then where the last ends
    first_part: Tensor  # [U + 1] int32: parts before each list, then their number
    list_of_part: Tensor  # [I] int32; U past the end: I is a bound
    first_row: Tensor  # [U] int32: rows before each list's, among the sums of parts


def token_lists(
    block_index: Tensor,  # [G, N, S] int32, -1 is none
    plan: BlockPlan,
    length: int,
) -> Lists:
    """Turn the choices around and cut every list into the fewest parts of at most ``length`` tokens."""
    (groups, count, size), device = block_index.shape, block_index.device
    num_blocks = plan.cu_blocks.shape[0] - 1
    num_lists = groups * num_blocks
    short = torch.int16 if num_lists < 2**15 else torch.int32  # half the digits to sort by
    offset = torch.arange(0, num_lists, num_blocks, dtype=torch.int32, device=device)[:, None, None]
    chosen = torch.where(block_index >= 0, block_index + offset, num_lists).to(short)
    ordered, place = torch.sort(chosen.flatten(), stable=True)
    tokens = (place // size % count).int()
    numbers = torch.arange(num_lists + 1, dtype=short, device=device)
    first_token = torch.searchsorted(ordered, numbers, out_int32=True)
    parts = (first_token.diff() + (length - 1)) // length
    ends = parts.cumsum(0, dtype=torch.int32)
    bound = num_lists + block_index.numel() // length
    places = torch.arange(bound, dtype=torch.int32, device=device)
    list_of_part = torch.searchsorted(ends, places, right=True, out_int32=True)
    rows = torch.where(parts > 1, parts * plan.cu_blocks.diff().repeat(groups), 0)
    first_row = rows.cumsum(0, dtype=torch.int32) - rows
    return Lists(tokens, first_token, torch.nn.functional.pad(ends, (1, 0)), list_of_part, first_row)


@triton.jit
def _selected_key_gradients(
    q,
    k,
    v,
    grad_out,
    lse2,
    row_dot,
    gate,
    cu_blocks,
    tokens,
    first_token,
    first_part,
    list_of_part,
    first_row,
    partial,
    dk,
    dv,
    num_blocks,
    tiles,
    scale,
    scale2,
    K: tl.constexpr,
    DETERMINISTIC: tl.constexpr,
    G: tl.constexpr,
    J: tl.constexpr,
    JP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    part, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    here = tl.load(list_of_part + part)
    if here >= G * num_blocks:
        return
    group, block = here // num_blocks, here % num_blocks
    block_start, block_stop = tl.load(cu_blocks + block), tl.load(cu_blocks + block + 1)
    start = block_start + tile * K
    if start >= block_stop:
        return
    row = start + tl.arange(0, K)
    there = row < block_stop
    key = load_keys(k, row.to(tl.int64), there, group, G, D, DP)
    value = load_keys(v, row.to(tl.int64), there, group, G, D, DP)

    part -= tl.load(first_part + here)
    parts = tl.load(first_part + here + 1) - tl.load(first_part + here)
    list_start, list_stop = tl.load(first_token + here), tl.load(first_token + here + 1)
    length = (list_stop - list_start + parts - 1) // parts
    first = list_start + part * length
    last = tl.minimum(first + length, list_stop)
    grad_key, grad_value = add_up(
        q, grad_out, lse2, row_dot, gate, tokens, first, last, key, value, group, scale, scale2,
        1, K, G, J, JP, D, DP, T, PRECISION,
    )  # fmt: skip

    channel = tl.arange(0, DP)
    mask = there[:, None] if D == DP else there[:, None] & (channel < D)[None, :]
    to = (row.to(tl.int64) * G + group)[:, None] * D + channel[None, :]
    if parts == 1:
        tl.store(dk + to, tl.load(dk + to, mask=mask, other=0.0) + grad_key, mask=mask)
        tl.store(dv + to, tl.load(dv + to, mask=mask, other=0.0) + grad_value, mask=mask)
    elif DETERMINISTIC:
        kept = tl.load(first_row + here).to(tl.int64) + part * (block_stop - block_start) + (row - block_start)
        at = kept[:, None] * (2 * D) + channel[None, :]
        tl.store(partial + at, grad_key, mask=mask)
        tl.store(partial + at + D, grad_value, mask=mask)
    else:
        tl.atomic_add(dk + to, grad_key, mask=mask, sem="relaxed")
        tl.atomic_add(dv + to, grad_value, mask=mask, sem="relaxed")


@triton.jit
def _add_parts(
    cu_blocks,
    first_part,
    first_row,
    partial,
    dk,
    dv,
    num_blocks,
    K: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
):
    """Add the sums of a list's parts, if it has several, in order."""
    here = tl.program_id(0)
    parts = tl.load(first_part + here + 1) - tl.load(first_part + here)
    if parts < 2:
        return
    group, block = here // num_blocks, here % num_blocks
    block_start, block_stop = tl.load(cu_blocks + block), tl.load(cu_blocks + block + 1)
    start = block_start + tl.program_id(1) * K
    if start >= block_stop:
        return
    row = start + tl.arange(0, K)
    channel = tl.arange(0, DP)
    mask = (row < block_stop)[:, None] & (channel < D)[None, :]
    at = partial + (tl.load(first_row + here).to(tl.int64) + row - block_start)[:, None] * (2 * D) + channel[None, :]
    grad_key = tl.zeros((K, DP), tl.float32)
    grad_value = tl.zeros((K, DP), tl.float32)
    for _ in range(0, parts):
        grad_key += tl.load(at, mask=mask, other=0.0)
        grad_value += tl.load(at + D, mask=mask, other=0.0)
        at += (block_stop - block_start).to(tl.int64) * (2 * D)
    to = (row.to(tl.int64) * G + group)[:, None] * D + channel[None, :]
    tl.store(dk + to, tl.load(dk + to, mask=mask, other=0.0) + grad_key, mask=mask)
    tl.store(dv + to, tl.load(dv + to, mask=mask, other=0.0) + grad_value, mask=mask)

"""Gradients of keys and values from the attention of every token to its window.

Letters as in core.ops.kernels.key_gradients. A program has a tile of a window's keys and goes through the tokens of
that window. Every key is in one window: its gradient is written once.
"""

import triton
import triton.language as tl
from torch import Tensor

from core.ops.block_plan import WindowPlan
from core.ops.kernels import launch
from core.ops.kernels.key_gradients import add_up, constants, key_tile, load_keys, scales
from core.ops.tiles import make_tiles


def window_key_gradients(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    grad_out: Tensor,  # [N, H, D]
    lse2: Tensor,  # [N, H] float32, base 2, of the attention to the window
    row_dot: Tensor,  # [N, H] float32: grad_out times that attention's output, summed over channels
    gate: Tensor | None,  # [N, 3] float32: column 2 weights the output
    windows: WindowPlan,
    dk: Tensor,  # [N, G, D] float32, written
    dv: Tensor,  # [N, G, D] float32, written
) -> None:
    """Write the gradients of ``k`` and ``v``; the same bits every time."""
    groups = k.shape[1]
    tile = key_tile(q, groups)
    tiles = windows.memo.get(("tiles", tile.keys), lambda: make_tiles(windows.cu_seqlens, tile.keys))
    order = windows.memo.get("order", lambda: windows.order.int())
    launch.run(
        _window_key_gradients,
        (len(tiles), groups),
        q,
        k,
        v,
        grad_out,
        lse2,
        row_dot,
        gate,
        order,
        windows.cu_seqlens,
        tiles.start,
        tiles.stop,
        tiles.segment,
        dk,
        dv,
        *scales(q.shape[2]),
        K=tile.keys,
        **constants(q, groups, tile),
    )


@triton.jit
def _window_key_gradients(
    q,
    k,
    v,
    grad_out,
    lse2,
    row_dot,
    gate,
    order,
    cu_windows,
    starts,
    stops,
    segments,
    dk,
    dv,
    scale,
    scale2,
    K: tl.constexpr,
    G: tl.constexpr,
    J: tl.constexpr,
    JP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    T: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile, group = tl.program_id(0), tl.program_id(1)
    position = tl.load(starts + tile) + tl.arange(0, K)
    there = position < tl.load(stops + tile)
    row = tl.load(order + position, mask=there, other=0).to(tl.int64)
    window = tl.load(segments + tile)
    first, last = tl.load(cu_windows + window), tl.load(cu_windows + window + 1)
    key = load_keys(k, row, there, group, G, D, DP)
    value = load_keys(v, row, there, group, G, D, DP)
    grad_key, grad_value = add_up(
        q, grad_out, lse2, row_dot, gate, order, first, last, key, value, group, scale, scale2,
        2, K, G, J, JP, D, DP, T, PRECISION,
    )  # fmt: skip
    channel = tl.arange(0, DP)
    to = (row * G + group)[:, None] * D + channel[None, :]
    mask = there[:, None] if D == DP else there[:, None] & (channel < D)[None, :]
    tl.store(dk + to, grad_key, mask=mask)
    tl.store(dv + to, grad_value, mask=mask)

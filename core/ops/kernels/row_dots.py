"""For every token and head, the product of a gradient with each branch's result: what softmax gradients subtract.

Letters: N tokens, H query heads (HP: rounded up to a power of two), D channels per head (DP likewise), T tokens of a
program. The gradient of a gate is the sum over the heads of its branch's products, so it comes along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch
from core.ops.kernels.tile_walk import contiguous

VALUES = 4096  # of one tensor, for one program


def row_dots(
    grad_out: Tensor,  # [N, H, D]
    parts: tuple[Tensor | None, Tensor | None, Tensor | None],  # each [N, H, D]: cells, chosen blocks, window
) -> tuple[Tensor, Tensor]:
    """``sum over d of grad_out * part`` for each branch, [3, N, H] float32, and its sum over heads, [N, 3] float32.

    Branches that are None give zeros. The first is what the gradient of scores needs before the gate multiplies it;
    the second is the gradient of the gates.
    """
    assert contiguous(grad_out, *parts)
    n, heads, d = grad_out.shape
    padded = launch.next_power_of_2(heads), launch.next_power_of_2(d)
    tokens = max(1, VALUES // (padded[0] * padded[1]))
    dots = grad_out.new_empty((3, n, heads), dtype=torch.float32)
    gate_gradient = grad_out.new_empty((n, 3), dtype=torch.float32)
    launch.run(
        _row_dots,
        (launch.cdiv(n, tokens),),
        *(grad_out, *parts, dots, gate_gradient, n),
        T=tokens,
        H=heads,
        HP=padded[0],
        D=d,
        DP=padded[1],
        num_warps=4 if padded[0] * padded[1] <= VALUES else 8,
    )
    return dots, gate_gradient


@triton.jit(do_not_specialize=["n"])
def _row_dots(
    grad_out, coarse, selected, window, dots, gate_gradient, n,
    T: tl.constexpr, H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * T + tl.arange(0, T)
    head = tl.arange(0, HP)
    d = tl.arange(0, DP)
    row = token.to(tl.int64)[:, None] * H + head[None, :]
    there = (token < n)[:, None] & (head < H)[None, :]
    place = row[:, :, None] * D + d[None, None, :]
    mask = there[:, :, None] & (d < D)[None, None, :]
    grad = tl.load(grad_out + place, mask=mask, other=0.0).to(tl.float32)
    _one_branch(grad, coarse, dots, gate_gradient, 0, place, mask, row, there, token, n, H)
    _one_branch(grad, selected, dots, gate_gradient, 1, place, mask, row, there, token, n, H)
    _one_branch(grad, window, dots, gate_gradient, 2, place, mask, row, there, token, n, H)


@triton.jit
def _one_branch(
    grad, part, dots, gate_gradient, BRANCH: tl.constexpr, place, mask, row, there, token, n, H: tl.constexpr
):
    if part is not None:
        dot = tl.sum(grad * tl.load(part + place, mask=mask, other=0.0).to(tl.float32), 2)
    else:
        dot = tl.zeros((grad.shape[0], grad.shape[1]), tl.float32)
    tl.store(dots + (row + n.to(tl.int64) * (BRANCH * H)), dot, mask=there)
    tl.store(gate_gradient + token.to(tl.int64) * 3 + BRANCH, tl.sum(dot, 1), mask=token < n)

"""Attention that others make, on inputs of the same width, heads and tokens.

Letters: N tokens, H query heads, G key heads, D channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.bench.parts.shells import Problem

DENSE = {"sdpa_flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def dense_inputs(q: Tensor) -> tuple[Tensor, ...]:
    """q, k, v [1, H, N, D] with ``q`` [N, H, D] as queries and as many random key heads."""
    shape = (1, q.shape[1], q.shape[0], q.shape[2])
    generator = torch.Generator(q.device).manual_seed(8)
    keys = (torch.randn(shape, generator=generator, device=q.device, dtype=q.dtype) for _ in range(2))
    return (q.detach().transpose(0, 1)[None].contiguous(), *keys)


def dense_call(
    backend: SDPBackend,
    q: Tensor,  # [N, H, D]
    grad: Tensor | None,  # [N, H, D]: measure the backward pass alone
) -> Callable[[], object]:
    """Attention of every token to every token."""
    inputs = dense_inputs(q)
    if grad is None:

        def forward() -> Tensor:
            with torch.no_grad(), sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*inputs)

        return forward
    for tensor in inputs:
        tensor.requires_grad_()
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(*inputs)
    upstream = grad.transpose(0, 1)[None].contiguous()
    return lambda: torch.autograd.grad(out, inputs, upstream, retain_graph=True)


def flex_call(problem: Problem) -> tuple[Callable[[], object], Callable[[], object]]:
    """The three branches as FlexAttention has them, and the building of their masks, each to be timed.

    It cannot choose blocks (a mask may not depend on scores) and knows blocks of 128 consecutive tokens only, nearly
    all of which are partly masked here: the choice is given to it, and its time is for attention alone.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend, (tokens, heads, _), groups = torch.compile(flex_attention), problem.q.shape, problem.k.shape[1]
    blocks = problem.plan.cu_blocks.diff().long()
    device = problem.q.device
    block_of_token = torch.arange(len(blocks), device=device).repeat_interleave(blocks, output_size=tokens)
    lengths = problem.windows.cu_seqlens.diff().long()
    window_of_token = torch.empty_like(block_of_token)
    window_of_token[problem.windows.order] = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    selected = torch.zeros(groups, tokens, len(blocks) + 1, dtype=torch.bool, device=device)
    selected.scatter_(2, problem.chosen.long() % (len(blocks) + 1), True)  # -1 is the last column, never looked up
    per_group = heads // groups

    def is_selected(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return selected[h // per_group, query, block_of_token[key]]

    def in_window(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return window_of_token[query] == window_of_token[key]

    def masks() -> tuple[object, object]:
        return (
            create_block_mask(is_selected, None, heads, tokens, tokens, device=device, _compile=True),
            create_block_mask(in_window, None, None, tokens, tokens, device=device, _compile=True),
        )

    q, k, v, kc, vc = (
        x.detach().transpose(0, 1)[None].contiguous() for x in (problem.q, problem.k, problem.v, problem.kc, problem.vc)
    )
    gate = problem.gate.detach().t()[:, None, None, :, None]  # [3, 1, 1, N, 1]
    fine_mask, window_mask = masks()

    @torch.no_grad()
    def call() -> Tensor:
        coarse = attend(q, kc, vc, enable_gqa=True)
        fine = attend(q, k, v, block_mask=fine_mask, enable_gqa=True)
        local = attend(q, k, v, block_mask=window_mask, enable_gqa=True)
        return gate[0] * coarse + gate[1] * fine + gate[2] * local

    return call, masks

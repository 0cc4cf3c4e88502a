"""Euler's method for dx/dt = v(x, t), from noise (t = 1) to data (t = 0)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (x, sigma in 0..1) -> dx/dsigma, the shape and dtype of x
OnStep = Callable[[int, int, Tensor], None]  # (steps done, steps in all, x)


def sample_euler(
    velocity: Velocity,
    x: Tensor,  # any shape: noise at sigmas[0]
    sigmas: Tensor,  # [S + 1] decreasing noise levels
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk ``x`` along ``velocity`` from ``sigmas[0]`` to ``sigmas[-1]``; returns the shape and dtype of ``x``.

    The sum is done in float32 and rounded once to the dtype of ``x``, the product in the velocity's own dtype, as in
    diffusers' FlowMatchEulerDiscreteScheduler. ``on_step`` is called after each step: progress, previews and
    cancelling (by raising) live there.
    """
    levels = sigmas.to("cpu", torch.float32)
    steps = len(levels) - 1
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        change = (following - sigma) * velocity(x, sigma.item())  # a scalar tensor leaves the velocity's dtype alone
        x = (x.to(torch.float32) + change).to(x.dtype)
        if on_step is not None:
            on_step(step, steps, x)
    return x

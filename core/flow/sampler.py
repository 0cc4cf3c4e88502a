"""Methods for dx/dt = v(x, t), from noise (t = 1) to data (t = 0): Euler's, and two of second order.

All of them sum in float32 and round once a step to the dtype of x. ``on_step`` is called after each step: progress,
previews and cancelling (by raising) live there.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (x, sigma in 0..1) -> dx/dsigma, the shape and dtype of x
OnStep = Callable[[int, int, Tensor], None]  # (steps done, steps in all, x)
Solver = Literal["euler", "multistep", "heun"]


class Sampler(Protocol):
    """A walk of ``x`` (any shape) along a velocity, from the first of ``sigmas`` [S + 1] to the last."""

    def __call__(self, velocity: Velocity, x: Tensor, sigmas: Tensor, *, on_step: OnStep | None = None) -> Tensor: ...


def sample_euler(
    velocity: Velocity,
    x: Tensor,  # any shape: noise at sigmas[0]
    sigmas: Tensor,  # [S + 1] decreasing noise levels
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk ``x`` along ``velocity`` from ``sigmas[0]`` to ``sigmas[-1]``; returns the shape and dtype of ``x``.

    The product is done in the velocity's own dtype, as in diffusers' FlowMatchEulerDiscreteScheduler.
    """
    levels = sigmas.to("cpu", torch.float32)
    steps = len(levels) - 1
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        change = (following - sigma) * velocity(x, sigma.item())  # a scalar tensor leaves the velocity's dtype alone
        x = (x.to(torch.float32) + change).to(x.dtype)
        if on_step is not None:
            on_step(step, steps, x)
    return x


def sample_multistep(
    velocity: Velocity,
    x: Tensor,  # any shape
    sigmas: Tensor,  # [S + 1] decreasing
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """The two-step method of Adams and Bashforth on uneven levels: second order for one evaluation a step.

    Over a step h after one of length h_0, the velocity is continued in a straight line through the last two:
    x + h ((1 + r / 2) v - r / 2 v_0), where r = h / h_0. The first step is Euler's.
    """
    levels = sigmas.to("cpu", torch.float32).tolist()
    steps, before, length_before = len(levels) - 1, None, 0.0
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        v, length = velocity(x, sigma).to(torch.float32), following - sigma
        slope = v
        if before is not None:
            half = length / length_before / 2
            slope = (1 + half) * v - half * before
        x = (x.to(torch.float32) + length * slope).to(x.dtype)
        before, length_before = v, length
        if on_step is not None:
            on_step(step, steps, x)
    return x


def sample_heun(
    velocity: Velocity,
    x: Tensor,  # any shape
    sigmas: Tensor,  # [S + 1] decreasing
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Heun's method: the mean of the velocities at both ends of an Euler step; second order, 2 S - 1 evaluations.

    Networks are not asked at noise level 0, where nothing is left to predict (Karras et al., 2022, algorithm 1): a
    step that ends there is Euler's.
    """
    levels = sigmas.to("cpu", torch.float32).tolist()
    steps = len(levels) - 1
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        slope, length, exact = velocity(x, sigma).to(torch.float32), following - sigma, x.to(torch.float32)
        if following > 0:
            ahead = velocity((exact + length * slope).to(x.dtype), following).to(torch.float32)
            slope = (slope + ahead) / 2
        x = (exact + length * slope).to(x.dtype)
        if on_step is not None:
            on_step(step, steps, x)
    return x


SAMPLERS: dict[Solver, Sampler] = {"euler": sample_euler, "multistep": sample_multistep, "heun": sample_heun}

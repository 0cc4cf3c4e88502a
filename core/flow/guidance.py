"""Classifier-free guidance (Ho and Salimans, 2022) as a wrapper of two velocities, or of one that has both.

Two savings are part of it, both off by default and both approximations: guidance inside an interval of noise levels
alone (Kynkäänniemi et al., 2024), with the conditional branch as the velocity outside it; and an unconditional branch
that is evaluated only every so many times (after FasterCache; Lv et al., 2024). In between, what set the two branches
apart is taken from the last time: towards the end of a walk that changes less from step to step than the branch itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.flow.sampler import Velocity

ALWAYS = (0.0, 1.0)  # an interval of noise levels: its lower and upper end, both inside


def is_guided(scale: float) -> bool:
    """Whether ``scale`` needs the unconditional branch: 0 (or less) and 1 do not."""
    return scale > 0 and scale != 1


def guided(
    conditional: Velocity,
    unconditional: Velocity,
    scale: float,
    *,
    interval: tuple[float, float] = ALWAYS,
    every: int = 1,
) -> Velocity:
    """The velocity v_u + scale (v_c - v_u), evaluated in the dtype of the velocities.

    Without guidance (see ``is_guided``) the conditional velocity is returned as it is, and the unconditional one is
    never evaluated.

    Args:
        interval: noise levels with guidance; at others the velocity is v_c.
        every: evaluate v_u at the first, the (1 + every)-th ... guided evaluation; v_c - v_u is that of the last such
            one at the others. The count goes with the function that is returned: make one for each walk.

    Raises:
        ValueError: for an interval that is none, or no evaluation at all.
    """
    if not is_guided(scale):
        return conditional

    def both(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        towards = conditional(x, sigma)
        return towards, unconditional(x, sigma)

    return _guided(conditional, both, scale, interval, every)


def guided_together(
    velocity: Velocity, scale: float, *, interval: tuple[float, float] = ALWAYS, every: int = 1
) -> Velocity:
    """As ``guided``, with one evaluation of both branches for each step.

    ``velocity`` is given every sample twice (along the first axis), all of them and then all again, and must leave
    the second half unconditional. Without guidance, and wherever only v_c is needed, it is given every sample once.
    """
    if not is_guided(scale):
        return velocity

    def both(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        towards, away = velocity(torch.cat([x, x]), sigma).chunk(2)
        return towards, away

    return _guided(velocity, both, scale, interval, every)


def _guided(
    conditional: Velocity,
    both: Callable[[Tensor, float], tuple[Tensor, Tensor]],  # (x, sigma) -> v_c, v_u
    scale: float,
    interval: tuple[float, float],
    every: int,
) -> Velocity:
    low, high = interval
    if not (low <= high and every >= 1):
        raise ValueError(f"interval is {interval} and every is {every}; the one must ascend, the other be positive.")
    guided_evaluations, kept = 0, None

    def velocity(x: Tensor, sigma: float) -> Tensor:
        nonlocal guided_evaluations, kept
        if not low <= sigma <= high:
            return conditional(x, sigma)
        anew = guided_evaluations % every == 0
        guided_evaluations += 1
        if not anew:
            return conditional(x, sigma) + (scale - 1) * kept
        towards, away = both(x, sigma)
        difference = towards - away
        if every > 1:
            kept = difference
        return away + scale * difference

    return velocity

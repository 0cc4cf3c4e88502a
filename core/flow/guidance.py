"""Classifier-free guidance (Ho and Salimans, 2022) as a wrapper of two velocities, or of one that has both."""

import torch
from torch import Tensor

from core.flow.sampler import Velocity


def is_guided(scale: float) -> bool:
    """Whether ``scale`` needs the unconditional branch: 0 (or less) and 1 do not."""
    return scale > 0 and scale != 1


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """The velocity v_u + scale (v_c - v_u), evaluated in the dtype of the velocities.

    Without guidance (see ``is_guided``) the conditional velocity is returned as it is, and the unconditional one is
    never evaluated.
    """
    if not is_guided(scale):
        return conditional

    def velocity(x: Tensor, sigma: float) -> Tensor:
        towards = conditional(x, sigma)
        away = unconditional(x, sigma)
        return away + scale * (towards - away)

    return velocity


def guided_together(velocity: Velocity, scale: float) -> Velocity:
    """As ``guided``, with one evaluation of both branches for each step.

    ``velocity`` is given every sample twice (along the first axis), all of them and then all again, and must leave
    the second half unconditional. Without guidance it is returned as it is, and given every sample once.
    """
    if not is_guided(scale):
        return velocity

    def both(x: Tensor, sigma: float) -> Tensor:
        towards, away = velocity(torch.cat([x, x]), sigma).chunk(2)
        return away + scale * (towards - away)

    return both

"""Times of the rectified flow.

The convention of the whole project: **t = 1 is noise, t = 0 is data**, x_t = (1 - t) x_0 + t noise.
A sampler walks through noise levels ``sigma`` (the same t) from 1 to 0; networks receive 1000 * sigma.

S steps of the sampler.
"""

import numpy as np
import torch
from torch import Tensor

TRAIN_STEPS = 1000  # networks see times in 0..1000
SIGMA_MIN = 1 / TRAIN_STEPS


def shifted(t: Tensor, shift: float) -> Tensor:
    """Move times ``t`` (any shape, 0..1) towards noise by ``shift``: s t / (1 + (s - 1) t); 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def sigmas(steps: int, shift: float) -> Tensor:
    """Noise levels of an Euler walk, as diffusers' FlowMatchEulerDiscreteScheduler spaces them.

    The smallest level is shifted twice there (once when the range is made, once with all the others), so the last
    level before zero is larger than one shift would give; released models are sampled with exactly these values.

    Args:
        steps: number of steps S, at least 1.
        shift: above 1 spends more steps near noise; 1 spaces evenly.

    Returns:
        [S + 1] float32 on the CPU, from 1 down to 0.

    Raises:
        ValueError: for no steps or a shift that is not positive.
    """
    if steps < 1 or not shift > 0:
        raise ValueError(f"steps is {steps} and shift is {shift}; both must be positive.")
    low = shift * SIGMA_MIN / (1 + (shift - 1) * SIGMA_MIN)
    even = torch.from_numpy(np.linspace(1.0, low, steps))  # float64, on the CPU only
    return torch.cat([shifted(even, shift), torch.zeros(1, dtype=torch.float64)]).float()


def timestep(sigma: float) -> float:
    """The time a network receives for noise level ``sigma`` (0..1): a number in 0..1000."""
    return TRAIN_STEPS * sigma


def rounded_timestep(sigma: float, dtype: torch.dtype) -> float:
    """``timestep`` rounded to ``dtype``, as the authors' pipeline does before it embeds the time (float16 there)."""
    return torch.tensor(timestep(sigma), dtype=torch.float32).to(dtype).item()

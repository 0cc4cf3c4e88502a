"""Embeddings of the timestep and of positions on a grid.

Letters: B batch, N positions, C channels.
"""

import math

import torch
from torch import Tensor, nn


class TimestepEmbedder(nn.Module):
    """Sinusoids of the timestep, cosines first, through a two-layer perceptron."""

    num_frequencies = 128
    max_period = 10000.0

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t [B] in 0..1000 -> [B, C], in the dtype of the weights."""
        steps = torch.arange(self.num_frequencies, dtype=torch.float32, device=t.device)
        frequencies = torch.exp(-math.log(self.max_period) * steps / self.num_frequencies)
        angles = t.float()[:, None] * frequencies  # [B, 128]
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.mlp[0].weight.dtype))


class AbsolutePositionEmbedder(nn.Module):
    """Sinusoids of the three coordinates of a grid position, x then y then z; no parameters.

    Each axis has C // 6 frequencies, sines first; what is left of the C channels is zero.
    """

    max_period = 10000.0

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.num_frequencies = width // 3 // 2

    def forward(self, positions: Tensor) -> Tensor:
        """positions [N, 3] in grid cells (need not be whole) -> [N, C] float32."""
        steps = torch.arange(self.num_frequencies, dtype=torch.float32, device=positions.device)
        frequencies = 1.0 / self.max_period ** (steps / self.num_frequencies)
        angles = positions.float()[:, :, None] * frequencies  # [N, 3, F]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # [N, 6 F]
        return torch.nn.functional.pad(waves, (0, self.width - waves.shape[1]))

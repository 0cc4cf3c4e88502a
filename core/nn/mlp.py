"""The feed-forward half of a transformer block.

Letters: C channels.
"""

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers around a GELU (tanh form), each token by itself."""

    def __init__(self, width: int, mlp_ratio: float = 4.0):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        return self.mlp(x)

"""What the encoders put out: a normal distribution for each latent channel, independent of the others.

Letters: N voxels, C latent channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.sparse.tensor import SparseTensor

LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian:
    """Normal distributions with a mean and a log variance each; the log variance is clamped to [-30, 20].

    Args:
        mean: any shape; the first axis is the batch (or the voxels, for sparse latents).
        logvar: the same shape.
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        assert mean.shape == logvar.shape, f"mean {tuple(mean.shape)}, logvar {tuple(logvar.shape)}"
        self.mean = mean
        self.logvar = logvar.clamp(*LOGVAR_RANGE)

    @property
    def std(self) -> Tensor:
        """Standard deviation."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most likely value: the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, differentiable in mean and variance. Noise is made where ``generator`` lives, then moved."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + self.std * noise.to(self.mean)

    def kl(self, dims: tuple[int, ...] | None = None) -> Tensor:
        """Divergence from the standard normal in nats, summed over ``dims`` (default: all but the first axis)."""
        terms = 0.5 * (self.mean.float().square() + self.logvar.float().exp() - 1.0 - self.logvar.float())
        dims = tuple(range(1, terms.ndim)) if dims is None else dims
        return terms.sum(dims) if dims else terms


@dataclass(frozen=True)
class SparsePosterior:
    """A :class:`DiagonalGaussian` over the features of a sparse tensor."""

    distribution: DiagonalGaussian  # [N, C]
    voxels: SparseTensor  # whose coordinates the latents have

    @property
    def mean(self) -> SparseTensor:
        """[N, C]."""
        return self.voxels.replace(self.distribution.mean)

    @property
    def logvar(self) -> SparseTensor:
        """[N, C], clamped."""
        return self.voxels.replace(self.distribution.logvar)

    def mode(self) -> SparseTensor:
        """The most likely latents, [N, C]."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> SparseTensor:
        """One draw, [N, C]."""
        return self.voxels.replace(self.distribution.sample(generator))

    def kl(self) -> Tensor:
        """Divergence from the standard normal in nats, one value per voxel: [N]."""
        return self.distribution.kl()

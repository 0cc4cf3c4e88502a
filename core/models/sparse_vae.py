"""Sparse SDF VAE: signed distances in a narrow band <-> latents on a coarse grid (paper, section 3.1).

Letters: N voxels of the SDF, M latent voxels, L levels, C channels, Z latent channels.
Latents outside are normalised, ``(raw - latent_shift) * latent_scale``; inside they are raw.
"""

from typing import Literal, overload

import torch
from torch import Tensor, nn

from core.config.models import SparseVAEConfig
from core.errors import InputError
from core.models.posterior import SparsePosterior
from core.models.sparse_decoder import OnChunk, SparseDecoder
from core.models.sparse_encoder import SparseEncoder
from core.sparse.tensor import SparseTensor


class SparseSDFVAE(nn.Module):
    """Encoder and decoder with the parameter names of the released weights."""

    def __init__(self, config: SparseVAEConfig) -> None:
        super().__init__()
        levels = len(config.decoder_channels)
        assert len(config.encoder_channels) == levels + 1, "encoder_channels has one entry more than decoder_channels"
        self.config = config
        self.encoder = SparseEncoder(config)
        self.decoder = SparseDecoder(config)

    def encode(self, x: SparseTensor, *, position_scale: float = 1.0) -> SparsePosterior:
        """The posterior of the raw latents [M, Z], M in ascending (batch, x, y, z).

        Args:
            x: signed distances [N, 1] (or [N]) in truncation bands, -1..1, positive outside.
            position_scale: multiplies latent coordinates before the position embedding.

        Raises:
            InputError: without voxels, or for coordinates outside the grid.
        """
        if x.num_voxels == 0:
            raise InputError("there are no voxels to encode: the surface misses the grid.")
        self._check_extent(x, position_scale, self.config.upsampling)
        return self.encoder(x.replace(x.feats.view(x.num_voxels, -1)), position_scale)

    @overload
    def decode(
        self,
        z: SparseTensor,
        *,
        return_feats: Literal[False] = False,
        position_scale: float = 1.0,
        on_chunk: OnChunk | None = None,
        chunk_size: int | None = None,
        memory_budget: int | None = None,
    ) -> SparseTensor: ...

    @overload
    def decode(
        self,
        z: SparseTensor,
        *,
        return_feats: Literal[True],
        position_scale: float = 1.0,
        on_chunk: OnChunk | None = None,
        chunk_size: int | None = None,
        memory_budget: int | None = None,
    ) -> tuple[SparseTensor, SparseTensor]: ...

    def decode(
        self,
        z: SparseTensor,
        *,
        return_feats: bool = False,
        position_scale: float = 1.0,
        on_chunk: OnChunk | None = None,
        chunk_size: int | None = None,
        memory_budget: int | None = None,
    ) -> SparseTensor | tuple[SparseTensor, SparseTensor]:
        """Signed distances on the 8^L descendants of every latent, in the order of the latents.

        Args:
            z: normalised latents [M, Z].
            return_feats: also return the features under the distances, [M * 8^L, C], in the weights' dtype.
            position_scale: multiplies latent coordinates before the position embedding.
            on_chunk: called with (chunks done, chunks in all) after each; raise in it to cancel.
            chunk_size: cubes per axis to decode one after the other; default: the configuration's. More need
                less memory; the values do not change.
            memory_budget: bytes that the convolutions may take, without the result and without gradients: as few
                chunks as that allows, instead of ``chunk_size``. See core.models.decoder_memory.

        Returns:
            Distances [M * 8^L, 1] in -1..1 truncation bands, float32, no voxel twice; with ``return_feats`` a pair.

        Raises:
            InputError: for coordinates outside the grid.
            ConfigError: if no number of chunks stays within the budget.
        """
        assert z.feats.ndim == 2 and z.channels == self.config.latent_channels, (
            f"latents {tuple(z.feats.shape)} for {self.config.latent_channels} channels"
        )
        assert chunk_size is None or memory_budget is None, "either the number of chunks or their memory"
        chunk_size = self.config.chunk_size if chunk_size is None else chunk_size
        assert chunk_size >= 1, f"chunk_size {chunk_size}"
        self._check_extent(z, position_scale, 1)
        raw = z.replace(self.denormalize(z.feats))
        sdf, feats = self.decoder(
            raw,
            chunk_size=chunk_size,
            memory_budget=memory_budget,
            return_feats=return_feats,
            position_scale=position_scale,
            on_chunk=on_chunk,
        )
        return sdf if feats is None else (sdf, feats)

    def forward(
        self, x: SparseTensor, generator: torch.Generator | None = None
    ) -> tuple[SparseTensor, SparsePosterior]:
        """Encode, draw, decode. x [N, 1] -> distances [M * 8^L, 1] and the posterior of the raw latents [M, Z]."""
        posterior = self.encode(x)
        z = posterior.sample(generator)
        return self.decode(z.replace(self.normalize(z.feats))), posterior

    def normalize(
        self,
        z: Tensor,  # [M, Z]
    ) -> Tensor:
        """Raw latents to normalised ones."""
        return (z - z.new_tensor(self.config.latent_shift)) * z.new_tensor(self.config.latent_scale)

    def denormalize(
        self,
        z: Tensor,  # [M, Z]
    ) -> Tensor:
        """Normalised latents to raw ones."""
        return z / z.new_tensor(self.config.latent_scale) + z.new_tensor(self.config.latent_shift)

    def _check_extent(self, x: SparseTensor, position_scale: float, cells_per_latent: int) -> None:
        resolution = round(self.config.resolution * max(1.0, 1.0 / position_scale)) * cells_per_latent
        if max(x.cache.extent) > resolution:
            raise InputError(f"voxels reach {x.cache.extent}, outside the model's grid of side {resolution}.")

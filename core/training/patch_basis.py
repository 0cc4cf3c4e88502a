"""The latent space that the dense VAE is trained towards: principal components of small patches of the field.

A latent cell is told apart by the first components of the distances inside it, all on one scale. So an average of
latents decodes to an average of fields, an error in latents is an error in distance, and large forms have large
numbers: rectified flow settles them first. A VAE left to itself gave latents whose averages mean nothing.

Letters: B samples, R cells per side of the field, r = R / f latent cells per side, f field cells of one per side,
Z components, V = f ** 3.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.data.pool import Pool, loaded_field
from core.files import replacing


@dataclass
class PatchBasis:
    """An orthogonal basis of patches, scaled so that latents have a variance of 1 on average."""

    mean: Tensor  # [V]
    rows: Tensor  # [Z, V]
    factor: int  # f

    @classmethod
    def fit(cls, pool: Pool, channels: int, factor: int, samples: int = 1024) -> "PatchBasis":
        """Principal components of the patches of the pool's first ``samples`` fields."""
        patches = torch.cat([_patches(loaded_field(f), factor).flatten(0, 3) for f in pool.field[:samples].split(64)])
        mean = patches.mean(0)
        centered = patches - mean
        values, vectors = torch.linalg.eigh((centered.T @ centered / len(centered)).cpu())
        top = values.flip(0)[:channels].to(mean.device)
        rows = vectors.flip(1)[:, :channels].T.to(mean.device)
        rows = rows * torch.where(rows.sum(1) < 0, -1.0, 1.0)[:, None]  # the sign of a component is arbitrary
        return cls(mean=mean, rows=rows / top.mean().sqrt(), factor=factor)

    def encode(self, field: Tensor) -> Tensor:
        """Latents [B, Z, r, r, r] of int8 fields [B, R, R, R] as a pool stores them."""
        coefficients = (_patches(loaded_field(field), self.factor) - self.mean) @ self.rows.T
        return coefficients.permute(0, 4, 1, 2, 3).contiguous()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file({"mean": self.mean.cpu().contiguous(), "rows": self.rows.cpu().contiguous()}, partial)

    @classmethod
    def load(cls, path: Path, device: torch.device | str) -> "PatchBasis":
        tensors = load_file(path, device=str(device))
        return cls(mean=tensors["mean"], rows=tensors["rows"], factor=round(len(tensors["mean"]) ** (1 / 3)))


def _patches(field: Tensor, f: int) -> Tensor:
    """[B, R, R, R] -> [B, r, r, r, V]."""
    batch, side = field.shape[0], field.shape[1] // f
    split = field.reshape(batch, side, f, side, f, side, f)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, side, side, side, f**3)

"""Tasks of the starter's second stage: the sparse SDF VAE, and the sparse DiT on its latents.

Letters: B shapes, M latent cells of the batch, Z latent channels, S pixels per side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.config.presets import SparseStageConfig
from core.data.band import band_values, batched, random_crop, surface_cells
from core.data.parts import join_part
from core.data.pool import FIELD_CELLS, Pool, loaded_field
from core.flow.objective import dropped_conditions, sample_times, without_dropped
from core.geometry.coarse_field import cell_voxels, refined_field
from core.models.conditioner import ImageConditioner
from core.models.sparse_dit import SparseDiT
from core.models.sparse_vae import SparseSDFVAE
from core.sparse.coords import block_order, encode_keys
from core.sparse.tensor import SparseTensor
from core.training.dense_tasks import SURFACE_CELLS, augment

REACH = (0.9, 1.5)  # cells: how thick the shell of training cells is, drawn anew for each sample


def sdf_sample(
    pool: Pool, row: int, cells: Tensor, stage: SparseStageConfig, *, join: Callable = join_part
) -> tuple[Tensor, Tensor]:
    """Voxels [M * V, 3] of ``cells`` of one pool sample and their signed distances [M * V]."""
    voxels = cell_voxels(cells, stage.vae.upsampling)
    shape = pool.parts.rows(row, row + 1)
    return voxels, band_values(shape, voxels, stage.resolution, stage.truncation_voxels, join=join)


class SparseVAETask:
    """Reconstruct signed distances on random pieces of shapes: squared error on all voxels that the decoder makes,
    ten times more where the surface is near, and a little KL (paper, section 3.1, adapted)."""

    name = "sparse_vae"

    def __init__(
        self, vae: SparseSDFVAE, pool: Pool, stage: SparseStageConfig, *, crop: int = 10, kl_weight: float = 1e-5,
        join: Callable = join_part,
    ) -> None:  # fmt: skip
        self.vae, self.pool, self.stage, self.crop, self.kl_weight, self.join = vae, pool, stage, crop, kl_weight, join
        self.modules, self.rate = {"sparse_vae": vae}, {"sparse_vae": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        low, high = REACH
        coords, values = [], []
        for row in self.pool.sample(batch, generator).tolist():
            reach = low + (high - low) * torch.rand((), generator=generator).item()
            cells = random_crop(surface_cells(self.pool.field[row], reach), self.crop, generator)
            voxels, sdf = sdf_sample(self.pool, row, cells, self.stage, join=self.join)
            coords.append(voxels)
            values.append(sdf)
        x = SparseTensor(torch.cat(values)[:, None], batched(coords), batch_size=batch)
        posterior = self.vae.encode(x)
        mean, logvar = posterior.mean, posterior.logvar
        noise = torch.randn(mean.feats.shape, generator=generator).to(mean.feats.device)
        latent = mean.replace(mean.feats + torch.exp(0.5 * logvar.feats) * noise)
        out = self.vae.decode(latent.replace(self.vae.normalize(latent.feats)), chunk_size=1)
        target = _lookup(x, out.coords, self.stage.resolution)
        error = (out.feats[:, 0].float() - target).square()
        near = target.abs() < 0.5
        weight = torch.where(near, 1.0, 0.1)
        kl = posterior.kl().mean() / mean.channels
        loss = (weight * error).sum() / weight.sum() + self.kl_weight * kl
        voxel_rms = error[near].mean().sqrt().item() * self.stage.truncation_voxels
        return loss, {"near_rms_voxels": voxel_rms, "kl": kl.item(), "cells": float(mean.num_voxels)}


def _lookup(x: SparseTensor, coords: Tensor, resolution: int) -> Tensor:
    """Values of ``x`` at ``coords``, a permutation of its own coordinates."""
    ordered, order = encode_keys(x.coords, resolution).sort()
    return x.feats[order[torch.searchsorted(ordered, encode_keys(coords, resolution))], 0]


class LatentCache:
    """Latents of whole shapes, encoded when first asked for: of the true field, and of the coarse one refined."""

    def __init__(self, vae: SparseSDFVAE, pool: Pool, stage: SparseStageConfig, *, join: Callable = join_part) -> None:
        self.vae, self.pool, self.stage, self.join = vae.eval(), pool, stage, join
        self.entries: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def get(self, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cells [M, 3], normalised latents [M, Z] true and coarse, the cells' distance [M] to the surface in cells."""
        if row not in self.entries:
            field = self.pool.field[row]
            voxels, sdf = sdf_sample(self.pool, row, surface_cells(field, REACH[1]), self.stage, join=self.join)
            true = self._encode(voxels, sdf)
            factor, truncation = self.stage.vae.upsampling, self.stage.truncation_voxels
            coarse = self._encode(voxels, refined_field(loaded_field(field), FIELD_CELLS, voxels, factor, truncation))
            cells = true.coords[:, 1:].long()
            depth = loaded_field(field[cells.unbind(1)]).abs() * FIELD_CELLS
            self.entries[row] = (cells, true.feats.half(), coarse.feats.half(), depth)
        return self.entries[row]

    def _encode(self, voxels: Tensor, sdf: Tensor) -> SparseTensor:
        mean = self.vae.encode(SparseTensor(sdf[:, None], batched([voxels]))).mean
        return mean.replace(self.vae.normalize(mean.feats.float()))


@torch.no_grad()
def latent_statistics(
    vae: SparseSDFVAE, pool: Pool, stage: SparseStageConfig, rows: list[int], join: Callable
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel scale and shift of the raw latents near the surface, for the VAE's config."""
    picked = []
    for row in rows:
        voxels, sdf = sdf_sample(pool, row, surface_cells(pool.field[row], SURFACE_CELLS), stage, join=join)
        picked.append(vae.encode(SparseTensor(sdf[:, None], batched([voxels]))).mean.feats.float())
    values = torch.cat(picked)
    return tuple((1 / values.std(0).clamp_min(1e-3)).tolist()), tuple(values.mean(0).tolist())


class SparseFlowTask:
    """Sparse DiT: predict the velocity of latents on pieces of shapes, thickened at random, a few cells missing.

    Times go up to the stage's ``start_noise``. Near it the noised data is partly the coarse field's latent: that is
    where the sampler starts from.
    """

    name = "sparse_dit"

    def __init__(
        self, conditioner: ImageConditioner, dit: SparseDiT, pool: Pool, cache: LatentCache, rows: list[int], *,
        crop: int, drop: float = 0.1, floor: float = 0.02,
    ) -> None:  # fmt: skip
        self.conditioner, self.dit, self.pool, self.cache, self.rows = conditioner.eval(), dit, pool, cache, rows
        self.crop, self.drop, self.floor = crop, drop, floor
        self.modules, self.rate = {"sparse_dit": dit}, {"sparse_dit": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        picks = torch.randint(len(self.rows), (batch,), generator=generator).tolist()
        rows = [self.rows[p] for p in picks]
        pieces = [self._piece(row, generator) for row in rows]
        coords = batched([cells for cells, _, _ in pieces])
        order = block_order(coords, self.dit.config.ssa.selection_block)
        clean, coarse = (torch.cat(values)[order].float() for values in list(zip(*pieces, strict=True))[1:])
        x = SparseTensor(clean, coords[order], batch_size=batch)
        with torch.no_grad():
            image = augment(self.pool.image[rows].float() / 255, generator)
            tokens = self.conditioner(image)
        dropped = dropped_conditions(batch, self.drop, generator).to(clean.device)
        start = self.cache.stage.start_noise
        t = (sample_times(batch, "uniform", 1.0, generator).to(clean.device) * start).clamp_min(self.floor)
        blend = torch.rand(batch, generator=generator).to(clean.device) * t / start
        t_cell, blend = t[x.batch_index][:, None], blend[x.batch_index][:, None]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy = (1 - t_cell) * torch.lerp(clean, coarse, blend) + t_cell * noise
        velocity = self.dit(x.replace(noisy), t * 1000, without_dropped(tokens, dropped)).feats.float()
        loss = (velocity - (noisy - clean) / t_cell).square().mean()
        mended = (noisy - t_cell * velocity - clean).square().mean().item()
        return loss, {"mse": mended, "coarse_mse": (coarse - clean).square().mean().item()}

    def _piece(self, row: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Cells [m, 3] of one shape with their true and coarse latents [m, Z]."""
        cells, true, coarse, depth = self.cache.get(row)
        reach = REACH[0] + (REACH[1] - REACH[0]) * torch.rand((), generator=generator).item()
        missing = 0.05 * torch.rand((), generator=generator).item()
        center = cells[torch.randint(len(cells), (1,), generator=generator).to(cells.device)]
        keep = (depth < reach) & ((cells - center).abs() <= self.crop // 2).all(1)
        keep &= (torch.rand(len(depth), generator=generator).to(depth.device) >= missing) | (cells == center).all(1)
        return cells[keep], true[keep], coarse[keep]

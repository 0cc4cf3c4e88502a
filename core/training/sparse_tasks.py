"""Tasks of the starter's second stage: the sparse SDF VAE, and the sparse DiT on its latents.

Letters: B shapes, M latent cells of the batch, Z latent channels, S pixels per side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.config.presets import SparseStageConfig
from core.data.band import band_values, batched, cell_voxels, random_crop, surface_cells
from core.data.parts import Parts, join_part
from core.data.pool import Pool
from core.flow.objective import dropped_conditions, sample_times, without_dropped
from core.models.conditioner import ImageConditioner
from core.models.sparse_dit import SparseDiT
from core.models.sparse_vae import SparseSDFVAE
from core.sparse.coords import block_order
from core.sparse.tensor import SparseTensor
from core.training.dense_tasks import SURFACE_CELLS, augment

REACH = (0.9, 1.5)  # cells: how thick the shell of training cells is, drawn anew for each sample


def _row(parts: Parts, index: int) -> Parts:
    return parts.map(lambda x: x[index : index + 1])


def sdf_sample(
    pool: Pool, row: int, cells: Tensor, stage: SparseStageConfig, *, join: Callable = join_part
) -> tuple[Tensor, Tensor]:
    """Voxels [M * V, 3] of ``cells`` of one pool sample and their signed distances [M * V]."""
    voxels = cell_voxels(cells, stage.vae.upsampling)
    return voxels, band_values(_row(pool.parts, row), voxels, stage.resolution, stage.truncation_voxels, join=join)


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
        kl = 0.5 * (mean.feats.float() ** 2 + logvar.feats.exp() - 1 - logvar.feats).float().mean()
        loss = (weight * error).sum() / weight.sum() + self.kl_weight * kl
        voxel_rms = error[near].mean().sqrt().item() * self.stage.truncation_voxels
        return loss, {"near_rms_voxels": voxel_rms, "kl": kl.item(), "cells": float(mean.num_voxels)}


def _lookup(x: SparseTensor, coords: Tensor, resolution: int) -> Tensor:
    """Values of ``x`` at ``coords``, a permutation of its own coordinates."""
    def keys(c: Tensor) -> Tensor:
        c = c.long()
        return ((c[:, 0] * resolution + c[:, 1]) * resolution + c[:, 2]) * resolution + c[:, 3]

    ordered, order = keys(x.coords).sort()
    return x.feats[order[torch.searchsorted(ordered, keys(coords))], 0]


class LatentCache:
    """Latents of whole shapes, encoded when first asked for."""

    def __init__(self, vae: SparseSDFVAE, pool: Pool, stage: SparseStageConfig, *, join: Callable = join_part) -> None:
        self.vae, self.pool, self.stage, self.join = vae.eval(), pool, stage, join
        self.entries: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def get(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cells [M, 3], raw latents [M, Z] and the cells' distance [M] to the surface, in cells."""
        if row not in self.entries:
            cells = surface_cells(self.pool.field[row], REACH[1])
            voxels, sdf = sdf_sample(self.pool, row, cells, self.stage, join=self.join)
            mean = self.vae.encode(SparseTensor(sdf[:, None], batched([voxels]))).mean
            found = mean.coords[:, 1:].long()
            depth = self.pool.field[row][found.unbind(1)].float().abs() * (3.0 / 127)
            self.entries[row] = (found, mean.feats.float().half(), depth)
        return self.entries[row]

    def statistics(self, rows: list[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel scale and shift of the latents near the surface, for the VAE's config."""
        picked = []
        for row in rows:
            _, latents, depth = self.get(row)
            picked.append(latents[depth < SURFACE_CELLS].float())
        values = torch.cat(picked)
        return tuple((1 / values.std(0).clamp_min(1e-3)).tolist()), tuple(values.mean(0).tolist())


class SparseFlowTask:
    """Sparse DiT: predict clean latents on true cells, thickened at random and with a few cells missing."""

    name = "sparse_dit"

    def __init__(
        self, conditioner: ImageConditioner, dit: SparseDiT, pool: Pool, cache: LatentCache, rows: list[int], *,
        drop: float = 0.1, floor: float = 0.25,
    ) -> None:  # fmt: skip
        self.conditioner, self.dit, self.pool, self.cache, self.rows = conditioner.eval(), dit, pool, cache, rows
        self.drop, self.floor = drop, floor
        self.modules, self.rate = {"sparse_dit": dit}, {"sparse_dit": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        picks = torch.randint(len(self.rows), (batch,), generator=generator).tolist()
        rows = [self.rows[p] for p in picks]
        coords, latents = [], []
        for row in rows:
            cells, values, depth = self.cache.get(row)
            reach = REACH[0] + (REACH[1] - REACH[0]) * torch.rand((), generator=generator).item()
            missing = 0.05 * torch.rand((), generator=generator).item()
            keep = (depth < reach) & (torch.rand(len(depth), generator=generator).to(depth.device) > missing)
            coords.append(cells[keep])
            latents.append(values[keep].float())
        coords4 = batched(coords)
        order = block_order(coords4, self.dit.config.ssa.selection_block)
        clean = self.cache.vae.normalize(torch.cat(latents))[order]
        x = SparseTensor(clean, coords4[order], batch_size=batch)
        with torch.no_grad():
            image = augment(self.pool.image[rows].float() / 255, generator)
            tokens = self.conditioner(image)
        dropped = dropped_conditions(batch, self.drop, generator).to(clean.device)
        t = sample_times(batch, "uniform", 1.0, generator).to(clean.device)
        per_cell = t[x.batch_index][:, None]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy = x.replace((1 - per_cell) * clean + per_cell * noise)
        out = self.dit(noisy, t * 1000, without_dropped(tokens, dropped)).feats.float()
        error = (out - clean).square().mean(1)
        weight = 1 / per_cell[:, 0].clamp_min(self.floor)
        late = per_cell[:, 0] > 0.8
        at_noise = error[late].mean().item() if late.any() else error.mean().item()
        return (weight * error).mean() / weight.mean(), {"mse_late": at_noise, "mse": error.mean().item()}

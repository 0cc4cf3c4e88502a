"""A pool of training samples on disk: pictures, coarse fields and the solids they were made from.

A shard is one safetensors file, written whole (temporary name, then renamed), so that an interrupted run
keeps what it finished. Shard k of a seed is always the same: a pool can be extended or rebuilt anywhere.

Letters: n samples of a shard, S pixels per side, R cells per side of the coarse field, P parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.data.families import LEFT_OUT, TRAINED, make_shape
from core.data.parts import SKIP, Parts, distance, join_part, normalized, pack
from core.data.render import on_white, random_views, render
from core.files import replacing

MAX_PARTS = 16
FIELD_CELLS = 3.0  # the coarse field is clipped at this many cells
_STEPS = 127  # of the stored field, from 0 to the clipping


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """What a pool holds. ``left_out`` draws from the families that are never trained on."""

    seed: int = 0
    image_size: int = 112
    field_resolution: int = 32
    shard_size: int = 4096
    batch: int = 32
    left_out: bool = False


def cell_centers(resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """World coordinates of the cells of a coarse grid over [-1, 1], [R ** 3, 3], x slowest."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def coarse_field(parts: Parts, resolution: int, *, join: Callable = join_part) -> Tensor:
    """Signed distance at cell centres in units of a cell, clipped and divided to [-1, 1]: [B, R, R, R]."""
    centers = cell_centers(resolution, parts.center.device)
    d = distance(centers.expand(len(parts), -1, -1), parts, join=join) * resolution / 2
    return (d / FIELD_CELLS).clamp(-1, 1).view(-1, resolution, resolution, resolution)


def stored_field(field: Tensor) -> Tensor:
    """A coarse field in -1..1 as the int8 that a pool keeps."""
    return (field * _STEPS).round().to(torch.int8)


def loaded_field(field: Tensor) -> Tensor:
    """The coarse field in -1..1 that an int8 of a pool stands for."""
    return field.float() / _STEPS


def draw_shapes(count: int, seed: int, *, left_out: bool = False) -> tuple[Parts, Tensor]:
    """``count`` normalised shapes and their family numbers [count], reproducible from ``seed``."""
    rng = np.random.default_rng(seed)
    names = list(LEFT_OUT if left_out else TRAINED)
    family = rng.permutation(np.arange(count) % len(names))
    return normalized(pack([make_shape(names[f], rng) for f in family], MAX_PARTS)), torch.from_numpy(family)


def make_shard(
    config: PoolConfig, index: int, device: torch.device | str, *, join: Callable = join_part
) -> dict[str, Tensor]:
    """Samples of shard ``index``: ``image`` [n, 3, S, S] uint8 on white, ``field`` [n, R, R, R] int8,
    ``family`` [n] and one tensor per field of ``Parts``. Shapes that came out empty are dropped."""
    seed = config.seed * 1_000_003 + index
    shapes, family = draw_shapes(config.shard_size, seed, left_out=config.left_out)
    order = (shapes.op != SKIP).sum(1).argsort(stable=True)  # equal part counts share a batch
    shapes, family = shapes.map(lambda x: x[order]), family[order]
    generator = torch.Generator().manual_seed(seed)
    pictures, grids, keep = [], [], []
    for start in range(0, config.shard_size, config.batch):
        batch = shapes.rows(start, start + config.batch).to(device).trimmed()
        views = random_views(len(batch), generator).to(device)
        rgba = render(batch, views, config.image_size, join=join)
        field = coarse_field(batch, config.field_resolution, join=join)
        solid = (field < 0.05).flatten(1).sum(1) > 12
        visible = (rgba[:, 3] > 0.5).flatten(1).float().mean(1) > 0.02
        keep.append((solid & visible).cpu())
        pictures.append((on_white(rgba) * 255).round().to(torch.uint8).cpu())
        grids.append(stored_field(field).cpu())
    kept = torch.cat(keep)
    shard = {f.name: getattr(shapes, f.name)[kept].contiguous() for f in fields(Parts)}
    return shard | {"image": torch.cat(pictures)[kept], "field": torch.cat(grids)[kept], "family": family[kept]}


def build_pool(
    folder: Path, shards: int, config: PoolConfig, device: torch.device | str, *, join: Callable = join_part
) -> Iterator[int]:
    """Make the shards that ``folder`` lacks, yielding the number of each one finished."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        path = shard_path(folder, index)
        if not path.exists():
            shard = make_shard(config, index, device, join=join)
            with replacing(path) as partial:
                save_file(shard, partial)
        yield index


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard_{index:04d}.safetensors"


@dataclass
class Pool:
    """Shards in memory (or on the device), sampled at random."""

    image: Tensor  # [N, 3, S, S] uint8
    field: Tensor  # [N, R, R, R] int8
    parts: Parts  # of all N samples

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", limit: int | None = None) -> "Pool":
        """Load every finished shard of ``folder`` (at most ``limit``)."""
        paths = sorted(folder.glob("shard_*.safetensors"))[:limit]
        assert paths, f"no shards in {folder}"
        shards = [load_file(p) for p in paths]
        merged = {key: torch.cat([s.pop(key) for s in shards]) for key in list(shards[0])}
        parts = Parts(**{f.name: merged[f.name] for f in fields(Parts)})
        return cls(image=merged["image"].to(device), field=merged["field"].to(device), parts=parts.to(device))

    def __len__(self) -> int:
        return self.image.shape[0]

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Row numbers [batch] of random samples."""
        rows = torch.randint(len(self), (batch,), generator=generator)
        return rows.to(self.image.device)

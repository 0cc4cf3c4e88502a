"""A tiny pool of training samples and the tiny preset's tasks on it: every phase in seconds."""

from dataclasses import fields, replace

import torch

from core.config.training import LoopConfig, Recipe
from core.data.parts import Parts
from core.data.pool import Pool, PoolConfig, make_shard
from tests.support.tiny_presets import TINY

_DENSE_VAE = replace(TINY.dense.vae, in_channels=2, out_channels=2)
TINY_STARTER = replace(TINY, name="tiny-starter", dense=replace(TINY.dense, vae=_DENSE_VAE))
_FEW = LoopConfig(steps=2, batch=2, learning_rate=1e-3, autocast=False, save_every_s=1e9)
QUICK = Recipe(
    shards=1, shard_size=6, pool_batch=6, dense_vae=_FEW, dense_regression=_FEW, dense_dit=_FEW, sparse_vae=_FEW,
    sparse_dit=_FEW, draws=2, sparse_crop=8, sparse_shapes=3,
)  # fmt: skip


def tiny_pool(count: int = 4) -> Pool:
    """``count`` samples of the sizes that the tiny preset wants."""
    size, cells = TINY.conditioner.image_size, TINY.dense.resolution
    config = PoolConfig(image_size=size, field_resolution=cells, shard_size=count, batch=count)
    shard = make_shard(config, 0, "cpu")
    parts = Parts(**{f.name: shard[f.name] for f in fields(Parts)})
    return Pool(image=shard["image"], field=shard["field"], parts=parts)


def seeded(make, seed: int = 0):
    """``make()`` with torch's own generator seeded, for equal initial weights."""
    torch.manual_seed(seed)
    return make()

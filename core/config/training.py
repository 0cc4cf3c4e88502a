"""How the starter preset is trained: its phases, and the sizes of a run. Loads no torch."""

from dataclasses import dataclass

PHASES = ("pool", "dense_vae", "dense_regression", "dense_dit", "sparse_vae", "sparse_dit")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length and step size of one phase. The learning rate rises over ``warmup`` and falls to zero at the end."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    save_every_s: float = 60.0
    log_every: int = 25
    autocast: bool = True  # bfloat16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes of a run. The numbers are steps of the loop and samples of a step."""

    shards: int
    shard_size: int
    pool_batch: int
    dense_vae: LoopConfig
    dense_regression: LoopConfig
    dense_dit: LoopConfig
    sparse_vae: LoopConfig
    sparse_dit: LoopConfig
    draws: int  # noises per encoded picture
    sparse_crop: int  # side of the pieces of shapes that the sparse DiT is trained on, in cells
    sparse_shapes: int  # whole shapes kept as latents for the sparse DiT


RECIPES = {
    "cpu": Recipe(  # about two hours of two cores
        shards=12,
        shard_size=2048,
        pool_batch=32,
        dense_vae=LoopConfig(steps=800, batch=8, learning_rate=1.5e-3, ema=0.995),
        dense_regression=LoopConfig(steps=1600, batch=32, learning_rate=1e-3, ema=0.998, warmup=200),
        dense_dit=LoopConfig(steps=1700, batch=16, learning_rate=6e-4, ema=0.995),
        sparse_vae=LoopConfig(steps=1800, batch=2, learning_rate=6e-4, ema=0.995, autocast=False),
        sparse_dit=LoopConfig(steps=450, batch=2, learning_rate=1e-3, ema=0.995, autocast=False),
        draws=3,
        sparse_crop=18,
        sparse_shapes=600,
    ),
    "gpu": Recipe(  # about twenty minutes of an H200
        shards=72,
        shard_size=4096,
        pool_batch=512,
        dense_vae=LoopConfig(steps=4000, batch=64, learning_rate=1e-3, ema=0.999),
        dense_regression=LoopConfig(steps=8000, batch=512, learning_rate=6e-4, ema=0.999, warmup=500),
        dense_dit=LoopConfig(steps=8000, batch=256, learning_rate=5e-4, ema=0.9995, warmup=500),
        sparse_vae=LoopConfig(steps=4000, batch=8, learning_rate=1e-3, ema=0.999),
        sparse_dit=LoopConfig(steps=6000, batch=16, learning_rate=5e-4, ema=0.999),
        draws=4,
        sparse_crop=32,
        sparse_shapes=6000,
    ),
    "tiny": Recipe(  # seconds: shows that the whole path runs
        shards=1,
        shard_size=24,
        pool_batch=12,
        dense_vae=LoopConfig(steps=2, batch=2, learning_rate=1e-3, autocast=False),
        dense_regression=LoopConfig(steps=2, batch=2, learning_rate=1e-3, autocast=False),
        dense_dit=LoopConfig(steps=2, batch=2, learning_rate=1e-3, autocast=False),
        sparse_vae=LoopConfig(steps=2, batch=1, learning_rate=1e-3, autocast=False),
        sparse_dit=LoopConfig(steps=2, batch=1, learning_rate=1e-3, autocast=False),
        draws=2,
        sparse_crop=8,
        sparse_shapes=3,
    ),
}

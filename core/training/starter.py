"""The starter preset's training, phase by phase: pool, dense VAE, regression, dense DiT, sparse VAE, sparse DiT.

Every phase resumes from the run folder, and a finished one leaves its networks as weights of the preset in
``<run>/starter``. Phases depend only on the weights of those before them, so they may run on several machines.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoints.load import load_network
from core.checkpoints.store import save_network
from core.config.presets import STARTER, ModelPreset
from core.config.training import PHASES, LoopConfig, Recipe
from core.data.parts import compiled_join, join_part
from core.data.pool import Pool, PoolConfig, build_pool
from core.errors import ConfigError
from core.models.registry import build
from core.training.dense_tasks import DenseFlowTask, DenseRegressionTask, DenseVAETask
from core.training.loop import Task, run
from core.training.patch_basis import PatchBasis
from core.training.sparse_tasks import LatentCache, SparseFlowTask, SparseVAETask
from core.training.sparse_tasks import latent_statistics as sparse_statistics


@dataclass
class StarterTraining:
    """One run of the recipe in one folder.

    Args:
        folder: the run folder; the pool is ``<folder>/pool`` unless given.
        device: where networks and pool live.
        compile: fuse the distance evaluation (needs a C++ compiler on a CPU, Triton on a GPU).
        report: called with each log line, a dictionary fit for JSON.
    """

    folder: Path
    recipe: Recipe
    device: torch.device
    seed: int = 0
    compile: bool = True
    pool_folder: Path | None = None
    preset: ModelPreset = STARTER
    report: Callable[[dict[str, Any]], None] = lambda line: None

    def run(self, phases: tuple[str, ...], seconds: float = math.inf) -> bool:
        """Run ``phases`` in order. True when all are finished, False when the time is up.

        Raises:
            ConfigError: for an unknown phase, or one whose predecessors are not finished.
        """
        if unknown := set(phases) - set(PHASES):
            raise ConfigError(f"there is no phase {', '.join(sorted(unknown))}. Known: {', '.join(PHASES)}.")
        end = time.monotonic() + seconds
        return all(getattr(self, f"_{phase}")(end - time.monotonic()) for phase in PHASES if phase in phases)

    @property
    def weights(self) -> Path:
        """Folder of the finished networks, laid out as a preset's."""
        return self.folder / self.preset.name

    def _join(self) -> Callable:
        return compiled_join() if self.compile else join_part

    def _pool(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        config = PoolConfig(
            seed=self.seed,
            image_size=self.preset.conditioner.image_size,
            field_resolution=self.preset.dense.resolution,
            shard_size=self.recipe.shard_size,
            batch=self.recipe.pool_batch,
        )
        for index in build_pool(self._pool_path(), self.recipe.shards, config, self.device, join=self._join()):
            self.report({"task": "pool", "step": index + 1, "steps": self.recipe.shards})
            if time.monotonic() > end:
                return index + 1 == self.recipe.shards
        return True

    def _pool_path(self) -> Path:
        return self.pool_folder or self.folder / "pool"

    def _load_pool(self) -> Pool:
        if not any(self._pool_path().glob("shard_*.safetensors")):
            raise ConfigError(f"there is no training data in {self._pool_path()}. Run the phase 'pool' first.")
        pool = Pool.load(self._pool_path(), self.device, limit=self.recipe.shards)
        found = (pool.image.shape[-1], pool.field.shape[-1])
        if found != (wanted := (self.preset.conditioner.image_size, self.preset.dense.resolution)):
            raise ConfigError(
                f"{self._pool_path()} has pictures of {found[0]} pixels and fields of {found[1]} cells, "
                f"this preset needs {wanted[0]} and {wanted[1]}. Use another --pool."
            )
        return pool

    def _dense_vae(self, seconds: float) -> bool:
        pool, vae = self._load_pool(), self._new("dense_vae")
        factor = self.preset.dense.resolution // self.preset.dense.dit.resolution
        basis = PatchBasis.fit(pool, self.preset.dense.vae.latent_channels, factor)
        basis.save(self._basis_path())
        if not self._train(DenseVAETask(vae, pool, basis), self.recipe.dense_vae, seconds):
            return False
        self._save("dense_vae", vae, vae.config)
        return True

    def _basis_path(self) -> Path:
        return self.folder / "patch_basis.safetensors"

    def _basis(self) -> PatchBasis:
        if not self._basis_path().exists():
            raise ConfigError(f"{self._basis_path()} does not exist yet. Run the phase 'dense_vae' first.")
        return PatchBasis.load(self._basis_path(), self.device)

    def _dense_regression(self, seconds: float) -> bool:
        pool, basis = self._load_pool(), self._basis()
        task = DenseRegressionTask(self._new("conditioner"), self._new("dense_dit"), basis, pool)
        done = self._train(task, self.recipe.dense_regression, seconds)
        self._save("conditioner", task.conditioner, self.preset.conditioner)
        if not (self.folder / "dense_dit.state.pt").exists():
            self._save("dense_dit", task.dit, self.preset.dense.dit)
        return done

    def _dense_dit(self, seconds: float) -> bool:
        pool, basis = self._load_pool(), self._basis()
        dit = self._finished("dense_dit").requires_grad_(True)
        task = DenseFlowTask(
            self._finished("conditioner"), dit, basis, pool,
            shift=self.preset.dense.sampling.shift, noise_scale=self.preset.dense.sampling.noise_scale,
            draws=self.recipe.draws,
        )  # fmt: skip
        done = self._train(task, self.recipe.dense_dit, seconds)
        self._save("dense_dit", dit, self.preset.dense.dit)
        return done

    def _sparse_vae(self, seconds: float) -> bool:
        stage, pool = self.preset.sparse[0], self._load_pool()
        name = f"sparse_vae_{stage.resolution}"
        vae = self._new(name)
        if not self._train(SparseVAETask(vae, pool, stage, join=self._join()), self.recipe.sparse_vae, seconds):
            return False
        rows = list(range(min(32, len(pool))))
        scale, shift = sparse_statistics(vae, pool, stage, rows, self._join())
        self._save(name, vae, replace(vae.config, latent_scale=scale, latent_shift=shift))
        return True

    def _sparse_dit(self, seconds: float) -> bool:
        stage, pool = self.preset.sparse[0], self._load_pool()
        cache = LatentCache(self._finished(f"sparse_vae_{stage.resolution}"), pool, stage, join=self._join())
        rows = list(range(min(self.recipe.sparse_shapes, len(pool))))
        name = f"sparse_dit_{stage.resolution}"
        conditioner, crop = self._finished("conditioner"), self.recipe.sparse_crop
        task = SparseFlowTask(conditioner, self._new(name), pool, cache, rows, crop=crop)
        done = self._train(task, self.recipe.sparse_dit, seconds)
        self._save(name, task.dit, stage.dit)
        return done

    def _train(self, task: Task, config: LoopConfig, seconds: float) -> bool:
        return run(task, config, self.folder, seed=self.seed, seconds=seconds, report=self.report)

    def _new(self, name: str) -> nn.Module:
        torch.manual_seed(self.seed)
        return build(self.preset.networks()[name]).to(self.device)

    def _finished(self, name: str) -> nn.Module:
        path = self.weights / f"{name}.safetensors"
        if not path.exists():
            raise ConfigError(f"{path} does not exist yet. Finish the phase that makes it first.")
        return load_network(path, device=self.device).requires_grad_(False)

    def _save(self, name: str, module: nn.Module, config: Any) -> None:
        about = {"trained_by": "core.cli.train_starter", "seed": self.seed}
        save_network(self.weights / f"{name}.safetensors", module, config, torch.float16, about=about)

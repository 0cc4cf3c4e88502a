"""Every task of the starter on a tiny pool: gradients reach what is trained, and nothing else."""

import pytest
import torch

from core.config.training import LoopConfig
from core.data.band import batched, surface_cells
from core.data.parts import join_part
from core.data.pool import Pool
from core.models.registry import build
from core.sparse.tensor import SparseTensor
from core.training.dense_tasks import (
    SURFACE_CELLS,
    DenseFlowTask,
    DenseRegressionTask,
    DenseVAETask,
    augment,
    structure_channels,
)
from core.training.loop import run
from core.training.patch_basis import PatchBasis
from core.training.sparse_tasks import LatentCache, SparseFlowTask, SparseVAETask, latent_statistics, sdf_sample
from tests.support.tiny_presets import TINY
from tests.support.training import TINY_STARTER, seeded, tiny_pool

STAGE = TINY.sparse[0]


@pytest.fixture(scope="module")
def pool() -> Pool:
    return tiny_pool()


def network(name: str) -> torch.nn.Module:
    return seeded(lambda: build(TINY_STARTER.networks()[name]))


def basis(pool: Pool) -> PatchBasis:
    return PatchBasis.fit(pool, TINY.dense.vae.latent_channels, TINY.dense.resolution // TINY.dense.dit.resolution)


def dense_vae(pool: Pool) -> DenseVAETask:
    return DenseVAETask(network("dense_vae"), pool, basis(pool))


def regression(pool: Pool) -> DenseRegressionTask:
    return DenseRegressionTask(network("conditioner"), network("dense_dit"), basis(pool), pool)


def dense_flow(pool: Pool) -> DenseFlowTask:
    conditioner = network("conditioner").requires_grad_(False)
    return DenseFlowTask(conditioner, network("dense_dit"), basis(pool), pool, shift=4.0, noise_scale=1.0, draws=2)


def sparse_vae(pool: Pool) -> SparseVAETask:
    return SparseVAETask(network("sparse_vae_32"), pool, STAGE, crop=6)


def sparse_flow(pool: Pool) -> SparseFlowTask:
    conditioner, vae = (network(name).requires_grad_(False) for name in ("conditioner", "sparse_vae_32"))
    cache = LatentCache(vae, pool, STAGE)
    return SparseFlowTask(conditioner, network("sparse_dit_32"), pool, cache, [0, 1], crop=8)


TASKS = [dense_vae, regression, dense_flow, sparse_vae, sparse_flow]


@pytest.mark.parametrize("make", TASKS)
def test_gradients_reach_all_that_is_trained(make, pool):
    task = make(pool)
    for module in task.modules.values():
        for parameter in module.parameters():  # open what training starts from zero
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(3):
        loss, numbers = task.loss(2, generator, 0.5)
        assert loss.ndim == 0 and torch.isfinite(loss)
        assert all(isinstance(value, float) for value in numbers.values())
        total = total + loss
    total.backward()
    without = {n for m in task.modules.values() for n, p in m.named_parameters() if p.grad is None}
    assert not {name for name in without if "mask_token" not in name and "layernorm" not in name}
    assert task.modules.keys() == task.rate.keys()


@pytest.mark.parametrize("make", TASKS)
def test_a_generator_repeats_the_loss(make, pool):
    task = make(pool)
    first, second, other = (task.loss(2, torch.Generator().manual_seed(seed), 0.0)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("make", [dense_vae, regression, sparse_vae])
def test_a_cut_run_of_a_task_goes_on_to_the_same_bits(make, pool, tmp_path):
    config = LoopConfig(steps=3, batch=2, learning_rate=1e-3, autocast=False, save_every_s=1e9)
    whole = make(pool)
    assert run(whole, config, tmp_path / "whole", seed=1)
    for finished in (False, False, True):
        cut = make(pool)
        assert run(cut, config, tmp_path / "cut", seed=1, seconds=0) is finished
    for name, module in whole.modules.items():
        other = cut.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())


def test_the_dense_vae_overfits_one_shape(pool, tmp_path):
    one = Pool(image=pool.image[:1], field=pool.field[:1], parts=pool.parts.map(lambda x: x[:1]))
    lines = []
    config = LoopConfig(steps=150, batch=2, learning_rate=1e-2, warmup=5, autocast=False, log_every=10)
    run(DenseVAETask(network("dense_vae"), one, basis(pool), noise=0.0), config, tmp_path, seed=0, report=lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"] / 5


def test_structure_channels():
    field = torch.tensor([-127, -30, 0, 30, 127], dtype=torch.int8).view(1, 5, 1, 1)
    surface, distance = structure_channels(field)[0]
    assert surface.flatten().tolist() == [0, 1, 1, 1, 0]  # nearer than 1.1 of 3 cells
    torch.testing.assert_close(distance.flatten(), torch.tensor([0, 97 / 254, 0.5, 157 / 254, 1]))


def test_sparse_latent_statistics_bring_latents_near_the_surface_to_unit_size(pool):
    vae = network("sparse_vae_32").requires_grad_(False)
    scale, shift = latent_statistics(vae, pool, STAGE, [0], join_part)
    voxels, sdf = sdf_sample(pool, 0, surface_cells(pool.field[0], SURFACE_CELLS), STAGE)
    latents = vae.encode(SparseTensor(sdf[:, None], batched([voxels]))).mean.feats
    unit = (latents - torch.tensor(shift)) * torch.tensor(scale)
    torch.testing.assert_close(unit.mean(0), torch.zeros(len(shift)), rtol=0, atol=1e-4)
    torch.testing.assert_close(unit.std(0), torch.ones(len(scale)), rtol=0, atol=1e-4)


def test_augmenting_keeps_the_white_background_and_the_range():
    image = torch.rand(4, 3, 16, 16)
    image[..., :8, :] = 1.0
    changed = augment(image, torch.Generator().manual_seed(0))
    assert changed.shape == image.shape and changed.amin() >= 0 and changed.amax() <= 1
    assert (changed[..., :7, :] == 1).all()  # one row less: blur mixes across the border
    assert ((changed - image)[..., 8:, :].abs().mean((1, 2, 3)) > 0.005).all()


def test_the_latent_cache_encodes_a_shape_once(pool):
    calls = []

    def counting(*args):
        calls.append(1)
        return join_part(*args)

    cache = LatentCache(network("sparse_vae_32"), pool, STAGE, join=counting)
    cells, true, coarse, depth = cache.get(0)
    count = len(calls)
    assert count and cache.get(0)[1] is true and len(calls) == count
    assert len(cells) == len(true) == len(coarse) == len(depth) and true.shape[1] == STAGE.vae.latent_channels
    assert (depth < 1.5 + 3 / 127).all() and cells.unique(dim=0).shape == cells.shape

"""The table of needs, held to the bytes that live while the stages run, counted on the CPU at reduced widths."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.load import build_unfilled
from core.config import stages as names
from core.config.presets import PRESETS, STARTER, V1_0, V1_1
from core.models.registry import build
from core.pipeline import stages
from core.pipeline.memory_table import Machine, stage_needs, weight_bytes
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor
from tests.support.live_memory import LiveMemory
from tests.support.tiny_presets import TINY_REFINED

CPU = Machine("cpu", torch.float32, kernels=False)
FIRST = STARTER.sparse[0]


def quiet(done, total):
    pass


def narrow(stage):
    """A sparse stage of the release at a quarter of its width, on a grid of 32."""
    ssa = replace(stage.dit.ssa, num_heads=8)
    dit = replace(stage.dit, resolution=32, width=256, cond_width=192, num_blocks=1, num_cross_heads=8, ssa=ssa)
    return replace(stage, dit=dit)


def shell(side: int, count: int) -> torch.Tensor:
    """Cells [count, 4] nearest to a sphere, in the order of attention."""
    axis = torch.arange(side)
    cells = torch.cartesian_prod(axis, axis, axis)
    order = ((cells - (side - 1) / 2).float().norm(dim=1) - 0.45 * side).abs().argsort(stable=True)[:count]
    return sort_into_blocks(torch.nn.functional.pad(cells[order], (1, 0)).int(), 8)


def need(preset, stage: str, tokens=None, batch=1):
    tokens = tokens or {side: 100 for side in preset.resolutions}
    return next(need for need in stage_needs(preset, CPU, tokens, batch) if need.stage == stage)


@torch.inference_mode()
def live(run) -> int:
    """The most bytes alive at once of what ``run`` makes."""
    with LiveMemory() as memory:
        run()
    return memory.peak


@pytest.mark.parametrize("batch", [1, 2])
def test_image(batch):
    network, size = build(STARTER.conditioner).eval(), STARTER.conditioner.image_size
    counted = live(lambda: network(torch.rand(batch, 3, size, size)))
    assert counted <= need(STARTER, names.IMAGE, batch=batch).work <= 2 * counted


@pytest.mark.parametrize("batch", [1, 10])  # both branches of guidance at once, and one after the other
def test_structure(batch):
    dense = STARTER.dense
    dit, vae = build(dense.dit).eval(), build(dense.vae).eval()
    noise, cond = torch.randn(stages.structure_noise_shape(dense, batch)), torch.randn(batch, 69, 192)
    sampling = replace(dense.sampling, steps=2)

    def run():
        stages.decode_structure(vae, stages.sample_structure(dit, cond, noise, sampling, quiet), dense)

    counted = live(run)
    assert counted <= need(STARTER, names.STRUCTURE, batch=batch).work <= 2 * counted


@pytest.mark.parametrize("count", [800, 2500])
@pytest.mark.parametrize("stage", [narrow(V1_1.sparse[0]), narrow(V1_0.sparse[0])], ids=["v1.1", "v1.0"])
def test_detail(stage, count):
    dit, coords = build(stage.dit).eval(), shell(32, count)
    cond = torch.randn(1, 69, 192)
    if stage.dit.sparse_conditions:
        cond = SparseTensor(cond[0], torch.zeros(69, 4).int(), batch_size=1)
    sampling = replace(stage.sampling, steps=1)

    def run():
        noise = SparseTensor(torch.randn(count, 16), coords, batch_size=1)
        stages.sample_detail(dit, cond, noise, sampling, quiet)

    counted = live(run)
    preset = replace(STARTER, sparse=(stage,))
    assert counted <= need(preset, names.detail(512), {512: count}).work <= 2 * counted


@pytest.mark.parametrize("preset", [STARTER, TINY_REFINED], ids=["starter", "with features"])
def test_decode(preset):
    stage = preset.sparse[0]
    side, count = stage.vae.resolution, min(1200, stage.vae.resolution**3)
    vae, coords = build(stage.vae).eval(), shell(side, count)

    def run():
        latent = SparseTensor(torch.randn(count, stage.vae.latent_channels), coords, batch_size=1)
        stages.decode_field(vae, latent, stage, quiet, 1 << 30)

    counted = live(run)
    assert counted <= need(preset, names.decode(stage.resolution), {s: count for s in preset.resolutions}).work
    assert need(preset, names.decode(stage.resolution), {s: count for s in preset.resolutions}).work <= 4 * counted


def test_weights_are_as_many_as_the_release_has():
    counted = {  # millions, from the authors' modules
        "dense_vae": 193.04, "dense_dit": 559.74, "sparse_vae_512": 37.87, "sparse_vae_1024": 37.87,
        "sparse_dit_512": 509.29, "sparse_dit_1024": 509.29, "refiner_512": 134.74, "refiner_1024": 134.71,
    }  # fmt: skip
    configs = V1_1.networks()
    for name, millions in counted.items():
        assert weight_bytes(configs[name], torch.float32) / 4e6 == pytest.approx(millions, abs=0.006)
        assert 2e6 * millions < weight_bytes(configs[name], torch.bfloat16) < 2.02e6 * millions


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_the_image_encoder_is_counted_without_building_it(preset):
    numbers = sum(value.numel() for value in build_unfilled(preset.conditioner).state_dict().values())
    assert weight_bytes(preset.conditioner, torch.bfloat16) == 4 * numbers


def test_more_tokens_need_more():
    for machine in (CPU, Machine("cuda", torch.bfloat16, kernels=True)):
        few, many = (stage_needs(V1_1, machine, {512: count, 1024: 4 * count}) for count in (5_000, 20_000))
        for small, large in zip(few, many, strict=True):
            assert small.least <= small.work and large.least <= large.work
            assert (large.work > small.work) == (small.stage not in (names.IMAGE, names.STRUCTURE))

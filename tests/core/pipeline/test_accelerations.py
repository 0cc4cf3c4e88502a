"""The approximate options in the stages: off they change no bit, on they are what a walk written out by hand gives."""

from dataclasses import replace

import pytest
import torch

from core.config.generation import GenerationOptions
from core.config.presets import SamplingConfig
from core.errors import ConfigError
from core.flow.schedule import sigmas
from core.ops import ssa
from core.ops.kept_blocks import KeptBlocks
from core.pipeline import stages
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor
from tests.support.tiny_presets import TINY_TWO

SPARSE = SamplingConfig(steps=5, shift=2.0, guidance=3.0)


def no_report(done: int, total: int) -> None:
    pass


@pytest.fixture
def detail(stores):
    """The second sparse stage (64 voxels, so that tokens have blocks to choose from): network, condition, noise."""
    picked = torch.cartesian_prod(*[torch.arange(16)] * 3)[torch.randperm(4096)[:160]]
    coords = sort_into_blocks(torch.nn.functional.pad(picked, (1, 0)).int(), 8)
    dit = stores["tiny-two"].get("sparse_dit_64")
    return dit, torch.randn(1, 9, 16), SparseTensor(3 * torch.randn(160, 4), coords, batch_size=1)


def sampled(detail, sampling, **how):
    dit, cond, noise = detail
    with torch.inference_mode():
        return stages.sample_detail(dit, cond, noise, sampling, no_report, **how).feats


def by_hand(detail, sampling, choose_at=None, guided_at=lambda sigma: True):
    """Euler's walk; ``choose_at`` names the steps in which blocks are chosen (None: kept nowhere)."""
    dit, cond, noise = detail
    x, kept = noise.feats, {branch: [KeptBlocks() for _ in dit.blocks] for branch in (True, False)}
    levels = sigmas(sampling.steps, sampling.shift)
    with torch.inference_mode():
        for step in range(sampling.steps):
            sigma = levels[step].item()
            v = {}
            for branch in (True, False):
                how = () if choose_at is None else (kept[branch], step in choose_at)
                tokens = cond if branch else cond[:0]
                v[branch] = dit(noise.replace(x), torch.full((1,), 1000 * sigma), tokens, *how).feats
            velocity = v[False] + sampling.guidance * (v[True] - v[False]) if guided_at(sigma) else v[True]
            x = x + (levels[step + 1] - levels[step]) * velocity
    return x


def test_with_everything_off_no_bit_changes(detail):
    assert torch.equal(sampled(detail, SPARSE), by_hand(detail, SPARSE))
    explicit = replace(
        SPARSE, solver="euler", guided_from=1.0, guided_until=0.0, unconditional_every=1, selection_every=1
    )
    assert explicit == SPARSE


@pytest.mark.parametrize("every, choose_at", [(2, (0, 2, 4)), (3, (0, 3)), (100, (0,))])
def test_blocks_are_chosen_every_so_many_evaluations_by_each_branch(detail, monkeypatch, every, choose_at):
    expected, exact = by_hand(detail, SPARSE, choose_at), by_hand(detail, SPARSE)
    runs, select = [], ssa.select_blocks
    monkeypatch.setattr(ssa, "select_blocks", lambda *a: runs.append(1) or select(*a))
    ours = sampled(detail, replace(SPARSE, selection_every=every))
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, exact), "the choices were the same: nothing was tried"
    assert len(runs) == 2 * len(detail[0].blocks) * len(choose_at)


def test_guidance_inside_an_interval(detail):
    levels = sigmas(SPARSE.steps, SPARSE.shift).tolist()
    expected = by_hand(detail, SPARSE, guided_at=lambda sigma: 0.4 <= sigma <= 0.9)
    assert 0 < sum(0.4 <= level <= 0.9 for level in levels[:-1]) < SPARSE.steps
    ours = sampled(detail, replace(SPARSE, guided_from=0.9, guided_until=0.4))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "change, conditional, unconditional",
    [
        ({}, 4, 4),
        ({"unconditional_every": 2}, 4, 2),
        ({"guided_from": 0.8}, 4, 3),
        ({"guided_until": 0.9}, 4, 1),
        ({"solver": "multistep"}, 4, 4),
        ({"solver": "heun"}, 7, 7),
        ({"solver": "heun", "unconditional_every": 3}, 7, 3),
        ({"selection_every": 2}, 4, 4),  # which the dense stage has no use for
    ],
)
def test_evaluations_of_the_dense_stage(stores, monkeypatch, together, change, conditional, unconditional):
    stage, dit = TINY_TWO.dense, stores["tiny-two"].get("dense_dit")
    sampling = SamplingConfig(steps=4, shift=1.0, guidance=2.0, prediction="sample", **change)
    noise, cond = torch.randn(stages.structure_noise_shape(stage, 1)), torch.randn(1, 9, 16)
    samples = {True: 0, False: 0}

    def count(_, arguments):
        x, _, tokens = arguments
        samples[True] += len(tokens)
        samples[False] += len(x) - len(tokens)

    monkeypatch.setattr(stages, "TOGETHER_TOKENS", {"cpu": 100 if together else 0})
    handle = dit.register_forward_pre_hook(count)
    with torch.inference_mode():
        end = stages.sample_structure(dit, cond, noise, sampling, no_report)
    handle.remove()
    assert samples == {True: conditional, False: unconditional} and end.isfinite().all()


def test_without_a_gpu_graphs_make_no_difference(detail):
    """Every evaluation that would be a graph of its own is a call."""
    sampling = replace(SPARSE, selection_every=2, unconditional_every=2, solver="multistep", guided_until=0.3)
    assert torch.equal(*(sampled(detail, sampling, cuda_graphs=graphs) for graphs in (True, False)))


def test_an_interval_without_a_level_is_refused():
    text = "guided_until is 0.7 and guided_from is 0.4; guidance runs from a noise level down to a lower one"
    with pytest.raises(ConfigError, match=text):
        GenerationOptions(guided_from=0.4, guided_until=0.7)
    GenerationOptions(guided_from=0.5, guided_until=0.5)


@pytest.mark.parametrize("options, words", [
    ({"solver": "rk45"}, "solver is 'rk45'; it must be one of euler, multistep, heun"),
    ({"unconditional_every": 0}, "unconditional_every is 0; it must be between 1 and 100"),
    ({"selection_every": 1.5}, "selection_every is 1.5; it must be a whole number"),
    ({"guided_from": 1.5}, "guided_from is 1.5; it must be between 0.0 and 1.0"),
])  # fmt: skip
def test_bad_values_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        GenerationOptions(**options)

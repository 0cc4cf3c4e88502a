"""Stages on their own: batches, guidance, times, noise."""

from dataclasses import replace

import pytest
import torch

from core.config.presets import SamplingConfig
from core.pipeline import stages
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor, concat
from tests.support.tiny_presets import TINY


def no_report(done: int, total: int) -> None:
    pass


def test_latents_are_float16_as_in_the_release_or_float32():
    assert stages.latent_dtype(torch.float16) is torch.float16
    assert stages.latent_dtype(torch.bfloat16) is torch.float32
    assert stages.latent_dtype(torch.float32) is torch.float32


def test_noise_is_that_of_the_seed_in_every_dtype():
    draws = [
        stages.draw_noise((5, 3), torch.Generator().manual_seed(4), torch.device("cpu"), dtype)
        for dtype in (torch.float32, torch.float16)
    ]
    assert torch.equal(draws[0].half(), draws[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_networks_receive_times_rounded_to_the_latents_dtype(dtype):
    seen = []

    def predict(x, t, conditional):
        seen.append((t.tolist(), conditional))
        return torch.zeros_like(x)

    sampling = SamplingConfig(steps=3, shift=6.0, guidance=7.0)
    stages.sample_latent(predict, torch.zeros(2, 4, dtype=dtype), 2, sampling, no_report)
    assert [conditional for _, conditional in seen] == [True, False] * 3
    times = [t for t, _ in seen][::2]
    assert times[0] == [1000.0, 1000.0]
    assert all(t == torch.tensor(t).to(dtype).float().tolist() for t in times)


def test_a_perfect_prediction_is_reached_and_noise_scaled():
    clean = torch.randn(4, 3)
    seen = []

    def predict(x, t, conditional):
        seen.append(x.clone())
        return clean

    sampling = SamplingConfig(steps=4, shift=6.0, guidance=1.0, prediction="sample", noise_scale=0.5)
    noise = torch.randn(4, 3)
    out = stages.sample_latent(predict, noise, 1, sampling, no_report)
    torch.testing.assert_close(out, clean)
    torch.testing.assert_close(seen[0], 0.5 * noise)
    assert len(seen) == 4  # guidance 1: the unconditional branch is not evaluated


def test_a_dense_batch_equals_its_samples(stores):
    store, stage = stores["tiny"], TINY.dense
    noise = torch.randn(stages.structure_noise_shape(stage, 2))
    cond = torch.randn(2, 9, 16)
    with torch.inference_mode():
        dit = store.get("dense_dit")
        both = stages.sample_structure(dit, cond, noise, stage.sampling, no_report)
        each = [stages.sample_structure(dit, cond[b, None], noise[b, None], stage.sampling, no_report) for b in (0, 1)]
        torch.testing.assert_close(both, torch.cat(each), atol=1e-5, rtol=1e-4)
        probability, field = stages.decode_structure(store.get("dense_vae"), both, stage)
    assert probability.shape == (2, 8, 8, 8) and probability.min() >= 0 and probability.max() <= 1
    assert field is None


@pytest.mark.parametrize("tokens", [0, 16], ids=["branch by branch", "together"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_unconditional_branch_is_that_of_zeros(stores, monkeypatch, guidance, tokens):
    """The walk it is held to is given tokens of zeros, as the release does it."""
    store, stage = stores["tiny"], TINY.dense
    dit, sampling = store.get("dense_dit"), replace(stage.sampling, guidance=guidance)
    noise, cond = torch.randn(stages.structure_noise_shape(stage, 2)), torch.randn(2, 9, 16)
    given = {True: cond, False: torch.zeros_like(cond)}
    batches = []
    handle = dit.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
    monkeypatch.setattr(stages, "TOGETHER_TOKENS", {"cpu": tokens})  # the batch has 2 samples of 8
    with torch.inference_mode():
        ours = stages.sample_structure(dit, cond, noise, sampling, no_report)
        handle.remove()
        theirs = stages.sample_latent(lambda x, t, c: dit(x, t, given[c]), noise, 2, sampling, no_report)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    per_step = [2] if guidance == 1 else [4] if tokens else [2, 2]
    assert batches == per_step * sampling.steps


def test_a_walk_may_start_from_coarse_data():
    noise, coarse = torch.randn(4, 3), torch.randn(4, 3)
    seen = []

    def predict(x, t, conditional):
        seen.append((x.clone(), t.item()))
        return torch.zeros_like(x)

    sampling = SamplingConfig(steps=3, shift=1.0, guidance=1.0)
    out = stages.sample_latent(predict, noise, 1, sampling, no_report, coarse=coarse, start=0.25)
    torch.testing.assert_close(seen[0][0], 0.75 * coarse + 0.25 * noise)
    assert [t for _, t in seen][0] == 250.0 and all(t <= 250 for _, t in seen)
    torch.testing.assert_close(out, seen[0][0])  # no velocity, no move


def test_the_latent_of_a_coarse_field_is_in_the_order_of_the_cells(stores):
    store = stores["tiny-coarse"]
    stage, vae = store.preset.sparse[0], store.get("sparse_vae_32")
    picked = torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512)[:30]]
    coords = torch.nn.functional.pad(picked, (1, 0)).int()
    field = torch.rand(8, 8, 8) * 2 - 1
    with torch.inference_mode():
        one = stages.coarse_latent(vae, field, 3.0, coords, stage)
        turned = torch.randperm(30)
        other = stages.coarse_latent(vae, field, 3.0, coords[turned], stage)
    torch.testing.assert_close(one[turned], other, atol=1e-5, rtol=1e-4)
    assert one.shape == (30, 4) and one.std(0).min() > 0


def test_a_sparse_batch_equals_its_samples(stores):
    store, stage = stores["tiny"], TINY.sparse[0]
    samples = []
    for count in (40, 25):
        picked = torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512)[:count]]
        coords = sort_into_blocks(torch.nn.functional.pad(picked, (1, 0)).int(), 8)
        samples.append(SparseTensor(torch.randn(count, 4), coords))
    cond = torch.randn(2, 9, 16)
    with torch.inference_mode():
        dit, vae = store.get("sparse_dit_32"), store.get("sparse_vae_32")
        both = stages.sample_detail(dit, cond, concat(samples), stage.sampling, no_report)
        each = [stages.sample_detail(dit, cond[b, None], samples[b], stage.sampling, no_report).feats for b in (0, 1)]
        torch.testing.assert_close(both.feats, torch.cat(each), atol=1e-4, rtol=1e-3)
        sdf, feats = stages.decode_field(vae, both, stage, no_report)
    assert sdf.feats.shape == (65 * 64, 1) and feats is None

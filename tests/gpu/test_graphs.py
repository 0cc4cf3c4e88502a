"""CUDA graphs of whole evaluations: the same walk as without, one recording for each branch, and memory given back."""

import logging
from dataclasses import replace

import pytest
import torch

from core.config.presets import SamplingConfig
from core.models.dense_dit import DenseDiT
from core.models.sparse_dit import SparseDiT
from core.ops.backend import Backend, backend_for
from core.pipeline import stages
from core.pipeline.graphs import GraphedPredict, replayed
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor
from tests.support.tiny_presets import TINY

pytestmark = pytest.mark.gpu
SAMPLING = SamplingConfig(steps=5, shift=3.0, guidance=3.0)


@pytest.fixture
def device() -> torch.device:
    """Any index, not only the current one."""
    return torch.device("cuda", torch.cuda.device_count() - 1)


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    """A recording that fails is logged, and the walk is right all the same: here it must not fail."""
    with caplog.at_level(logging.WARNING, logger="core.pipeline.graphs"):
        yield caplog


def no_report(done: int, total: int) -> None:
    pass


def opened(network, device, dtype):
    """On the device, with gates and last layer that are not zero; counts its evaluations in Python."""
    for module in (m for m in network.modules() if isinstance(m, torch.nn.Linear)):
        torch.nn.init.normal_(module.weight, std=0.1)
    network = network.to(device, dtype).eval()
    network.evaluations = 0

    def count(module, *_):
        module.evaluations += 1

    network.register_forward_hook(count)
    return network


def walks(network, walk):
    """The end of a walk with graphs and of one without, and how often Python ran the network in each."""
    ends, counts = [], []
    for enabled in (True, False):
        network.evaluations = 0
        with torch.inference_mode():
            ends.append(walk(enabled))
        counts.append(network.evaluations)
    return ends, counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dense_stage(device, dtype, no_warnings):
    dit = opened(DenseDiT(TINY.dense.dit), device, dtype)
    noise = torch.randn(stages.structure_noise_shape(TINY.dense, 2), device=device)
    cond = torch.randn(2, 9, TINY.dense.dit.cond_width, device=device, dtype=dtype)
    (ours, theirs), counts = walks(
        dit, lambda on: stages.sample_structure(dit, cond, noise, SAMPLING, no_report, cuda_graphs=on)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert counts == [2, SAMPLING.steps] and not no_warnings.records  # once as it is, once recorded


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sparse_stage(device, dtype, every, no_warnings):
    """Evaluations that choose blocks and those that reuse them are graphs of their own; the choice is outside both."""
    sampling = replace(SAMPLING, steps=8, selection_every=every)
    assert backend_for("spatial_sparse_attention", device) is Backend.TRITON
    dit = opened(SparseDiT(TINY.sparse[0].dit), device, dtype)
    picked = torch.unique(torch.randint(0, 24, (700, 3)), dim=0)
    coords = sort_into_blocks(torch.nn.functional.pad(picked, (1, 0)).int(), 8).to(device)
    noise = torch.randn(len(coords), 4, device=device)
    cond = torch.randn(1, 9, TINY.sparse[0].dit.cond_width, device=device, dtype=dtype)

    def walk(on: bool) -> torch.Tensor:
        start = SparseTensor(noise, coords, batch_size=1)  # a cache of its own for each walk
        return stages.sample_detail(dit, cond, start, sampling, no_report, cuda_graphs=on).feats

    (ours, theirs), counts = walks(dit, walk)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert counts == [(8 if every > 1 else 4), 2 * sampling.steps] and not no_warnings.records


def test_time_and_latent_are_read_anew_and_answers_are_kept(device):
    weight = torch.randn(8, 8, device=device)

    def predict(x, t, conditional):
        return (x @ weight) * t[:, None] + conditional

    with torch.inference_mode(), replayed(predict, device) as evaluate:
        assert isinstance(evaluate, GraphedPredict)
        for conditional in (True, False):
            inputs = [(torch.randn(2, 8, device=device), torch.rand(2, device=device)) for _ in range(5)]
            answers = [evaluate(x, t, conditional) for x, t in inputs]
            for answer, (x, t) in zip(answers, inputs, strict=True):
                torch.testing.assert_close(answer, predict(x, t, conditional))


def test_what_cannot_be_recorded_runs_as_it_is(device, no_warnings):
    def waits(x, t, conditional):
        return x * t.sum().item()  # the host needs the value

    before = torch.cuda.current_stream(device)
    x, t = torch.randn(4, device=device), torch.tensor([3.0], device=device)
    with torch.inference_mode(), replayed(waits, device) as evaluate:
        for _ in range(4):
            torch.testing.assert_close(evaluate(x, t, True), 3 * x)
    assert len(no_warnings.records) == 1
    assert torch.cuda.current_stream(device) == before
    torch.testing.assert_close((x + 1).sum().cpu(), (x.cpu() + 1).sum())  # the device works on


def test_memory_is_given_back(device):
    big = torch.randn(4096, 1024, device=device)

    def predict(x, t, conditional):
        return ((big + x) * t + 1).relu().sum(0)  # 16 MB for each operation

    def run() -> int:
        with torch.inference_mode(), replayed(predict, device) as evaluate:
            for _ in range(3):
                evaluate(torch.zeros(1024, device=device), torch.ones(1, device=device), True)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(device)

    assert run() == run()

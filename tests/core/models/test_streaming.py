"""Blocks that come from the host one by one: the same numbers, and two blocks of memory."""

from dataclasses import replace

import pytest
import torch

from core.config.presets import V1_1
from core.models.registry import build
from core.models.streaming import slots_for, stream_blocks
from core.pipeline.memory_table import streamed_bytes, weight_bytes
from core.pipeline.stages import sample_detail
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor

DENSE = replace(V1_1.dense.dit, resolution=4, width=32, cond_width=16, num_heads=2)
SSA = replace(V1_1.sparse[0].dit.ssa, num_heads=2)
SPARSE = replace(V1_1.sparse[0].dit, resolution=16, width=32, cond_width=16, num_cross_heads=2, ssa=SSA)


def quiet(done, total):
    pass


def network(config):
    torch.manual_seed(3)
    made = build(config).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5])
@torch.inference_mode()
def test_every_evaluation_gives_the_same_numbers(blocks):
    config = replace(DENSE, num_blocks=blocks)
    plain, streamed = network(config), stream_blocks(network(config), "cpu")
    x, t, cond = torch.randn(2, 8, 4, 4, 4), torch.tensor([900.0, 3.0]), torch.randn(2, 5, 16)
    for _ in range(3):  # the last block's slot is followed by the first's
        expected = plain(x, t, cond)
        assert torch.equal(streamed(x, t, cond), expected)
        x = expected


@torch.inference_mode()
def test_a_sparse_network_walks_the_same_way():
    config = replace(SPARSE, num_blocks=3)
    coords = torch.nn.functional.pad(torch.cartesian_prod(*[torch.arange(10)] * 3), (1, 0)).int()
    noise = SparseTensor(torch.randn(1000, 16), sort_into_blocks(coords, 8), batch_size=1)
    sampling = replace(V1_1.sparse[0].sampling, steps=2)
    results = [
        sample_detail(dit, torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)), noise, sampling, quiet)
        for dit in (network(config), stream_blocks(network(config), "cpu"))
    ]
    assert torch.equal(results[0].feats, results[1].feats)


@pytest.mark.parametrize("blocks", [1, 2, 5, 24])
def test_what_is_on_the_device_is_what_the_table_says(blocks):
    config = replace(DENSE, num_blocks=blocks)
    streamed = stream_blocks(network(config), "cpu")
    inside = {id(parameter) for block in streamed.blocks for parameter in block.parameters()}
    rest = sum(x.nbytes for x in (*streamed.parameters(), *streamed.buffers()) if id(x) not in inside)
    slots = streamed.block_stream._slots
    assert len(slots) == slots_for(blocks)
    assert streamed_bytes(config, torch.float32) <= rest + slots.nbytes < 1.1 * streamed_bytes(config, torch.float32)
    assert blocks < 4 or streamed_bytes(config, torch.float32) < weight_bytes(config, torch.float32)


def test_blocks_of_different_kinds_are_no_stream():
    made = network(replace(DENSE, num_blocks=2))
    made.blocks[1].mlp = torch.nn.Linear(32, 32)
    with pytest.raises(AssertionError, match="block 1 is of another kind"):
        stream_blocks(made, "cpu")

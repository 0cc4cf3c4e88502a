"""Samples without a condition: exactly what tokens of zeros give, alone and behind samples that have one."""

import pytest
import torch

from core.config.models import DenseDiTConfig, SparseDiTConfig, SSAConfig
from core.models.dense_dit import DenseDiT
from core.models.sparse_dit import SparseDiT
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor, concat

L, COND = 5, 10


def opened(model: torch.nn.Module) -> torch.nn.Module:
    """With gates, biases and last layer that are not zero."""
    for module in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
        torch.nn.init.normal_(module.weight, std=0.2)
        if module.bias is not None:
            torch.nn.init.normal_(module.bias)
    return model.eval()


def dense(qk_norm: bool, batch: int):
    config = DenseDiTConfig(
        resolution=4, latent_channels=3, width=24, cond_width=COND, num_blocks=2, num_heads=2, patch_size=2,
        qk_norm_cross=qk_norm,
    )  # fmt: skip
    x = torch.randn(batch, 3, 4, 4, 4)
    model = opened(DenseDiT(config))
    return lambda t, cond: model(x, t, cond)


def sparse(qk_norm: bool, batch: int):
    ssa = SSAConfig(num_heads=2, num_kv_heads=1, compression_block=8, selection_block=8, selected_blocks=2)
    config = SparseDiTConfig(
        resolution=16, in_channels=3, out_channels=3, width=24, cond_width=COND, num_blocks=2, num_cross_heads=2,
        ssa=ssa, qk_norm_cross=qk_norm,
    )  # fmt: skip
    samples = []
    for _ in range(batch):
        xyz = torch.unique(torch.randint(0, 16, (40, 3)), dim=0)
        coords = sort_into_blocks(torch.nn.functional.pad(xyz, (1, 0)).int(), 8)
        samples.append(SparseTensor(torch.randn(len(coords), 3), coords))
    x, model = concat(samples), opened(SparseDiT(config))
    return lambda t, cond: model(x, t, cond).feats


@pytest.mark.parametrize("qk_norm", [False, True], ids=["", "qk norm"])
@pytest.mark.parametrize("network", [dense, sparse])
@pytest.mark.parametrize("batch, conditioned", [(1, 0), (2, 0), (3, 1)])
def test_no_condition_is_a_condition_of_zeros(network, qk_norm, batch, conditioned):
    run, t = network(qk_norm, batch), torch.linspace(100, 900, batch)
    cond = torch.randn(conditioned, L, COND)
    zeros = torch.cat([cond, torch.zeros(batch - conditioned, L, COND)])
    with torch.no_grad():
        ours, theirs, other = run(t, cond), run(t, zeros), run(t, zeros + 1)
    assert (ours - theirs).norm() < 1e-6 * theirs.norm()
    assert (other - theirs).norm() > 1e-3 * theirs.norm()  # the condition matters here


@pytest.mark.parametrize("network", [dense, sparse])
def test_conditions_of_more_samples_than_there_are_are_refused(network):
    with pytest.raises(AssertionError, match="conditions of 2 samples for 1"):
        network(False, 1)(torch.tensor([3.0]), torch.randn(2, L, COND))

"""Sparse DiT: the authors' numbers, conditions of both kinds, batches, dtypes, checkpointing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from core.config.models import SparseDiTConfig, SSAConfig
from core.models.sparse_dit import SparseDiT
from core.nn.precision import set_compute_dtype
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor, concat

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = SparseDiTConfig(
    resolution=16,
    in_channels=3,
    out_channels=5,
    width=48,
    cond_width=10,
    num_blocks=2,
    num_cross_heads=3,
    ssa=SSAConfig(num_heads=6, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=3),
    qk_norm_cross=True,
)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.float() - theirs).norm() / theirs.norm()).item()


def opened(config: SparseDiTConfig) -> SparseDiT:
    """A network whose gates and last layer are not zero."""
    model = SparseDiT(config)
    for module in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
        torch.nn.init.normal_(module.weight, std=0.2)
    return model


def random_sample(count: int) -> SparseTensor:
    xyz = torch.unique(torch.randint(0, 24, (count, 3)), dim=0)
    coords = sort_into_blocks(torch.nn.functional.pad(xyz, (1, 0)).int(), 8)
    return SparseTensor(torch.randn(len(coords), CONFIG.in_channels), coords)


def sparse_condition(count: int) -> SparseTensor:
    coords = torch.cat([torch.zeros(count, 1), torch.randint(0, 9, (count, 3))], dim=1).int()
    return SparseTensor(torch.randn(count, CONFIG.cond_width), coords)


def test_authors_numbers():
    with safe_open(GOLDEN / "sparse_dit_v11_shape.safetensors", "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        theirs = json.loads(file.metadata()["golden"])["config"]
    config = SparseDiTConfig(
        resolution=64,
        in_channels=8,
        out_channels=8,
        width=128,
        cond_width=96,
        num_blocks=2,
        num_cross_heads=theirs["num_heads"],
        ssa=SSAConfig(num_heads=4, num_kv_heads=1, compression_block=8, selection_block=8, selected_blocks=4),
        position_scale=theirs["factor"],
    )
    model = SparseDiT(config)
    model.load_state_dict({k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")})
    with torch.no_grad():
        out = model(SparseTensor(golden["in.feats"], golden["in.coords"]), golden["in.t"], golden["in.cond"])
    assert relative(out.feats, golden["out.feats"]) < 1e-4


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_samples_of_a_batch_do_not_mix(shared, sparse):
    model = opened(replace(CONFIG, shared_modulation=shared, sparse_conditions=sparse))
    samples, t = [random_sample(120), random_sample(60)], torch.tensor([100.0, 900.0])
    cond = [sparse_condition(7), sparse_condition(4)] if sparse else torch.randn(2, 5, CONFIG.cond_width).split(1)
    batch = concat(samples)
    together = model(batch, t, concat(cond) if sparse else torch.cat(cond)).feats
    alone = torch.cat([model(samples[b], t[b : b + 1], cond[b]).feats for b in range(2)])
    assert together.shape == (batch.num_voxels, CONFIG.out_channels)
    assert relative(together, alone) < 1e-4
    assert relative(model(batch, t + 50, concat(cond) if sparse else torch.cat(cond)).feats, together) > 1e-3


def test_fresh_network_predicts_zero_and_windows_alternate():
    model = SparseDiT(CONFIG)
    assert [block.self_attn.shift for block in model.blocks] == [0, 4]
    assert [block.self_attn.shift for block in SparseDiT(replace(CONFIG, shift_windows=False)).blocks] == [4, 4]
    out = model(random_sample(50), torch.tensor([500.0]), torch.randn(1, 5, CONFIG.cond_width))
    assert out.feats.abs().max() == 0


def test_wrong_kind_of_condition_is_refused():
    with pytest.raises(AssertionError, match="sparse_conditions"):
        SparseDiT(CONFIG)(random_sample(20), torch.tensor([500.0]), sparse_condition(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model, x, t = opened(CONFIG), random_sample(150), torch.tensor([300.0])
    cond = torch.randn(1, 5, CONFIG.cond_width)
    expected = model(x, t, cond).feats
    out = set_compute_dtype(model, dtype)(x.to(dtype=dtype), t, cond).feats
    assert out.dtype == dtype
    assert relative(out, expected) < 0.1  # selection may differ where scores are close


def test_checkpointing_changes_no_gradient():
    model, x, t = opened(CONFIG), concat([random_sample(80), random_sample(50)]), torch.tensor([300.0, 600.0])
    cond, gradients = torch.randn(2, 5, CONFIG.cond_width), []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(x, t, cond).feats.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

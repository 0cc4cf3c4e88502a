"""Spatial sparse attention: the authors' numbers and gradients, batches, order of voxels, shared bookkeeping."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from core.config.models import SSAConfig
from core.nn.sparse_blocks import SparseTransformerBlock
from core.nn.ssa import SpatialSparseAttention
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor, concat

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = SSAConfig(num_heads=4, num_kv_heads=2, compression_block=4, selection_block=8, selected_blocks=3)


def relative(ours: torch.Tensor, theirs: torch.Tensor, floor: float = 0.0) -> float:
    return ((ours - theirs).norm() / max(theirs.norm().item(), floor)).item()


def random_sample(count: int, channels: int = 64, side: int = 24) -> SparseTensor:
    xyz = torch.unique(torch.randint(0, side, (count, 3)), dim=0)
    coords = sort_into_blocks(torch.nn.functional.pad(xyz, (1, 0)).int(), 8)
    return SparseTensor(torch.randn(len(coords), channels), coords)


@pytest.mark.parametrize("name", ["v1_same_block", "v2_batch2_shift"])
def test_authors_numbers_and_gradients(name):
    with safe_open(GOLDEN / f"spatial_sparse_attention_{name}.safetensors", "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        theirs = json.loads(file.metadata()["golden"])["config"]
    config = SSAConfig(
        num_heads=theirs["num_q_heads"],
        num_kv_heads=theirs["num_kv_heads"],
        compression_block=theirs["compression_block_size"],
        selection_block=theirs["selection_block_size"],
        selected_blocks=theirs["topk"],
        window=theirs["window_size"],
        compression_version=theirs["compression_version"],
    )
    module = SpatialSparseAttention(theirs["hidden_size"], config, theirs["shift_window"])
    module.load_state_dict({k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")})
    feats = golden["in.feats"].requires_grad_()
    out = module(SparseTensor(feats, golden["in.coords"])).feats
    (out * golden["in.cotangent"]).sum().backward()
    assert relative(out, golden["out.feats"]) < 1e-5
    assert relative(feats.grad, golden["grad.feats"]) < 1e-5
    largest = max(golden[f"grad.weights.{key}"].norm().item() for key, _ in module.named_parameters())
    for key, parameter in module.named_parameters():
        # A bias before a norm, and one that shifts all keys alike, have no gradient but rounding: theirs is 1e-8 of
        # the largest, which may be off by 1e-7 of it (float32 rounds to 6e-8). Every other norm is above the floor.
        error = relative(parameter.grad, golden[f"grad.weights.{key}"], floor=1e-3 * largest)
        assert error < 1e-4, f"{key}: {error:.1e}"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_samples_of_a_batch_do_not_mix(version):
    config = SSAConfig(
        num_heads=4, num_kv_heads=1, compression_block=4, selection_block=8, selected_blocks=4,
        compression_version=version,
    )  # fmt: skip
    module = SpatialSparseAttention(128, config, shift=4)
    samples = [random_sample(200, 128), random_sample(1, 128), random_sample(90, 128)]
    together = module(concat(samples)).feats
    alone = torch.cat([module(sample).feats for sample in samples])
    assert relative(together, alone) < 1e-5


def test_order_inside_a_block_does_not_matter_and_order_of_blocks_does():
    module, x = SpatialSparseAttention(64, CONFIG), random_sample(300)
    block = (x.coords[:, 1:] // 8).long() @ torch.tensor([64, 8, 1])
    shuffled = torch.argsort(block + torch.rand(len(block)) * 0.9)
    out = module(SparseTensor(x.feats[shuffled], x.coords[shuffled])).feats
    assert relative(out, module(x).feats[shuffled]) < 1e-5
    with pytest.raises(AssertionError, match="sort_into_blocks"):
        module(SparseTensor(x.feats.flip(0), x.coords.flip(0)))


def test_bookkeeping_is_built_once(monkeypatch):
    import core.nn.ssa as module_file

    calls = []
    build = module_file.make_block_plan
    monkeypatch.setattr(module_file, "make_block_plan", lambda *a: calls.append(1) or build(*a))
    x = random_sample(100)
    for shift in (0, 4):
        x = SpatialSparseAttention(64, CONFIG, shift)(x)
    assert len(calls) == 1


def test_autocast_trains_in_bfloat16():
    module, x = SpatialSparseAttention(64, CONFIG), random_sample(200)
    expected = module(x).feats
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x).feats
    assert out.dtype == torch.bfloat16
    # Selection may differ where scores are close, so this is looser than rounding alone.
    assert relative(out.float(), expected) < 0.1
    out.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in module.parameters())


def test_transformer_block_of_the_vae_stays_inside_windows():
    block = SparseTransformerBlock(32, num_heads=2, head_dim=8, mlp_ratio=2.0, window=4, shift=2)
    assert {"attn.to_qkv.weight", "attn.to_out.bias", "mlp.mlp.0.weight", "mlp.mlp.2.bias"} < set(block.state_dict())
    x = random_sample(150, 32)
    feats = x.feats.clone().requires_grad_()
    row = 40
    block(x.replace(feats)).feats[row].sum().backward()
    window = (x.coords[:, 1:] + 2) // 4
    same = (window == window[row]).all(1)
    reached = feats.grad.abs().amax(1) > 0
    assert torch.equal(reached, same)

"""After its first evaluation a network asks the device nothing and sends it nothing, so that a CUDA graph can hold it.

The second evaluation is watched: no operation whose result the host must see (values, or a size that depends on
values), and no tensor made of Python numbers. Attention itself, which has kernels for it, is left out.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from core.config.models import DenseDiTConfig, SparseDiTConfig, SSAConfig
from core.models.dense_dit import DenseDiT
from core.models.sparse_dit import SparseDiT
from core.nn import ssa
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor, concat

# aten operations by name: they wait for the device, or size their result by values on it.
WAITING = {
    "_local_scalar_dense", "nonzero", "argwhere", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "bincount", "equal", "is_nonzero", "item",
}  # fmt: skip
FROM_THE_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor}
TO_THE_HOST = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.item}


class Watched(Exception):
    """What was called that must not be."""


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING or name == "lift_fresh":
            raise Watched(name)
        if name in ("repeat_interleave", "index", "index_put", "index_put_"):
            if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
                raise Watched("repeat_interleave without a size")
            if name != "repeat_interleave" and any(i is not None and i.dtype == torch.bool for i in args[1]):
                raise Watched("index by a mask")
        return func(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in FROM_THE_HOST or func in TO_THE_HOST:
            raise Watched(func.__name__)
        return func(*args, **(kwargs or {}))


def watched(call):
    with torch.inference_mode(), NoCopies(), NoWaiting():
        return call()


def sparse_network(version: str, sparse_conditions: bool, batch: int):
    heads = 2 if version == "v1" else 8  # the norms of version 2 have 32 groups
    attention = SSAConfig(
        num_heads=heads, num_kv_heads=heads, compression_block=4, selection_block=8, selected_blocks=2,
        compression_version=version,
    )  # fmt: skip
    config = SparseDiTConfig(
        resolution=16, in_channels=3, out_channels=3, width=64, cond_width=6, num_blocks=2, num_cross_heads=2,
        ssa=attention, sparse_conditions=sparse_conditions, qk_norm_cross=True, shared_modulation=True,
    )  # fmt: skip
    samples, conditions = [], []
    for _ in range(batch):
        xyz = torch.unique(torch.randint(0, 16, (60, 3)), dim=0)
        coords = sort_into_blocks(torch.nn.functional.pad(xyz, (1, 0)).int(), 8)
        samples.append(SparseTensor(torch.randn(len(coords), 3), coords))
        conditions.append(SparseTensor(torch.randn(4, 6), torch.nn.functional.pad(torch.randint(0, 9, (4, 3)), (1, 0))))
    x, t = concat(samples), torch.full((batch,), 300.0)
    cond = concat(conditions) if sparse_conditions else torch.randn(batch, 4, 6)
    network = SparseDiT(config).eval()
    return lambda: network(x, t, cond).feats, lambda: network(x, t, cond[: batch - 1]).feats


def stand_in(q, k, v, kc, vc, gate, plan, windows, num_selected, **_):
    """Reads what attention reads, and nothing from the host."""
    rows = (kc.mean() + vc.mean() + k.mean() + v.mean()).float() + gate.sum(1) + windows.order[0] + plan.cu_cells[-1]
    return q * rows[:, None, None].to(q.dtype)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("version, sparse_conditions", [("v1", False), ("v2", True)], ids=["v1.1", "v1.0"])
def test_sparse_dit(monkeypatch, version, sparse_conditions, batch):
    monkeypatch.setattr(ssa, "spatial_sparse_attention", stand_in)
    full, partial = sparse_network(version, sparse_conditions, batch)
    for run in (full,) if sparse_conditions else (full, partial):
        with torch.inference_mode():
            expected = run()
        assert torch.equal(watched(run), expected)


def test_dense_dit():
    config = DenseDiTConfig(
        resolution=4, latent_channels=2, width=24, cond_width=6, num_blocks=2, num_heads=2, patch_size=2,
        qk_norm=True, qk_norm_cross=True,
    )  # fmt: skip
    network, x, t = DenseDiT(config).eval(), torch.randn(2, 2, 4, 4, 4), torch.tensor([100.0, 200.0])
    for conditioned in (2, 1, 0):
        cond = torch.randn(conditioned, 5, 6)
        with torch.inference_mode():
            expected = network(x, t, cond)
        assert torch.equal(watched(lambda cond=cond: network(x, t, cond)), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor([1.0]),
        lambda x: torch.unique(x),
        lambda x: x.long().clamp(0).repeat_interleave(x.long().clamp(0)),
        lambda x: x.nonzero(),
    ],
)
def test_what_is_watched_is_seen(call):
    x = torch.randn(5)
    with pytest.raises(Watched):
        watched(lambda: call(x))

"""The gradient of the queries against automatic differentiation in float64."""

import pytest
import torch

from core.ops.kernels.compressed import compressed_tile_size
from core.ops.kernels.local import local_tile_size
from core.ops.kernels.query_gradients import query_gradients
from core.ops.kernels.unions import tile_unions
from core.ops.tiles import make_tiles
from tests.support.attention_cases import relative_error
from tests.support.local_cases import LocalCase, attend, local_case, owner, poisoned

TOLERANCE = {torch.float32: 5e-6, torch.float16: 1.5e-3}


def check(case: LocalCase, branches: str, gated: bool, device: torch.device, tolerance: float | None = None) -> None:
    """All given branches (c: cells, s: chosen blocks, w: window) at once, from exact log-sum-exps and dots."""
    (n, heads, width), groups, dtype = case.q.shape, case.k.shape[1], case.q.dtype
    cu_cells = torch.tensor([0, 3, 40], dtype=torch.int32, device=device)
    kc, vc = (torch.randn(40, groups, width).to(device, dtype) for _ in range(2))
    grad_out = torch.randn(n, heads, width).to(device, dtype)
    to_cells = (owner(case.cu_samples)[:, None] == owner(cu_cells)).expand(groups, -1, -1)
    q = case.q.double().requires_grad_()
    exact = {
        "c": lambda: attend(q, kc, vc, to_cells),
        "s": lambda: attend(q, case.k, case.v, case.to_blocks()),
        "w": lambda: attend(q, case.k, case.v, case.to_window()),
    }
    total, lse2, dots = torch.zeros((), device=device), {}, torch.zeros(3, n, heads, device=device)
    for b, name in enumerate("csw"):
        if name in branches:
            part, lse = exact[name]()
            lse2[name] = lse.float()
            dots[b] = (part.detach() * grad_out.double()).sum(-1)
            total = total + (case.gate.double()[:, b, None, None] if gated else 1.0) * part
    (expected,) = torch.autograd.grad(total, q, grad_out.double())

    order = case.order if "w" in branches else None
    size = compressed_tile_size(case.q, groups) if branches == "c" else local_tile_size(case.q, groups, "s" in branches)
    tiles = make_tiles(case.cu_windows if "w" in branches else case.cu_samples, size)
    first = tiles.start if order is None else order[tiles.start.long()]
    samples = (torch.searchsorted(case.cu_samples, first, right=True) - 1).int()
    unions = tile_unions(case.index, tiles, order) if "s" in branches else None
    local = (case.k, case.v) if branches != "c" else (None, None)
    with poisoned():
        dq = query_gradients(
            *(case.q, *local, *((kc, vc) if "c" in branches else (None, None)), grad_out),
            gate=case.gate if gated else None,
            dots=dots,
            lse2_coarse=lse2.get("c"),
            lse2_selected=lse2.get("s"),
            lse2_window=lse2.get("w"),
            unions=unions,
            cu_blocks=case.cu_blocks,
            cu_windows=case.cu_windows if "w" in branches else None,
            cu_cells=cu_cells,
            sample_of_tile=samples,
            tiles=tiles,
            order=order,
        )
    assert dq.dtype == dtype
    assert relative_error(dq, expected) < (tolerance or TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("heads", "groups", "width", "dtype"),
    [(32, 2, 32, torch.float16), (6, 2, 32, torch.float32), (2, 1, 24, torch.float16), (2, 1, 24, torch.float32)],
)
def test_all_branches(heads, groups, width, dtype, device):
    check(local_case(heads, groups, width, dtype, device, blocks=([1, 33, 7], [5])), "csw", True, device)


@pytest.mark.parametrize(("branch", "dtype"), [("c", torch.float16), ("s", torch.float32), ("w", torch.float16)])
def test_one_branch(branch, dtype, device):
    check(local_case(2, 2, 40, dtype, device, chosen=6, blocks=([1, 34, 3], [7])), branch, False, device)


def test_many_heads_for_one_key_head(device):
    check(local_case(80, 1, 16, torch.float16, device, blocks=([5, 6],)), "s", False, device)


def test_logits_of_hundreds(device):
    check(local_case(4, 1, 16, torch.float32, device, blocks=([9, 33],), scale=60.0), "s", False, device, 3e-5)

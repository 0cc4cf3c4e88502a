"""Sparse convolution kernels against the slow definition in float64: outputs and every gradient.

Letters: N voxels, I input channels, O output channels.
"""

import pytest
import torch
import torch.nn.functional as F

from core.ops.backend import Backend, use_backend
from core.ops.conv_plan import ConvPlan, children_map
from core.ops.kernels import conv_weight_gradient
from core.ops.kernels import implicit_gemm as product
from core.ops.kernels import submanifold_conv as kernels
from core.ops.submanifold_conv import subdivided_conv3d, submanifold_conv3d
from core.sparse.coords import unique_coords
from core.sparse.neighbors import neighbor_map
from tests.support.voxels import random_coords

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    """The kernels run, and memory that they are given holds NaN: what they forget to write is seen."""
    new_empty = torch.Tensor.new_empty

    def poisoned(*args, **kwargs):
        out = new_empty(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    with use_backend(Backend.TRITON):
        yield


class Case:
    """Random arguments, the same numbers in float64, and a random weighting of the outputs."""

    def __init__(self, device, n=90, side=4, inputs=5, outputs=4, dtype=torch.float32, kernel=3, level=0):
        coords = unique_coords(random_coords(n, side))[0].to(device)
        self.map = neighbor_map(coords, kernel)
        rows, volume = len(coords) * 8**level, kernel**3
        scales = {"feats": (rows, inputs), "weight": (volume, inputs, outputs), "bias": (outputs,)}
        drawn = [torch.randn(shape, device=device) for shape in scales.values()]
        drawn[1] /= (volume * inputs) ** 0.5
        self.ours = [x.to(dtype).requires_grad_() for x in drawn]
        self.exact = [x.detach().double().requires_grad_() for x in self.ours]
        self.tolerance = TOLERANCE[dtype]

    def compare(self, ours, exact):
        close(ours, exact, self.tolerance)
        weighting = torch.randn_like(ours)
        for a, b in zip(
            torch.autograd.grad(ours, self.ours, weighting),
            torch.autograd.grad(exact, self.exact, weighting.double()),
            strict=True,
        ):
            assert a.dtype == ours.dtype
            close(a, b, self.tolerance)


def close(ours, exact, tolerance):
    assert ours.shape == exact.shape and ours.isfinite().all()
    assert (ours.double() - exact).norm() <= tolerance * exact.norm()


def convolution(feats, neighbors, weight, bias):
    """The definition, in the dtype of its arguments."""
    out = bias.expand(len(feats), -1)
    for k in range(len(weight)):
        rows = neighbors[:, k].long()
        out = out + torch.where((rows >= 0)[:, None], feats[rows], 0) @ weight[k]
    return out


def subdivided(feats, neighbors, weight, bias):
    return convolution(feats.repeat_interleave(8, dim=0), children_map(neighbors), weight, bias)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n": 100, "inputs": 70, "outputs": 33},  # several chunks of channels, tiles of rows and splits
        {"inputs": 32, "outputs": 16, "dtype": torch.float16},
        {"inputs": 1, "outputs": 1},
        {"n": 1, "inputs": 17, "outputs": 130, "dtype": torch.float16},  # several blocks of outputs
        {"n": 30, "kernel": 5},  # more offsets than the order of rows looks at
    ],
)
def test_submanifold(device, shape):
    case = Case(device, **shape)
    ours = submanifold_conv3d(case.ours[0], case.map, *case.ours[1:])
    case.compare(ours, convolution(case.exact[0], case.map, *case.exact[1:]))


@pytest.mark.parametrize("shape", [{"n": 30}, {"n": 30, "inputs": 16, "outputs": 20, "dtype": torch.float16}])
def test_subdivided(device, shape):
    case = Case(device, **shape)
    ours = subdivided_conv3d(case.ours[0], case.map, *case.ours[1:])
    case.compare(ours, subdivided(case.exact[0], case.map, *case.exact[1:]))


@pytest.mark.parametrize("level, n, dtype", [(0, 40, torch.float32), (1, 12, torch.float16), (2, 2, torch.float32)])
@pytest.mark.parametrize("subdivide", [False, True])
def test_bricks(device, level, n, dtype, subdivide):
    case = Case(device, n=n, side=2, inputs=6, outputs=5, dtype=dtype, level=level)
    neighbors = case.map
    for _ in range(level):
        neighbors = children_map(neighbors)
    feats, weight, bias = (x.detach() for x in case.ours)
    ours = kernels.brick_conv3d(feats, weight, bias, ConvPlan(case.map), level, subdivide=subdivide, silu=True)
    exact = (subdivided if subdivide else convolution)(case.exact[0], neighbors, *case.exact[1:])
    close(ours, F.silu(exact), case.tolerance)


def test_an_offset_that_no_row_of_a_tile_has_is_skipped(device):
    far = torch.cartesian_prod(torch.tensor([0]), *[torch.arange(0, 12, 3)] * 3)  # 64 voxels, no two adjacent
    pairs = torch.tensor([[0, x, 20, z] for x in range(0, 96, 3) for z in (0, 1)])  # 32 below 32 others
    coords = torch.cat([far, pairs])[torch.randperm(128)].int().to(device)
    table = ConvPlan(neighbor_map(coords)).tile_taps(32)
    taps = [row[:count] for row, count in zip(table.taps.tolist(), table.counts.tolist(), strict=True)]
    assert sorted(taps) == [[4, 13], [13], [13], [13, 22]]
    assert table.tile_counts.tolist() == [{13: 4, 4: 1, 22: 1}.get(k, 0) for k in range(27)]
    assert [int(table.tiles[k, 0]) for k in (4, 22)] == [taps.index([4, 13]), taps.index([13, 22])]
    assert table.tiles[13].tolist() == [0, 1, 2, 3]


def test_the_plan_is_derived_once(device):
    case = Case(device)
    plan = ConvPlan(case.map)
    assert plan.tile_taps(64) is plan.tile_taps(64) and plan.by_offset is plan.by_offset
    feats, weight, bias = (x.detach() for x in case.ours)
    first = submanifold_conv3d(feats, case.map, weight, bias, plan=plan)
    assert torch.equal(first, submanifold_conv3d(feats, case.map, weight, bias)), "not the same without a plan"
    assert torch.equal(plan.order.sort().values, torch.arange(len(feats), device=device, dtype=torch.int32))


def test_addresses_of_64_bits(device, monkeypatch):
    case = Case(device, n=15, side=2, dtype=torch.float16)
    feats, weight, bias = case.ours

    def results():
        out = submanifold_conv3d(feats, case.map, weight, bias)
        fine = subdivided_conv3d(feats, case.map, weight, bias)
        return out, fine, *torch.autograd.grad(out.sum() + fine.square().sum(), case.ours)

    narrow = results()
    monkeypatch.setattr(product, "NARROW_ELEMENTS", 1)
    for a, b in zip(narrow, results(), strict=True):
        assert torch.equal(a, b)


def test_splits_of_the_rows_change_rounding_only(device, monkeypatch):
    case = Case(device, n=100)
    feats, plan = case.ours[0].detach(), ConvPlan(case.map)
    grad = torch.randn(len(feats), 4, device=device)
    split = conv_weight_gradient.weight_gradient(feats, grad, plan)
    assert torch.equal(split, conv_weight_gradient.weight_gradient(feats, grad, plan)), "not the same twice"
    monkeypatch.setattr(conv_weight_gradient, "WANTED_PROGRAMS", 1)
    close(split, conv_weight_gradient.weight_gradient(feats, grad, plan).double(), 1e-6)


@pytest.mark.parametrize("op", [submanifold_conv3d, subdivided_conv3d])
def test_no_voxels(device, op):
    feats = torch.zeros(0, 5, device=device, requires_grad=True)
    weight = torch.randn(27, 5, 4, device=device, requires_grad=True)
    out = op(feats, torch.zeros(0, 27, dtype=torch.int32, device=device), weight)
    assert out.shape == (0, 4)
    out.sum().backward()
    assert weight.grad.abs().max() == 0 and feats.grad.shape == (0, 5)

"""Submanifold convolution against torch's dense one and the slow reference: outputs and every gradient."""

import pytest
import torch
import torch.nn.functional as F

import core.ops.submanifold_conv as ops
from core.ops.backend import Backend, use_backend
from core.ops.brick_conv import brick_conv3d
from core.ops.conv_plan import ConvPlan, fold_subdivided, subdivided_columns, unfold_subdivided
from core.ops.submanifold_conv import subdivided_conv3d, submanifold_conv3d
from core.sparse.coords import unique_coords
from core.sparse.neighbors import neighbor_map
from core.sparse.resample import subdivide_coords
from core.sparse.tensor import SparseTensor
from tests.support.voxels import random_coords


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach().float(), theirs.detach().float()
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


def case(n: int = 250, side: int = 7, inputs: int = 5, outputs: int = 4):
    coords = unique_coords(random_coords(n, side))[0]
    feats = torch.randn(len(coords), inputs, requires_grad=True)
    weight = torch.randn(27, inputs, outputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True)
    return coords, feats, weight, bias


def dense_convolution(coords, feats, weight, bias, side):
    """torch's conv3d on the full grid, read at the voxels."""
    grid = SparseTensor(feats, coords, batch_size=2).to_dense(side)
    kernel = weight.view(3, 3, 3, *weight.shape[1:]).permute(4, 3, 2, 1, 0)
    out = F.conv3d(grid, kernel, bias, padding=1)
    b, x, y, z = coords.long().unbind(1)
    return out[b, :, x, y, z]


def compare(ours, theirs, parameters, tolerance=1e-5):
    """Outputs, then the gradients of a random weighting of them. 1e-5: float32 sums of 27 * 5 terms, reordered."""
    assert relative_error(ours, theirs) < tolerance
    cotangent = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad((ours * cotangent).sum(), parameters),
        torch.autograd.grad((theirs * cotangent).sum(), parameters),
        strict=True,
    ):
        assert relative_error(a, b) < tolerance


@pytest.mark.parametrize("backend", [Backend.TORCH, Backend.REFERENCE])
@pytest.mark.parametrize("n", [1, 250, 3000])  # 3000 of 2 * 7^3 draws: nearly the full grid
def test_against_dense(n, backend):
    coords, feats, weight, bias = case(n)
    with use_backend(backend):
        ours = submanifold_conv3d(feats, neighbor_map(coords), weight, bias)
    compare(ours, dense_convolution(coords, feats, weight, bias, 7), (feats, weight, bias))


def test_on_the_full_grid():
    coords = torch.cartesian_prod(torch.arange(2), *[torch.arange(5)] * 3).to(torch.int32)
    feats, weight = torch.randn(250, 3, requires_grad=True), torch.randn(27, 3, 2, requires_grad=True)
    ours = submanifold_conv3d(feats, neighbor_map(coords), weight)
    compare(ours, dense_convolution(coords, feats, weight, None, 5), (feats, weight))


def test_chunks_do_not_matter(monkeypatch):
    coords, feats, weight, bias = case(2000, 12)
    neighbors = neighbor_map(coords)
    whole = submanifold_conv3d(feats, neighbors, weight, bias)
    monkeypatch.setitem(ops.GATHERED_ELEMENTS, "cpu", 1)
    compare(submanifold_conv3d(feats, neighbors, weight, bias), whole, (feats, weight, bias))


def test_subdivided_against_the_reference():
    coords, feats, weight, bias = case()
    neighbors = neighbor_map(coords)
    with use_backend(Backend.REFERENCE):
        expected = subdivided_conv3d(feats, neighbors, weight, bias)
    compare(subdivided_conv3d(feats, neighbors, weight, bias), expected, (feats, weight, bias))


@pytest.mark.parametrize("level, subdivide", [(0, True), (1, False), (1, True), (2, False)])
def test_bricks_against_the_map_of_their_coordinates(level, subdivide):
    coords, _, weight, bias = case(20, 4)
    plan, cache = ConvPlan(neighbor_map(coords)), SparseTensor(torch.zeros(len(coords), 1), coords).cache
    for _ in range(level):
        cache = subdivide_coords(cache)
    feats = torch.randn(len(cache.coords), 5, requires_grad=True)
    ours = brick_conv3d(feats, plan, weight, bias, level=level, subdivide=subdivide, silu=True)
    fine = feats
    if subdivide:
        fine, cache = feats.repeat_interleave(8, dim=0), subdivide_coords(cache)
    with use_backend(Backend.REFERENCE):
        expected = F.silu(submanifold_conv3d(fine, neighbor_map(cache.coords), weight, bias))
    compare(ours, expected, (feats, weight, bias))


def test_folded_weights():
    weight = torch.randn(27, 3, 2, dtype=torch.float64).requires_grad_()
    folded = fold_subdivided(weight)
    place = iter(subdivided_columns())
    for child in range(8):
        seen = {next(place): folded[8 * child + tap] for tap in range(8)}
        columns, members = ops._child_offsets()[child]
        expected = weight.new_zeros(8, 3, 2).index_add(0, torch.tensor(members), weight)
        assert sorted(seen) == list(columns)
        for column, value in zip(columns, expected, strict=True):
            torch.testing.assert_close(seen[column], value, atol=1e-6, rtol=0)  # folded in float32
    cotangent = torch.randn(64, 3, 2)
    (gradient,) = torch.autograd.grad(folded, weight, cotangent.double())
    torch.testing.assert_close(unfold_subdivided(cotangent), gradient.float(), atol=1e-5, rtol=0)


def test_only_the_wanted_gradients():
    coords, feats, weight, _ = case()
    neighbors = neighbor_map(coords)
    submanifold_conv3d(feats.detach(), neighbors, weight).sum().backward()
    assert weight.grad is not None
    submanifold_conv3d(feats, neighbors, weight.detach()).sum().backward()
    assert feats.grad is not None


@pytest.mark.parametrize("op", [submanifold_conv3d, subdivided_conv3d])
def test_no_voxels(op):
    _, _, weight, bias = case()
    feats = torch.zeros(0, 5, requires_grad=True)
    out = op(feats, torch.zeros(0, 27, dtype=torch.int32), weight, bias)
    assert out.shape == (0, 4)
    out.sum().backward()
    assert weight.grad.abs().max() == 0


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])  # a few roundings
def test_half_precision(dtype, tolerance):
    coords, feats, weight, bias = case()
    neighbors = neighbor_map(coords)
    exact = submanifold_conv3d(feats, neighbors, weight, bias)
    half = submanifold_conv3d(feats.to(dtype), neighbors, weight, bias)
    assert half.dtype == dtype
    compare(half.float(), exact, (feats, weight, bias), tolerance)


def test_autocast():
    coords, feats, weight, bias = case()
    with torch.autocast("cpu", torch.bfloat16):
        out = submanifold_conv3d(feats, neighbor_map(coords), weight, bias)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert weight.grad.dtype == torch.float32

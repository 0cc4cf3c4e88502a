"""Surfaces of fields that are known only near voxels, the rest by its side: equal to the dense grid's."""

import numpy as np
import pytest
import torch

from core.geometry.isosurface import extract_field, extract_surface
from core.sparse.refined_field import CrossingVoxels, FarField, RefinedField, crossing_voxels
from tests.support.same_surface import assert_same_surface


def random_field(resolution: int, factor: int, share: float) -> RefinedField:
    """Scattered voxels, and a far field of random blobs."""
    cells = resolution // factor
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 3, 3, 3), (cells,) * 3, mode="trilinear")[0, 0]
    coords = (torch.rand((resolution,) * 3) < share).nonzero().int()
    return RefinedField(coords, torch.rand(len(coords)) * 2 - 1, resolution, FarField(smooth > 0, factor))


@pytest.mark.parametrize("resolution, factor, share", [(48, 2, 0.02), (40, 4, 0.0), (40, 8, 0.01), (38, 1, 0.1)])
def test_the_surface_runs_between_cells_and_around_voxels(resolution, factor, share):
    field = random_field(resolution, factor, share)
    assert_same_surface(extract_field(field, 0.2), field.dense().numpy(), 0.2)


def test_blocks_without_voxels_on_both_sides_of_a_block_border():
    outside = torch.ones(8, 8, 8, dtype=torch.bool)
    outside[2:4, 2:4, 2:4] = False  # cells of 8 voxels: all of the block [16, 32), which holds no voxel
    field = RefinedField(torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0), 64, FarField(outside, 8))
    mesh = extract_field(field)
    assert mesh.is_watertight() and mesh.volume > 0
    np.testing.assert_allclose(mesh.bounds, np.array([[15.5] * 3, [31.5] * 3]) / 64 * 2 - 1, atol=1e-6)


def test_values_that_are_not_finite_count_as_far():
    field = random_field(32, 2, 0.05)
    values = field.values.clone()
    values[::3] = float("nan")
    kept = values.isfinite()
    some = RefinedField(field.coords[kept], values[kept], 32, field.far)
    mesh, expected = extract_field(RefinedField(field.coords, values, 32, field.far)), extract_field(some)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)
    np.testing.assert_array_equal(mesh.faces, expected.faces)


def test_far_field_at_voxels():
    field = random_field(16, 4, 0.3)
    alone = RefinedField(field.coords[:0], field.values[:0], 16, field.far).dense()
    assert torch.equal(field.far.at(field.coords), alone[tuple(field.coords.long().unbind(1))])


@pytest.mark.parametrize("cut", [1, 5, 37])
def test_crossing_voxels_of_a_field_that_comes_in_layers(cut):
    field = torch.nn.functional.interpolate(torch.randn(1, 1, 9, 9, 9), (37, 37, 37), mode="trilinear")[0, 0]
    found = CrossingVoxels(0.1)
    for layers in field.split(cut):
        found.add(layers)
    coords, values = found.finish()
    whole = crossing_voxels(field, 0.1)
    assert torch.equal(coords, whole[0]) and torch.equal(values, whole[1])
    above = (field > 0.1).float()
    count = torch.nn.functional.avg_pool3d(above[None], 2, 1)[0] * 8  # corners above, of each cube
    crossing = (count > 0) & (count < 8)
    needed = torch.nn.functional.max_pool3d(torch.nn.functional.pad(crossing.float()[None], (1,) * 6), 2, 1)[0] > 0
    assert torch.equal(coords.long(), needed.nonzero())
    assert_same_surface(extract_surface(coords, values, 37, 0.1), field.numpy(), 0.1)

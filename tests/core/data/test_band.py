"""Narrow band samples: where voxels lie, and what they hold."""

import torch

from core.data.band import band_values, batched, random_crop, surface_cells
from core.data.parts import pack, part
from core.data.pool import cell_centers, coarse_field
from core.geometry.coarse_field import cell_voxels

SPHERE = pack([[part(half=(0.6, 0.6, 0.6), round_section=True, edge=0.6)]])


def test_voxels_come_cell_by_cell_with_z_fastest():
    voxels = cell_voxels(torch.tensor([[1, 0, 2], [0, 0, 0]]), 2)
    assert voxels[:8].tolist() == [[2 + x, y, 4 + z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    assert voxels[8:].tolist() == [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]


def test_values_are_distances_in_truncation_bands():
    resolution, bands = 32, 4.0
    voxels = torch.randint(0, resolution, (500, 3), generator=torch.Generator().manual_seed(0))
    world = voxels / resolution * 2 - 1
    expected = ((world.norm(dim=1) - 0.6) * resolution / 2 / bands).clamp(-1, 1)
    torch.testing.assert_close(band_values(SPHERE, voxels, resolution, bands), expected, rtol=0, atol=1e-5)
    assert (expected.abs() == 1).any() and (expected.abs() < 0.5).any()


def test_surface_cells_are_those_near_the_surface_in_order():
    resolution, reach = 16, 1.2
    field = (coarse_field(SPHERE, resolution)[0] * 127).round().to(torch.int8)
    far = (cell_centers(resolution).norm(dim=1) - 0.6).abs() * resolution / 2
    cells = surface_cells(field, reach)
    number = (cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]
    assert (number.diff() > 0).all()
    found = torch.zeros(resolution**3, dtype=torch.bool).index_fill(0, number, True)
    clear = (far - reach).abs() > 3 / 127  # a stored step
    assert torch.equal(found[clear], (far < reach)[clear])


def test_crops_are_pieces_of_the_shell():
    cells = surface_cells((coarse_field(SPHERE, 16)[0] * 127).round().to(torch.int8), 1.0)
    generator = torch.Generator().manual_seed(1)
    piece = random_crop(cells, 6, generator)
    assert 0 < len(piece) < len(cells)
    assert (piece.amax(0) - piece.amin(0) <= 6).all()
    assert set(map(tuple, piece.tolist())) <= set(map(tuple, cells.tolist()))


def test_batching_puts_the_sample_in_front():
    coords = batched([torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6], [7, 8, 9]])])
    assert coords.dtype == torch.int32
    assert coords.tolist() == [[0, 1, 2, 3], [1, 4, 5, 6], [1, 7, 8, 9]]

"""Neighbour map: table, search and derivation from the parents agree with a dictionary look-up."""

import pytest
import torch

from core.errors import InputError
from core.sparse.coords import unique_coords
from core.sparse.neighbors import cached_neighbor_map, kernel_offsets, neighbor_map
from core.sparse.resample import SparseSubdivide
from core.sparse.tensor import SparseTensor
from tests.support.voxels import random_coords


def by_dictionary(coords: torch.Tensor, kernel_size: int) -> torch.Tensor:
    rows = {tuple(row): i for i, row in enumerate(coords.tolist())}
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    offsets = [(dx, dy, dz) for dz in reach for dy in reach for dx in reach]  # x fastest
    found = [
        [rows.get((b, x + dx, y + dy, z + dz), -1) for dx, dy, dz in offsets] for b, x, y, z in coords.tolist()
    ]
    return torch.tensor(found, dtype=torch.int32).view(len(coords), kernel_size**3)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_table_and_search_agree_with_a_dictionary(n, kernel_size):
    coords = unique_coords(random_coords(n, 8))[0]
    expected = by_dictionary(coords, kernel_size)
    for cells in (None, 0):
        found = neighbor_map(coords, kernel_size, table_cells=cells)
        assert found.dtype == torch.int32
        assert torch.equal(found, expected)


def test_order_of_voxels_does_not_matter():
    coords = unique_coords(random_coords(200, 6, batch=1))[0]
    coords = coords[torch.randperm(len(coords))]
    for cells in (None, 0):
        assert torch.equal(neighbor_map(coords, table_cells=cells), by_dictionary(coords, 3))


def test_far_from_the_origin():
    coords = unique_coords(random_coords(50, 4))[0]
    coords[:, 1:] += 2**30
    for cells in (None, 0):
        assert torch.equal(neighbor_map(coords, table_cells=cells), by_dictionary(coords, 3))


def test_children_map_follows_from_the_parents():
    coords = unique_coords(random_coords(120, 6))[0]
    x = SparseTensor(torch.zeros(len(coords), 1), coords)
    children = SparseSubdivide()(x)
    assert torch.equal(cached_neighbor_map(children), neighbor_map(children.coords))
    grandchildren = SparseSubdivide()(children)
    assert torch.equal(cached_neighbor_map(grandchildren), neighbor_map(grandchildren.coords))
    assert cached_neighbor_map(children) is cached_neighbor_map(SparseSubdivide()(x))


def test_offsets_have_x_fastest():
    assert kernel_offsets(3)[:4].tolist() == [[-1, -1, -1], [0, -1, -1], [1, -1, -1], [-1, 0, -1]]
    assert kernel_offsets(3)[13].tolist() == [0, 0, 0]


@pytest.mark.parametrize("cells", [None, 0])
def test_repeated_voxels_are_refused(cells):
    twice = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.int32)
    with pytest.raises(InputError, match="same coordinates"):
        neighbor_map(twice, table_cells=cells)

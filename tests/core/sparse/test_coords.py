"""Coordinate arithmetic against plain Python: order of keys, unique rows, parents, block order."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import InputError
from core.sparse.coords import block_order, decode_keys, encode_keys, parents, sort_into_blocks, unique_coords
from tests.support.voxels import random_coords

GOLDEN = Path(__file__).parents[2] / "golden"


def test_keys_keep_the_order_of_rows_and_decode_again():
    coords, extent = random_coords(300, 9), (9, 11, 10)
    keys = encode_keys(coords, extent)
    assert coords[keys.argsort(stable=True)].tolist() == sorted(coords.tolist())
    assert torch.equal(decode_keys(keys, extent), coords.long())


def test_unique():
    coords = random_coords(300, 4)
    unique, inverse, counts = unique_coords(coords)
    assert [tuple(row) for row in unique.tolist()] == sorted({tuple(row) for row in coords.tolist()})
    assert torch.equal(unique[inverse], coords)
    assert counts.tolist() == [coords.tolist().count(row) for row in unique.tolist()]


@pytest.mark.parametrize("n", [0, 1])
def test_few_voxels(n):
    coords = random_coords(n, 5)
    assert unique_coords(coords)[0].shape == (n, 4)
    assert sort_into_blocks(coords, 4).shape == (n, 4)


def test_block_order():
    coords = unique_coords(random_coords(400, 13))[0]
    coords = coords[torch.randperm(len(coords))]
    before = coords.clone()

    def place(row):
        return row[0], [v // 4 for v in row[1:]], [v % 4 for v in row[1:]]

    ordered = sort_into_blocks(coords, 4)
    assert ordered.tolist() == sorted(coords.tolist(), key=place)
    assert torch.equal(coords, before), "the input was changed"
    assert torch.equal(coords[block_order(coords, 4)], ordered)
    assert torch.equal(parents(ordered, 4)[:, 1:], ordered[:, 1:] // 4)


def test_block_order_is_the_authors():
    golden = load_file(GOLDEN / "sort_block.safetensors")
    given = golden["in.coords"].to(torch.int32)
    assert torch.equal(sort_into_blocks(given, 8), golden["out.coords"].to(torch.int32))


def test_too_large_a_grid_is_refused():
    far = torch.full((2, 4), 2**31 - 2, dtype=torch.int32)
    far[:, 0] = 0
    with pytest.raises(InputError, match="too many to number"):
        unique_coords(far)
    with pytest.raises(InputError, match="must not be negative"):
        unique_coords(-far)

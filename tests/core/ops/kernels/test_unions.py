"""Unions of the blocks that tiles of tokens chose, against sets made token by token."""

import pytest
import torch

from core.ops.kernels.unions import tile_unions
from core.ops.tiles import Tiles, make_tiles


def check(index: torch.Tensor, tiles: Tiles, order: torch.Tensor | None) -> None:
    unions = tile_unions(index, tiles, order)
    blocks, members, count = (x.cpu() for x in unions)
    width = tiles.size * index.shape[2]
    assert blocks.shape == members.shape == (index.shape[0], len(tiles), width) and count.shape == blocks.shape[:2]
    assert {x.dtype for x in unions} == {torch.int32}
    starts, stops = tiles.start.tolist(), tiles.stop.tolist()
    rows = list(range(index.shape[1])) if order is None else order.tolist()
    for g, choices in enumerate(index.tolist()):
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            who: dict[int, int] = {}
            for t, position in enumerate(range(start, stop)):
                for block in set(choices[rows[position]]) - {-1}:
                    who[block] = who.get(block, 0) | 1 << t
            n = int(count[g, i])
            found = dict(zip(blocks[g, i, :n].tolist(), [m % 2**32 for m in members[g, i, :n].tolist()], strict=True))
            assert found == who and list(found) == sorted(who)
            assert (blocks[g, i, n:] == -1).all() and (members[g, i, n:] == 0).all()


def random_choices(groups: int, tokens: int, size: int, blocks: int, device) -> torch.Tensor:
    """Distinct blocks in any order, some of them none."""
    index = torch.rand(groups, tokens, blocks, device=device).argsort(-1)[..., :size].int()
    return torch.where(torch.rand(index.shape, device=device) < 0.1, -1, index)


@pytest.mark.parametrize(
    ("size", "chosen", "blocks"), [(4, 8, 20), (4, 8, 8), (3, 5, 40), (32, 3, 9), (32, 32, 40), (1, 8, 30)]
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_unions_of_tiles(size, chosen, blocks, shuffled, device):
    cu = torch.tensor([0, 13, 13, 14, 60], device=device)
    index = random_choices(2, 60, chosen, blocks, device)
    order = torch.randperm(60, device=device).int() if shuffled else None
    check(index, make_tiles(cu, size), order)


def test_tiles_of_tokens_without_a_choice_and_of_one_choice_for_all(device):
    cu = torch.tensor([0, 9, 20], device=device)
    index = torch.full((1, 20, 4), -1, dtype=torch.int32, device=device)
    index[:, 9:] = torch.tensor([3, 1000000, 2**31 - 2, -1], dtype=torch.int32, device=device)
    check(index, make_tiles(cu, 4), None)
    assert (tile_unions(index, make_tiles(cu, 4), None).count.tolist()) == [[0, 0, 0, 3, 3, 3]]


def test_no_tiles(device):
    unions = tile_unions(
        torch.zeros(2, 0, 4, dtype=torch.int32, device=device), make_tiles(torch.zeros(1, device=device), 4), None
    )
    assert unions.blocks.shape == (2, 0, 16)

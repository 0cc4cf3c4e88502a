"""Calls of ``query_gradients`` for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.compressed import compressed_tile_size
from core.ops.kernels.local import local_tile_size
from core.ops.kernels.query_gradients import query_gradients
from core.ops.kernels.unions import Unions
from core.ops.tiles import make_tiles
from tests.core.ops.kernels.offline_local import GENERAL

N = 256
CU = torch.tensor([0, 100, N], dtype=torch.int32)


def shipped() -> None:
    """32 heads of 32, 2 key heads, all branches."""
    _call(32, 2, 32, torch.bfloat16, "csw")


def one_branch() -> None:
    """Every other kind of shape, each branch alone."""
    for case in GENERAL:
        for branch in "csw":
            _call(*case, branch)


def _call(heads: int, groups: int, channels: int, dtype: torch.dtype, branches: str) -> None:
    q = torch.empty(N, heads, channels, dtype=dtype)
    k = torch.empty(N, groups, channels, dtype=dtype)
    coarse, selected, window = (x in branches for x in "csw")
    size = compressed_tile_size(q, groups) if branches == "c" else local_tile_size(q, groups, selected)
    tiles = make_tiles(CU, size)
    entries = torch.empty(groups, len(tiles), size * 8, dtype=torch.int32)
    lse2 = torch.empty(N, heads)
    query_gradients(
        *(q, k, k, k if coarse else None, k if coarse else None, q),
        gate=torch.empty(N, 3) if len(branches) == 3 else None,
        dots=torch.empty(3, N, heads),
        lse2_coarse=lse2 if coarse else None,
        lse2_selected=lse2 if selected else None,
        lse2_window=lse2 if window else None,
        unions=Unions(entries, entries, torch.empty(groups, len(tiles), dtype=torch.int32)) if selected else None,
        cu_blocks=CU if selected else None,
        cu_windows=CU if window else None,
        cu_cells=CU if coarse else None,
        sample_of_tile=tiles.segment if coarse else None,
        tiles=tiles,
        order=torch.arange(N).int() if window else None,
    )

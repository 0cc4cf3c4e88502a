"""Calls of ``local_forward`` for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.local import local_forward, local_tile_size
from core.ops.kernels.unions import Unions
from core.ops.tiles import make_tiles

GENERAL = [  # heads, key heads, channels, dtype: what needs padding, one head for each key head, float32
    (6, 2, 40, torch.float16),
    (8, 8, 64, torch.bfloat16),
    (8, 2, 128, torch.bfloat16),
    (6, 2, 32, torch.float32),
    (8, 8, 64, torch.float32),
]


def shipped() -> None:
    """32 heads of 32, 2 key heads, all branches, forward for training."""
    _call(32, 2, 32, torch.bfloat16, chosen=8, windows=True)


def chosen_blocks() -> None:
    """Every other kind of shape, without windows."""
    for case in GENERAL:
        _call(*case, chosen=5, windows=False)


def windows() -> None:
    """The same without chosen blocks; the windows of the sparse VAE are among them."""
    for case in GENERAL:
        _call(*case, chosen=0, windows=True)


def _call(heads: int, groups: int, channels: int, dtype: torch.dtype, chosen: int, windows: bool) -> None:
    n = 256
    q = torch.empty(n, heads, channels, dtype=dtype)
    k = torch.empty(n, groups, channels, dtype=dtype)
    cu = torch.tensor([0, 100, n], dtype=torch.int32)
    size = local_tile_size(q, groups, bool(chosen))
    tiles = make_tiles(cu, size)
    entries = torch.empty(groups, len(tiles), size * chosen, dtype=torch.int32)
    unions = Unions(entries, entries, torch.empty(groups, len(tiles), dtype=torch.int32))
    gated = bool(chosen) and windows
    local_forward(
        *(q, k, k, tiles, torch.arange(n).int() if windows else None),
        unions=unions if chosen else None,
        cu_blocks=cu if chosen else None,
        cu_windows=cu if windows else None,
        coarse=q if gated else None,
        gate=torch.empty(n, 3) if gated else None,
        keep_parts=True,
    )

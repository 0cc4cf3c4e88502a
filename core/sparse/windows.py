"""Window partition: which voxels attend to each other in local attention.

Windows are cubes of ``window`` voxels; a shift moves them without wrap-around. Letters: N voxels, W windows.
"""

import torch
from torch import Tensor

from core.ops.block_plan import WindowPlan
from core.sparse.coords import bounds, check_key_range, encode_keys, parents
from core.sparse.tensor import SparseTensor


def plan_windows(
    coords: Tensor,  # [N, 4]
    window: int,
    shift: int = 0,
) -> WindowPlan:
    """Group voxels by ``(batch, (xyz + shift) // window)``, stable within a window."""
    assert window >= 1 and 0 <= shift < window, f"window {window}, shift {shift}"
    _, high = bounds(coords)
    shifted = coords.clone()
    shifted[:, 1:] += shift
    counts = tuple((h + shift) // window + 1 for h in high[1:])
    check_key_range(high[0] + 1, counts)
    keys, order = torch.sort(encode_keys(parents(shifted, window), counts), stable=True)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    lengths = torch.unique_consecutive(keys, return_counts=True)[1]
    ends = lengths.cumsum(0).to(torch.int32)
    cu_seqlens = torch.cat([ends.new_zeros(1), ends])
    max_len = int(lengths.max()) if lengths.numel() else 0
    return WindowPlan(order, inverse, cu_seqlens, max_len)


def window_plan(x: SparseTensor, window: int, shift: int = 0) -> WindowPlan:
    """The plan of ``x``, built once per coordinate set."""
    return x.cache.get(("windows", window, shift), lambda: plan_windows(x.coords, window, shift))

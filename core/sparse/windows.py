"""Window partition: which voxels attend to each other in local attention.

Windows are cubes of ``window`` voxels; a shift moves them without wrap-around. Letters: N voxels, W windows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.sparse.coords import bounds, check_key_range, encode_keys, parents
from core.sparse.tensor import SparseTensor


@dataclass(frozen=True)
class WindowPlan:
    """Voxels grouped by window: rows ``order[cu_seqlens[w]:cu_seqlens[w + 1]]`` are window ``w``."""

    order: Tensor  # [N] int64: grouped position -> voxel row
    inverse: Tensor  # [N] int64: voxel row -> grouped position
    cu_seqlens: Tensor  # [W + 1] int32
    max_len: int  # voxels in the fullest window; 0 if there are none

    @property
    def num_windows(self) -> int:
        """W, occupied windows only."""
        return self.cu_seqlens.shape[0] - 1


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

"""What sparse convolutions derive from a coordinate set's neighbour map: once, kept with it.

Letters: N voxels, K kernel offsets, I tiles of at most ``size`` rows, T taps (products per voxel).

Rows that miss the same neighbours are put next to each other, so that a tile of rows has few offsets that only some
of them need, and skips those that none needs. The torch path looks at none of this.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.block_plan import Memo

MASK_BITS = 62  # offsets that the order of rows looks at: all 27 of a 3^3 kernel


@dataclass(frozen=True)
class TileTaps:
    """Tile ``i`` has the rows ``order[i * size : (i + 1) * size]``; a voxel without a neighbour contributes zero."""

    size: int
    taps: Tensor  # [I, T] int32: the taps that some row of the tile has, ascending, then the others
    counts: Tensor  # [I] int32: how many it has
    tiles: Tensor  # [T, I] int32: the same read the other way, tiles that have the tap, ascending, then the others
    tile_counts: Tensor  # [T] int32


@dataclass(frozen=True)
class ConvPlan:
    """A symmetric neighbour map, and what kernels derive from it at the first use."""

    neighbor_map: Tensor  # [N, K] int32 row or -1; see core.sparse.neighbors
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    @property
    def by_offset(self) -> Tensor:
        """The map with the rows of one offset next to each other, [K, N] int32."""
        return self.memo.get("by_offset", lambda: self.neighbor_map.t().contiguous())

    @property
    def order(self) -> Tensor:
        """[N] int32: rows sorted by which neighbours they have, along a Gray code: one changes at a time."""
        return self.memo.get("order", lambda: _gray_order(self.by_offset))

    def tile_taps(self, size: int, *, subdivided: bool = False) -> TileTaps:
        """Taps of tiles of ``size`` rows: the K offsets, or the 64 of a subdivided convolution's input gradient.

        Those are (child, one of 8) pairs, see :func:`subdivided_columns`; a pair is read at the mirrored offset.
        """
        return self.memo.get(("taps", size, subdivided), lambda: self._tile_taps(size, subdivided))

    def _tile_taps(self, size: int, subdivided: bool) -> TileTaps:
        present = self.memo.get(("present", size), lambda: _present(self.by_offset, self.order, size))  # [I, K]
        if subdivided:
            mirrored = 26 - torch.tensor(subdivided_columns(), device=present.device)
            present = present[:, mirrored]
        by_tap = present.t()
        return TileTaps(
            size=size,
            taps=_true_first(present),
            counts=present.sum(1, dtype=torch.int32),
            tiles=_true_first(by_tap),
            tile_counts=by_tap.sum(1, dtype=torch.int32),
        )


def subdivided_columns() -> list[int]:
    """Offset of the parent (of 27, x fastest) that child ``i // 8`` sees through its folded tap ``i % 8``. 64 long.

    Along an axis the low child sees the parents at -1 and 0, the high child those at 0 and +1.
    """
    columns = []
    for child in range(8):
        for tap in range(8):
            x, y, z = ((child >> bit & 1) + (tap >> bit & 1) for bit in (2, 1, 0))
            columns.append(x + 3 * y + 9 * z)
    return columns


def fold_subdivided(
    weight: Tensor,  # [27, I, O]
) -> Tensor:
    """Weights of equal inputs summed in float32: [64, I, O] in the order of :func:`subdivided_columns`."""
    w = weight.float().unflatten(0, (3, 3, 3))  # z, y, x
    for axis in range(3):  # the children and taps of an axis replace it: [.., 2, 2, ..]
        low, middle, high = w.unbind(2 * axis)
        first, second = torch.stack([low, middle + high]), torch.stack([low + middle, high])  # [2, ..] taps
        w = torch.stack([first, second]).movedim((0, 1), (2 * axis, 2 * axis + 1))
    # z child, z tap, y child, y tap, x child, x tap -> children (x, y, z), taps (x, y, z)
    return w.permute(4, 2, 0, 5, 3, 1, 6, 7).reshape(64, *weight.shape[1:]).to(weight.dtype)


def unfold_subdivided(
    grad: Tensor,  # [64, I, O] float32
) -> Tensor:
    """Gradient of the [27, I, O] weights from that of the folded ones, float32."""
    w = grad.view(2, 2, 2, 2, 2, 2, *grad.shape[1:]).permute(2, 5, 1, 4, 0, 3, 6, 7)
    for axis in reversed(range(3)):
        (low, high), (first, last) = (child.unbind(2 * axis) for child in w.unbind(2 * axis))
        w = torch.stack([low + first, high + first, high + last], dim=2 * axis)
    return w.reshape(27, *grad.shape[1:])


def children_map(
    parent_map: Tensor,  # [N, 27]
) -> Tensor:
    """The 3^3 map of the 8 children of every voxel, consecutive with z fastest. Returns [8 N, 27] int32."""
    n = parent_map.shape[0]
    child, offset = torch.arange(8), torch.arange(27)
    corner = torch.stack([child >> 2, child >> 1 & 1, child & 1], dim=1)  # [8, 3]
    step = torch.stack([offset % 3, offset // 3 % 3, offset // 9], dim=1) - 1  # [27, 3]
    target = corner[None] + step[:, None]  # [27, 8, 3] relative to the parent's first child
    column = (target.div(2, rounding_mode="floor") + 1) @ torch.tensor([1, 3, 9])  # [27, 8]
    inside = ((target % 2) @ torch.tensor([4, 2, 1])).to(torch.int32).to(parent_map.device)  # [27, 8]
    by_offset = parent_map.t().contiguous()  # [27, N]
    found = torch.empty((27, n, 8), dtype=torch.int32, device=parent_map.device)
    for k, columns in enumerate(column.to(parent_map.device)):
        rows = by_offset[columns]  # [8, N]
        found[k] = torch.where(rows < 0, -1, 8 * rows + inside[k][:, None]).t()
    return found.view(27, 8 * n).t()


def _gray_order(by_offset: Tensor) -> Tensor:
    mask = torch.zeros(by_offset.shape[1], dtype=torch.int64, device=by_offset.device)
    for k, rows in enumerate(by_offset[:MASK_BITS]):
        mask |= (rows >= 0).long() << k
    for shift in (1, 2, 4, 8, 16, 32):  # the place of a Gray code word
        mask ^= mask >> shift
    return torch.argsort(mask, stable=True).to(torch.int32)


def _present(by_offset: Tensor, order: Tensor, size: int) -> Tensor:
    """Whether some row of a tile has a neighbour at an offset, [I, K] bool."""
    tiles = -(-order.shape[0] // size)
    present = torch.empty((tiles, by_offset.shape[0]), dtype=torch.bool, device=order.device)
    for k, rows in enumerate(by_offset):
        found = rows.index_select(0, order) >= 0
        present[:, k] = F.pad(found, (0, tiles * size - order.shape[0])).view(tiles, size).any(1)
    return present


def _true_first(present: Tensor) -> Tensor:
    return torch.argsort((~present).to(torch.uint8), dim=1, stable=True).to(torch.int32).contiguous()

"""Sparse voxels as layers of small dense blocks, each with the first voxels of its upper neighbours.

What surface extraction walks over: a layer is 16 voxels thick along x, and only its blocks that hold voxels exist.
"""

from collections.abc import Iterator

import numpy as np

from core.geometry.marching_cubes_table import CORNER_OFFSETS

# N active voxels, R grid side, S blocks in a layer or batch

SIDE = 16  # voxels a side of a block
HALO = SIDE + 1  # of a block with the first voxels of its upper neighbours
ROWS = 1 << 20  # rows looked at at once where a long array is read
_BATCH = 64  # blocks handed out at once: what works on them needs some 20 MB


def _layer_starts(coords: np.ndarray, num: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Order of the voxels by layer (None if they already are) and the first position of each layer [num + 1]."""
    count, ascending, last = np.zeros(num, dtype=np.int64), True, 0
    for start in range(0, len(coords), ROWS):
        layer = coords[start : start + ROWS, 0] // SIDE
        count += np.bincount(layer, minlength=num)
        ascending = ascending and bool(layer[0] >= last and (layer[1:] >= layer[:-1]).all())
        last = layer[-1]
    starts = np.concatenate([[0], np.cumsum(count)])
    if ascending:
        return None, starts
    return np.argsort((coords[:, 0] // SIDE).astype(np.uint16), kind="stable"), starts


class _Layer:
    """The blocks of one layer that hold voxels, as dense little cubes."""

    def __init__(self, coords: np.ndarray, values: np.ndarray, blocks: int, fill: float) -> None:
        """coords [N, 3] of one layer, values [N], blocks: blocks along y and z, fill: value of inactive voxels."""
        x, y, z = (np.ascontiguousarray(coords[:, i], dtype=np.int32) for i in range(3))
        block = (y // SIDE) * (blocks + 1) + z // SIDE
        held = np.zeros((blocks + 1) ** 2, dtype=bool)  # one more along y and z: the halo of the last block
        held[block] = True
        num = int(held.sum())
        self.slots = np.full((blocks + 1) ** 2, num, dtype=np.int32)  # slot `num` is an inactive block
        self.slots[held] = np.arange(num, dtype=np.int32)
        self.values = np.full((num + 1, SIDE, SIDE, SIDE), fill, dtype=np.float32)
        local = ((x % SIDE) * SIDE + y % SIDE) * SIDE + z % SIDE
        values = values.astype(np.float32)
        self.values.reshape(-1)[self.slots[block] * SIDE**3 + local] = np.where(np.isfinite(values), values, fill)
        self.slots = self.slots.reshape(blocks + 1, blocks + 1)
        self.held = held.reshape(blocks + 1, blocks + 1)

    def reaches(self, threshold: np.float32, outside: float) -> tuple[np.ndarray, np.ndarray]:
        """Blocks [2 of blocks + 1, blocks + 1] bool that a crossing with ``outside`` below y or z (first) or below
        x (second, of the layer before) may lie in."""
        crosses = ((self.values > threshold) != (outside > threshold))[:-1]
        here, before = np.zeros_like(self.held), np.zeros_like(self.held)
        at = np.argwhere(self.held)  # rows in slot order
        for dy in (0, 1):
            for dz in (0, 1):
                rim = crosses[:, :, 0 : 1 if dy else None, 0 : 1 if dz else None]
                for target, part in ((here, rim), (before, rim[:, 0:1])):
                    block = at[part.any((1, 2, 3))] - (dy, dz)
                    block = block[(block >= 0).all(1)]
                    target[block[:, 0], block[:, 1]] = True
        return here, before


def block_layers(
    coords: np.ndarray, values: np.ndarray, resolution: int, threshold: np.float32, outside: float | None
) -> Iterator[tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]]:
    """Yields (first x, its batches of blocks) of each layer in turn; use up the batches before the next layer."""
    blocks = -(-resolution // SIDE)
    fill = np.nan if outside is None else outside
    order, starts = _layer_starts(coords, blocks)

    def load(index: int) -> _Layer:
        rows = slice(starts[index], starts[index + 1]) if index < blocks else slice(0, 0)
        rows = rows if order is None else order[rows]
        return _Layer(coords[rows], values[rows], blocks, fill)

    above = load(0)
    for index in range(blocks):
        layer, above = above, load(index + 1)
        wanted = layer.held.copy()
        if outside is not None:
            wanted |= layer.reaches(threshold, outside)[0] | above.reaches(threshold, outside)[1]
        at = np.argwhere(wanted[:blocks, :blocks])
        yield index * SIDE, _block_batches(layer, above, at, index, resolution)


def _block_batches(
    layer: _Layer, above: _Layer, at: np.ndarray, index: int, resolution: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (field [S, 17, 17, 17] float32, NaN where inactive, origin [S, 3]) of the blocks ``at`` [., 2] (y, z)."""
    for start in range(0, len(at), _BATCH):
        y, z = at[start : start + _BATCH].T
        field = np.empty((len(y), HALO, HALO, HALO), dtype=np.float32)
        for dx, dy, dz in CORNER_OFFSETS:
            source = above if dx else layer
            part = source.values[:, : 1 if dx else None, : 1 if dy else None, : 1 if dz else None]
            where = (slice(SIDE, None) if d else slice(0, SIDE) for d in (dx, dy, dz))
            field[(slice(None), *where)] = part[source.slots[y + dy, z + dz]]
        origin = np.stack([np.full(len(y), index), y, z], 1) * SIDE
        for axis in range(3):  # the grid has no cube beyond its last voxel
            gone = np.arange(HALO) >= resolution - origin[:, axis, None]  # [S, 17]
            if gone.any():
                shape = [len(y), 1, 1, 1]
                shape[axis + 1] = HALO
                field[np.broadcast_to(gone.reshape(shape), field.shape)] = np.nan
        yield field, origin

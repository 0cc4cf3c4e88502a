"""Sparse voxels as layers of small dense blocks, each with the first voxels of its upper neighbours.

What surface extraction walks over: a layer is 16 voxels thick along x, and of it only those blocks exist that hold
voxels, or cells of the far field on both sides. Everything is on the device of the voxels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from core.sparse.refined_field import FarField

# N active voxels, R grid side, S blocks in a layer or batch, B blocks along a side of the grid, c far cells along one

SIDE = 16  # voxels a side of a block
HALO = SIDE + 1  # of a block with the first voxels of its upper neighbours
ROWS = 1 << 20  # rows looked at at once where a long array is read
_BATCH = {"cpu": 64}  # blocks handed out at once: what works on them needs some 20 MB
_BATCH_ON_GPU = 512  # some 150 MB
_CORNERS = [(c >> 2, c >> 1 & 1, c & 1) for c in range(8)]

Outside = float | FarField | None  # what voxels that are not active count as; None: as unknown


def _layer_starts(coords: Tensor, num: int) -> tuple[Tensor | None, list[int]]:
    """Order of the voxels by layer (None if they already are) and the first position of each layer [num + 1]."""
    count = torch.zeros(num, dtype=torch.int64, device=coords.device)
    ascending, last = True, 0
    for start in range(0, len(coords), ROWS):
        layer = coords[start : start + ROWS, 0] // SIDE
        count += torch.bincount(layer, minlength=num)
        ascending = ascending and bool((layer[0] >= last) & (layer[1:] >= layer[:-1]).all())
        last = int(layer[-1])
    starts = [0, *count.cumsum(0).tolist()]
    if ascending:
        return None, starts
    return torch.argsort((coords[:, 0] // SIDE).to(torch.int16), stable=True), starts


class _Layer:
    """The blocks of one layer as dense little cubes; blocks that are alike everywhere share one."""

    def __init__(
        self,
        coords: Tensor,  # [N, 3] of one layer
        values: Tensor,  # [N]
        blocks: int,  # B
        outside: float | None,
        far: Tensor | None,  # [c, B * c, B * c] bool, the layer's cells of the far field
    ) -> None:
        device, wide = values.device, blocks + 1  # one more along y and z: the halo of the last block
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            coords, values = coords[finite], values[finite]
        x, y, z = coords.long().unbind(1)
        block = (y // SIDE) * wide + z // SIDE
        held = torch.zeros(wide * wide, dtype=torch.bool, device=device)
        held[block] = True
        held = held.view(wide, wide)
        if far is None:
            num = int(held.sum())
            self.values = torch.full((num + 1, SIDE, SIDE, SIDE), _fill(outside), device=device)
            self.slots = torch.full((wide, wide), num, dtype=torch.int64, device=device)
        else:
            cells = len(far)
            far = far.view(cells, blocks, cells, blocks, cells).permute(1, 3, 0, 2, 4)  # [B, B, c, c, c]
            every, some = far.flatten(2).all(2), far.flatten(2).any(2)
            held[:blocks, :blocks] |= some & ~every
            num = int(held.sum())
            self.values = torch.empty(num + 2, SIDE, SIDE, SIDE, device=device)
            self.values[num:] = torch.tensor([1.0, -1.0], device=device).view(2, 1, 1, 1)
            own = torch.where(far[held[:blocks, :blocks]], 1.0, -1.0)  # [num, c, c, c]
            factor = SIDE // cells
            own = own.view(num, cells, 1, cells, 1, cells, 1).expand(-1, -1, factor, -1, factor, -1, factor)
            self.values[:num].view(num, cells, factor, cells, factor, cells, factor).copy_(own)
            self.slots = torch.full((wide, wide), num, dtype=torch.int64, device=device)
            self.slots[:blocks, :blocks] += (~every).long()
        self.slots[held] = torch.arange(num, device=device)
        local = ((x % SIDE) * SIDE + y % SIDE) * SIDE + z % SIDE
        self.values.view(-1)[self.slots.view(-1)[block] * SIDE**3 + local] = values.float()

    def sides(self, threshold: float) -> Tensor:
        """Whether each block has values above the threshold, and below: [2, 2, 2, 2, S], over (the whole block or its
        first voxels along x, the same along y and z, above or below, block)."""
        found = torch.empty(2, 2, 2, 2, len(self.values), dtype=torch.bool, device=self.values.device)
        for side, there in enumerate((self.values > threshold, self.values <= threshold)):
            for dx in (0, 1):
                along_x = there[:, 0] if dx else there.any(1)  # [S, y, z]
                for dy in (0, 1):
                    along_y = along_x[:, 0] if dy else along_x.any(1)
                    found[dx, dy, 0, side] = along_y.any(1)
                    found[dx, dy, 1, side] = along_y[:, 0]
        return found


def _fill(outside: float | None) -> float:
    return float("nan") if outside is None else outside


def _crossing(layer: _Layer, above: _Layer, threshold: float, blocks: int) -> Tensor:
    """Blocks [., 2] (y, z) of a layer that have, with their halo, values on both sides of the threshold."""
    both = torch.zeros(2, blocks, blocks, dtype=torch.bool, device=layer.values.device)
    for dx, source in enumerate((layer, above)):
        sides = source.sides(threshold)
        for dy in (0, 1):
            for dz in (0, 1):
                both |= sides[dx, dy, dz][:, source.slots[dy : dy + blocks, dz : dz + blocks]]
    return both.all(0).nonzero()


def block_layers(
    coords: Tensor,  # [N, 3] integer
    values: Tensor,  # [N]
    resolution: int,
    threshold: float,
    outside: Outside,
) -> Iterator[tuple[int, Iterator[tuple[Tensor, Tensor]]]]:
    """Yields (first x, its batches of blocks) of each layer in turn; use up the batches before the next layer."""
    blocks = -(-resolution // SIDE)
    order, starts = _layer_starts(coords, blocks)
    far = outside if isinstance(outside, FarField) else None
    if far is not None:
        assert SIDE % far.factor == 0 and far.outside.shape[0] * far.factor == resolution, "far field of another grid"

    def load(index: int) -> _Layer:
        rows = slice(starts[index], starts[index + 1]) if index < blocks else slice(0, 0)
        rows = rows if order is None else order[rows]
        cells = None if far is None else _far_layer(far, index, blocks)
        return _Layer(coords[rows], values[rows], blocks, None if far is not None else outside, cells)

    above = load(0)
    for index in range(blocks):
        layer, above = above, load(index + 1)
        yield index * SIDE, _block_batches(layer, above, _crossing(layer, above, threshold, blocks), index, resolution)


def _far_layer(far: FarField, index: int, blocks: int) -> Tensor:
    """Cells [c, B * c, B * c] of layer ``index``; those beyond the grid repeat its last ones."""
    cells = SIDE // far.factor
    last = far.outside.shape[0] - 1
    x = torch.arange(index * cells, (index + 1) * cells, device=far.outside.device).clamp(max=last)
    yz = torch.arange(blocks * cells, device=far.outside.device).clamp(max=last)
    return far.outside[x][:, yz][:, :, yz]


def _block_batches(
    layer: _Layer, above: _Layer, at: Tensor, index: int, resolution: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (field [S, 17, 17, 17] float32, NaN where inactive, origin [S, 3]) of the blocks ``at`` [., 2] (y, z)."""
    device = layer.values.device
    for part in at.split(_BATCH.get(device.type, _BATCH_ON_GPU)):
        y, z = part.unbind(1)
        field = torch.empty(len(y), HALO, HALO, HALO, device=device)
        for dx, dy, dz in _CORNERS:
            source = above if dx else layer
            values = source.values[:, : 1 if dx else None, : 1 if dy else None, : 1 if dz else None]
            where = tuple(slice(SIDE, None) if d else slice(0, SIDE) for d in (dx, dy, dz))
            field[(slice(None), *where)] = values[source.slots[y + dy, z + dz]]
        origin = torch.stack([torch.full_like(y, index), y, z], 1) * SIDE
        for axis in range(3):  # the grid has no cube beyond its last voxel
            gone = torch.arange(HALO, device=device) >= resolution - origin[:, axis, None]  # [S, 17]
            shape = [len(y), 1, 1, 1]
            shape[axis + 1] = HALO
            field.masked_fill_(gone.view(shape), float("nan"))
        yield field, origin

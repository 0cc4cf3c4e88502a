"""What is inside where a field has no voxels: what no path from outside reaches.

A decoder knows distances in a band around the surface; the release counts all else as outside, which makes a second
surface along the inner side of the band. The flood here goes from outside through empty cells and through voxels that
are outside themselves, so that a cavity whose mouth is narrower than the band is still reached. Where the band has a
hole, it runs in, and the inner surface stays there as it does without it.

Letters: N voxels, R voxels per side of the grid, K voxels per side of a cell, C cells with voxels, n cells per side.
"""

import numpy as np
import torch
from torch import Tensor

from core.sparse.refined_field import FarField, RefinedField

_ROWS = 1 << 20  # voxels looked at at once
_CELLS = 1 << 14  # cells of the front looked at at once
_STEPS = [(axis, towards) for axis in range(3) for towards in (-1, 1)]


def flood_outside(
    coords: Tensor,  # [N, 3] integer
    values: Tensor,  # [N] positive outside
    resolution: int,  # R, a multiple of cell
    cell: int,  # K
    level: float = 0.0,
) -> RefinedField:
    """The field with all that the flood does not reach inside.

    Its voxels are those of the input: outside ones that are enclosed count as -1, values that are not finite as
    missing; voxels missing in a cell that has others are added.
    """
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        coords, values = coords[finite], values[finite]
    cells = _Cells(coords, values, resolution // cell, cell, level)
    reached_empty = cells.flood()
    closed = cells.open & ~cells.reached  # [C, K^3]
    kept = [torch.where(closed[index], -1.0, part).to(values.dtype) for index, part in cells.rows(coords, values)]
    missing = ~cells.known
    at = missing.nonzero()
    if len(at):
        where = cells.places[at[:, 0]] * cell + cells.within(at[:, 1])
        coords = torch.cat([coords, where.to(coords.dtype)])
        kept.append(torch.where(cells.reached[missing], 1.0, -1.0).to(values.dtype))
    values = torch.cat(kept) if kept else values
    return RefinedField(coords, values, resolution, FarField(reached_empty, cell))


class _Cells:
    """The cells of a grid: those with voxels as rows of booleans, the empty ones by the part that they belong to."""

    def __init__(self, coords: Tensor, values: Tensor, side: int, cell: int, level: float) -> None:
        self.cell, self.side, self.device = cell, side, values.device
        self.wide = side + 2  # a margin of empty cells, where the flood starts
        held = torch.zeros(self.wide**3, dtype=torch.bool, device=self.device)
        for part in coords.split(_ROWS):
            held[self._key(part.long() // cell + 1)] = True
        keys = held.nonzero()[:, 0]
        self.places = torch.stack([keys // self.wide**2, keys // self.wide % self.wide, keys % self.wide], 1) - 1
        self.slots = torch.full((self.wide**3,), -1, dtype=torch.int64, device=self.device)
        self.slots[keys] = torch.arange(len(keys), device=self.device)
        self.open = torch.ones(len(keys), cell**3, dtype=torch.bool, device=self.device)  # the flood may pass
        self.known = torch.zeros_like(self.open)  # there is a voxel
        self.reached = torch.zeros_like(self.open)
        for index, part in self.rows(coords, values):
            self.open[index] = part > level
            self.known[index] = True
        self.part, self.part_reached = self._parts(held)

    def _key(self, place: Tensor) -> Tensor:  # [..., 3] with the margin -> [...]
        return (place[..., 0] * self.wide + place[..., 1]) * self.wide + place[..., 2]

    def within(self, local: Tensor) -> Tensor:  # [M] -> [M, 3]
        """Where in its cell a voxel is."""
        return torch.stack([local // self.cell**2, local // self.cell % self.cell, local % self.cell], 1)

    def rows(self, coords: Tensor, values: Tensor):
        """Yields the (cell, place in it) of some voxels as an index, and their values, until all were there."""
        for place, part in zip(coords.split(_ROWS), values.split(_ROWS), strict=True):
            place = place.long()
            x, y, z = (place % self.cell).unbind(1)
            slot = self.slots[self._key(place // self.cell + 1)]
            yield (slot, (x * self.cell + y) * self.cell + z), part.float()

    def _parts(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """The number of the connected part of each empty cell (0: not empty) and which the flood has reached."""
        from scipy.ndimage import label

        labels, count = label(~held.view((self.wide,) * 3).cpu().numpy())
        part = torch.from_numpy(labels.reshape(-1).astype(np.int64)).to(self.device)
        reached = torch.zeros(count + 1, dtype=torch.bool, device=self.device)
        reached[part[0]] = True
        return part, reached

    def flood(self) -> Tensor:
        """Fills ``reached``; returns the cells [n, n, n] bool that are empty and reached, or have a voxel reached."""
        front = self._beside(self.part_reached)
        while len(front):
            again = torch.zeros(len(self.open), dtype=torch.bool, device=self.device)
            entered = torch.zeros_like(self.part_reached)
            for rows in front.split(_CELLS):
                self._enter(rows, again, entered)
            entered &= ~self.part_reached
            front = again.nonzero()[:, 0]
            if bool(entered.any()):
                self.part_reached |= entered
                front = torch.cat([front, self._beside(entered)]).unique()
        outside = self.part_reached[self.part]
        outside[self._key(self.places + 1)] = self.reached.any(1)
        return outside.view((self.wide,) * 3)[1:-1, 1:-1, 1:-1].contiguous()

    def _beside(self, parts: Tensor) -> Tensor:
        """Cells with voxels next to an empty cell of these parts [parts] bool."""
        key = self._key(self.places + 1)
        found = torch.zeros(len(key), dtype=torch.bool, device=self.device)
        for axis, towards in _STEPS:
            found |= parts[self.part[key + towards * self._stride(axis)]]
        return found.nonzero()[:, 0]

    def _stride(self, axis: int) -> int:
        return self.wide ** (2 - axis)

    def _enter(self, rows: Tensor, again: Tensor, entered: Tensor) -> None:
        """Lets the flood into the cells ``rows``; marks cells to look at again and parts of empty cells it came to."""
        shape = (-1, self.cell, self.cell, self.cell)
        is_open = self.open[rows].view(shape)
        water, key = self.reached[rows].view(shape), self._key(self.places[rows] + 1)
        before = water.clone()
        faces = []
        for axis, towards in _STEPS:
            beyond = key + towards * self._stride(axis)
            slot = self.slots[beyond]
            faces.append((axis, towards, beyond, slot))
            theirs = self.reached[slot.clamp_min(0)].view(shape).select(axis + 1, 0 if towards > 0 else -1)
            empty = self.part_reached[self.part[beyond]]  # part 0, of cells with voxels, is never reached
            inflow = torch.where((slot >= 0)[:, None, None], theirs, empty[:, None, None])
            water.select(axis + 1, -1 if towards > 0 else 0).logical_or_(inflow)
        water &= is_open
        while True:
            spread = water.clone()
            for axis in (1, 2, 3):
                low, high = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(None, -1),)
                spread[low] |= water[high]
                spread[high] |= water[low]
            spread &= is_open
            if torch.equal(spread, water):
                break
            water = spread
        self.reached[rows] = water.flatten(1)
        changed = (water != before).flatten(1).any(1)
        for axis, towards, beyond, slot in faces:
            leaves = changed & water.select(axis + 1, -1 if towards > 0 else 0).flatten(1).any(1)
            again[slot[leaves & (slot >= 0)]] = True
            entered[self.part[beyond[leaves & (slot < 0)]]] = True

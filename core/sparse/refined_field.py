"""A field on a whole grid, of which only what its surface needs is kept.

A dense grid of 1024 voxels a side has 2 GB in half precision, and nearly all of it only says inside or outside. So a
refined field is the values of some voxels, and for all others one bit for each cell of a coarser grid.

Letters: R voxels per side of the grid, r cells per side of the far field, X layers along x, V voxels with a value.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_SLAB = 32  # layers along x that are looked at together


@dataclass(frozen=True, eq=False)
class FarField:
    """Whether voxels without a value are outside, where they count as 1.0, or inside, as -1.0."""

    outside: Tensor  # [r, r, r] bool
    factor: int  # voxels per side of a cell

    def to(self, device: torch.device | str) -> "FarField":
        """The same on another device."""
        return FarField(self.outside.to(device), self.factor)

    def at(
        self,
        coords: Tensor,  # [V, 3] voxels
    ) -> Tensor:  # [V] float32, 1.0 or -1.0
        """What it says of these voxels."""
        outside = self.outside[tuple((coords.long() // self.factor).unbind(1))]
        return torch.where(outside, 1.0, -1.0)


@dataclass(frozen=True, eq=False)
class RefinedField:
    """The field of one sample: positive outside, in truncation bands.

    Without a far field, the voxels are all that its surface at one level needs: the corners of the cubes that cross it.
    """

    coords: Tensor  # [V, 3] int32, x, y, z
    values: Tensor  # [V]
    resolution: int  # R
    far: FarField | None = None

    def dense(self) -> Tensor:
        """[R, R, R] float32, NaN where nothing is known: for looking at small fields and for tests."""
        side = self.resolution
        grid = torch.full((side,) * 3, float("nan"), device=self.values.device)
        if self.far is not None:
            grid = torch.where(self.far.outside, 1.0, -1.0)
            for axis in range(3):
                grid = grid.repeat_interleave(self.far.factor, axis)
        grid[tuple(self.coords.long().unbind(1))] = self.values.float()
        return grid


class CrossingVoxels:
    """Collects, from a dense field that comes in layers along x, the corners of the cubes that cross a level."""

    def __init__(self, level: float) -> None:
        self.level = level
        self._next = 0  # first layer that has not been looked at
        self._held: Tensor | None = None  # [1 or 2, R, R]: that layer, and the one before it
        self._coords: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(
        self,
        layers: Tensor,  # [X, R, R], those that follow the last ones
    ) -> None:
        """Takes the next layers; they are copied where they are still needed."""
        for part in layers.split(_SLAB):
            self._look(part if self._held is None else torch.cat([self._held, part]), last=False)

    def finish(self) -> tuple[Tensor, Tensor]:
        """coords [V, 3] int32, ascending, and values [V], after the last layer."""
        assert self._held is not None, "a field has layers"
        self._look(self._held, last=True)
        return torch.cat(self._coords), torch.cat(self._values)

    def _look(self, layers: Tensor, *, last: bool) -> None:
        """Keeps voxels of all layers from ``_next`` on, but for the last one, whose next neighbours are to come."""
        above = layers > self.level
        some, every = above, above
        for axis in range(3):  # over the corners of each cube
            count = some.shape[axis] - 1
            some = some.narrow(axis, 0, count) | some.narrow(axis, 1, count)
            every = every.narrow(axis, 0, count) & every.narrow(axis, 1, count)
        crossing = some & ~every
        needed = torch.zeros_like(above)
        for corner in range(8):
            part = needed
            for axis, shift in enumerate((corner >> 2, corner >> 1 & 1, corner & 1)):
                part = part.narrow(axis, shift, crossing.shape[axis])
            part |= crossing
        context = min(self._next, 1)  # layers that were looked at before
        end = len(layers) if last else len(layers) - 1
        found = needed[context:end].nonzero()
        self._values.append(layers[context:end][tuple(found.unbind(1))])
        found[:, 0] += self._next
        self._coords.append(found.int())
        self._next += end - context
        self._held = layers[max(end - 1, 0) :].clone()


def crossing_voxels(
    field: Tensor,  # [R, R, R]
    level: float,
) -> tuple[Tensor, Tensor]:
    """The corners of the cubes of a dense field that cross the level: what surface extraction needs of it.

    Returns:
        coords [V, 3] int32, ascending, and values [V].
    """
    found = CrossingVoxels(level)
    found.add(field)
    return found.finish()

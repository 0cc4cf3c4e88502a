"""Which cells of a grid lie near triangles: on any device, for triangles of any size.

Each triangle starts with the one to eight cells that its box covers on the level where they are so few, whatever its
size, and pairs of a triangle and a cell are halved or dropped from there. So the work follows the area of the surface
and the number of triangles; what is in memory is the mesh, a flag for each cell, and some pairs.

Letters: F triangles, V vertices, P pairs of a triangle and a cell, S voxels per side of the grid, n cells per side.
"""

import torch
from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]  # x, y, z, [P] each: sums over an axis of length three would be slow

_PAIRS = {"cpu": 1 << 16}
_PAIRS_ON_GPU = 1 << 18  # a pair takes about half a kilobyte while its distance is computed


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _along(start: Vector, direction: Vector, t: Tensor) -> Vector:
    return start[0] + t * direction[0], start[1] + t * direction[1], start[2] + t * direction[2]


def nearest_on_triangle(
    point: Vector,
    corners: tuple[Vector, Vector, Vector],
) -> tuple[Vector, Tensor]:
    """The nearest point of each pair's triangle, and the squared distance [P].

    As the release's voxeliser (spec 6.5): where the foot on the plane lies strictly inside the triangle, that, else the
    nearest point of its three sides; so a degenerate triangle is the segment or the point that it is.
    """
    tiny = torch.finfo(point[0].dtype).tiny
    sides = [_minus(corners[(i + 1) % 3], corners[i]) for i in range(3)]
    normal = _cross(sides[0], _minus(corners[2], corners[0]))
    best, least, inside = None, None, None
    for corner, side in zip(corners, sides, strict=True):
        offset = _minus(point, corner)
        t = (_dot(offset, side) / _dot(side, side).clamp_min(tiny)).clamp(0, 1)
        foot = _along(corner, side, t)
        gap = _minus(point, foot)
        squared = _dot(gap, gap)
        left = _dot(_cross(side, offset), normal) > 0
        if best is None or least is None:
            best, least, inside = foot, squared, left
        else:
            nearer = squared < least
            best = tuple(torch.where(nearer, new, old) for new, old in zip(foot, best, strict=True))
            least, inside = torch.where(nearer, squared, least), inside & left
    height = _dot(_minus(point, corners[0]), normal) / _dot(normal, normal).clamp_min(tiny)
    foot = _along(point, normal, -height)
    best = tuple(torch.where(inside, new, old) for new, old in zip(foot, best, strict=True))
    return best, torch.where(inside, height * height * _dot(normal, normal), least)


class NearCells:
    """Finds the cells that hold a voxel nearer to the triangles than ``reach``. Voxel i is at ``origin + i * step``."""

    def __init__(
        self,
        vertices: Tensor,  # [V, 3] float64
        faces: Tensor,  # [F, 3] int32
        size: int,  # S
        factor: int,  # voxels per side of a cell
        reach: float,
        origin: float,
        step: float,
    ) -> None:
        self.size, self.factor, self.reach, self.origin, self.step = size, factor, reach, origin, step
        self.device = vertices.device
        self.axes = vertices.T.contiguous()  # [3, V]
        self.corners = faces.T.contiguous()  # [3, F]
        self.cells = -(-size // factor)  # n
        self.active = torch.zeros(self.cells**3, dtype=torch.bool, device=self.device)
        self.at_once = _PAIRS.get(self.device.type, _PAIRS_ON_GPU)

    def find(self) -> Tensor:
        """[M, 3] int64, lexicographically ascending."""
        low, high = torch.empty(2, 3, self.corners.shape[1], dtype=torch.int32, device=self.device)  # boxes, in voxels
        margin = self.reach / self.step * (1 + 1e-9)
        for number, axis in enumerate(self.axes):
            least, most = ((axis[self.corners] - self.origin) / self.step).aminmax(dim=0)  # [F] each
            low[number] = (least - margin).ceil().clamp(0, self.size)
            high[number] = (most + margin).floor().clamp(-1, self.size - 1)
        side = torch.full_like(low[0], self.factor)  # of the cells that each triangle starts with
        while True:
            wide = ((high // side - low // side) > 1).any(0)
            if not bool(wide.any()):
                break
            side = torch.where(wide, side * 2, side)
        here = (low <= high).all(0)
        for width in side[here].unique().tolist():
            rows = (here & (side == width)).nonzero()[:, 0]
            parts = -(-8 * len(rows) // self.at_once)
            for part in range(parts):  # triangles from everywhere: most cells are found early, and are done with then
                self._search(rows[part::parts], low, high, width)
        x = self.active.nonzero()[:, 0]
        n = self.cells
        return torch.stack([x // n**2, x // n % n, x % n], 1)

    def _search(self, rows: Tensor, low: Tensor, high: Tensor, side: int) -> None:
        """Triangles ``rows`` [f] from cells of ``side`` voxels on."""
        offset = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32, device=self.device)] * 3).T  # [3, 8]
        cell = (low[:, rows] // side)[:, :, None] + offset[:, None]  # [3, f, 8]
        inside = (cell <= (high[:, rows] // side)[:, :, None]).all(0)
        waiting = [(rows[:, None].expand_as(inside)[inside], cell[:, inside], side)]
        while waiting:
            triangle, cell, side = waiting.pop()
            if len(triangle) > self.at_once:
                waiting.append((triangle[self.at_once :], cell[:, self.at_once :], side))
                triangle, cell = triangle[: self.at_once], cell[:, : self.at_once]
            triangle, cell = self._still_open(triangle, cell, side)
            if side == 1 or not len(triangle):
                continue
            parts = 2 if side % 2 == 0 else side
            inner = torch.cartesian_prod(*[torch.arange(parts, dtype=torch.int32, device=self.device)] * 3).T
            side //= parts
            cell = (cell * parts)[:, :, None] + inner[:, None]  # [3, P, parts^3]
            inside = ((cell <= (high[:, triangle] // side)[:, :, None]) & (
                cell >= (low[:, triangle] // side)[:, :, None]
            )).all(0)  # fmt: skip
            waiting.append((triangle[:, None].expand_as(inside)[inside], cell[:, inside], side))

    def _still_open(self, triangle: Tensor, cell: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Marks what is certain of pairs ``triangle`` [P] and ``cell`` [3, P]; returns the pairs to be halved."""
        owner = None
        if side <= self.factor:
            owner = self._owner(cell, side)
            unknown = ~self.active[owner]
            triangle, cell, owner = triangle[unknown], cell[:, unknown], owner[unknown]
        corners = tuple(tuple(self.axes[:, corner[triangle]]) for corner in self.corners)
        first = (cell * side).double()
        last = ((cell + 1) * side).clamp_max(self.size).double() - 1
        center = tuple(self.origin + (first + last) / 2 * self.step)
        foot, squared = nearest_on_triangle(center, corners)
        half_diagonal = (last - first).square().sum(0).sqrt() / 2 * self.step
        near = squared.sqrt() <= (self.reach + half_diagonal) * (1 + 1e-9)
        if owner is None:
            return triangle[near], cell[:, near]
        # The voxel nearest to the foot settles most pairs.
        index = ((torch.stack(foot) - self.origin) / self.step).round()
        candidate = tuple(self.origin + torch.minimum(torch.maximum(index, first), last) * self.step)
        found = nearest_on_triangle(candidate, corners)[1].sqrt() < self.reach
        self.active[owner[found]] = True
        near &= ~self.active[owner]
        return triangle[near], cell[:, near]

    def _owner(self, cell: Tensor, side: int) -> Tensor:
        """Number of the cell [P] that holds each smaller one of ``side`` voxels."""
        x, y, z = (cell * side // self.factor).long()
        return (x * self.cells + y) * self.cells + z

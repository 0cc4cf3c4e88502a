"""What passes from one stage to the next: cells of the coarse structure, voxels of a dense field, voxels of a mesh.

Letters: B samples, R cells per side of a grid, N occupied cells.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.config.generation import Interior
from core.config.presets import SparseStageConfig
from core.errors import ConfigError, NoSurfaceError
from core.geometry.band import close_gaps
from core.geometry.grid import GridSpec
from core.geometry.interior import flood_outside
from core.geometry.mesh import Mesh
from core.geometry.voxelize import NORMALIZE_SIDE, latent_coords
from core.sparse.coords import parents, sort_into_blocks, unique_coords
from core.sparse.refined_field import FarField, RefinedField
from core.sparse.tensor import SparseTensor

FALLBACK_THRESHOLDS = (0.5, 0.25, 0.1)  # shares of the preset's threshold, tried in turn where nothing is occupied

# Corners of the six faces of a cell, counter-clockwise from outside; face 2 a + s looks along axis a, down or up.
_FACE_AXES = ((0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1))
_FACE_CORNERS = np.array(
    [
        [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]],
        [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]],
        [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]],
        [[0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 0]],
        [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]],
        [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
    ]
)


@dataclass(frozen=True, eq=False)
class Structure:
    """The coarse shape: occupied cells of a cubic grid over the world."""

    coords: np.ndarray  # [N, 3] int32, ascending
    resolution: int  # R

    def mesh(self) -> Mesh:
        """The outer sides of the cells, as squares of two triangles: a closed, blocky mesh to look at."""
        side = self.resolution + 2
        occupied = np.zeros((side,) * 3, dtype=bool)
        occupied[tuple((self.coords + 1).T)] = True
        quads = []
        for (axis, step), corners in zip(_FACE_AXES, _FACE_CORNERS, strict=True):
            bare = self.coords[~np.roll(occupied, -step, axis)[tuple((self.coords + 1).T)]]
            quads.append(bare[:, None] + corners)
        points = np.concatenate(quads)  # [Q, 4, 3]
        keys = (points @ np.array([side * side, side, 1])).reshape(-1)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        vertices = GridSpec(self.resolution).index_to_world(points.reshape(-1, 3)[first].astype(np.float32))
        faces = inverse.reshape(-1, 4)[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
        return Mesh(vertices, faces)


def occupied_cells(
    probability: Tensor,  # [B, R, R, R] that a cell is occupied
    threshold: float,
) -> tuple[Tensor, float]:
    """The cells [N, 4] int32 (batch, x, y, z), ascending, that reach the threshold, and the threshold.

    Where a sample has none, the threshold is lowered for all, in steps.

    Raises:
        NoSurfaceError: where even the lowest finds none.
    """
    for share in (1.0, *FALLBACK_THRESHOLDS):
        occupied = probability >= threshold * share
        if occupied.flatten(1).any(1).all():
            return occupied.nonzero().int(), threshold * share
    raise NoSurfaceError(
        f"the first stage found no shape in the picture (highest occupancy {probability.max().item():.3g}, needed "
        f"{threshold * FALLBACK_THRESHOLDS[-1]:.3g}). Try another seed, or a picture that shows one whole object."
    )


def on_grid(
    coords: Tensor,  # [N, 4] cells of a grid of side `resolution`
    resolution: int,
    wanted: int,  # side of the grid that the next stage works on
) -> Tensor:
    """The cells of the other grid that hold them, or their children: [M, 4] int32, ascending.

    Raises:
        ConfigError: where neither side divides the other.
    """
    if resolution == wanted:
        return coords
    if resolution % wanted == 0:
        return unique_coords(parents(coords, resolution // wanted))[0]
    if wanted % resolution:
        raise ConfigError(f"a structure of {resolution} cells a side fits no stage of {wanted}. Use a multiple of one.")
    factor = wanted // resolution
    inside = torch.cartesian_prod(*[torch.arange(factor, dtype=coords.dtype, device=coords.device)] * 3)
    children = coords.repeat_interleave(factor**3, 0)
    children[:, 1:] = children[:, 1:] * factor + inside.repeat(len(coords), 1)
    return unique_coords(children)[0]


def unrefined_field(
    sdf: SparseTensor,  # [M, 1] of one sample, in whole latent cells
    stage: SparseStageConfig,
    level: float,  # of the surface
    interior: Interior,
) -> RefinedField:
    """The field of a decoder's voxels where no refiner looks at them.

    Cells without voxels are outside with ``keep``, as in the release without its refiner; inside with ``flood``, where
    no path from outside leads to them; and unknown with ``sign``, so that the surface ends where the band does. Small
    gaps are closed first, but for ``keep`` and where the stage has a refiner, whose bands are too large for that.
    """
    coords, values, cell = sdf.coords[:, 1:], sdf.feats[:, 0], stage.vae.upsampling
    if interior == "keep":
        outside = torch.ones((stage.resolution // cell,) * 3, dtype=torch.bool, device=values.device)
        return RefinedField(coords, values, stage.resolution, FarField(outside, cell))
    if stage.refiner is None:
        arrays = close_gaps(coords.cpu().numpy(), values.float().cpu().numpy(), stage.resolution, cell, level)
        coords, values = (torch.from_numpy(array).to(sdf.device) for array in arrays)
    if interior == "flood":
        return flood_outside(coords, values, stage.resolution, cell, level)
    return RefinedField(coords, values, stage.resolution)


def mesh_to_cells(mesh: Mesh, stage: SparseStageConfig, device: torch.device) -> Tensor:
    """Latent cells [N, 4] of ``stage`` near the mesh of the stage before it (spec 2.7): ascending, one sample.

    The mesh is centred and scaled to 0.95 of the world first; so the final mesh is of that size. The search runs on
    ``device``.
    """
    mesh = mesh.normalised(NORMALIZE_SIDE)
    cells = latent_coords(mesh, stage.resolution, stage.vae.upsampling, stage.band_voxels, device=device)
    return torch.from_numpy(cells).to(device)


def in_blocks(coords: Tensor, stage: SparseStageConfig, max_tokens: int) -> Tensor:
    """``coords`` [N, 4] in the order that the stage's attention needs.

    Raises:
        ConfigError: for more cells than ``max_tokens``.
    """
    if len(coords) > max_tokens:
        raise ConfigError(
            f"the shape has {len(coords)} tokens at {stage.resolution} voxels a side; at most {max_tokens} are "
            "allowed. Raise max_tokens if the memory suffices, or try another seed or a plainer picture."
        )
    return sort_into_blocks(coords, stage.dit.ssa.selection_block)

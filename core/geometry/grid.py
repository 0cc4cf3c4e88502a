"""Index space to world space and back: the only file that knows where a voxel lies.

The world is ``[-1, 1]^3``, Y up, front towards +Z (glTF's own axes). A grid has R voxels a side, and
array axes 0, 1, 2 are x, y, z. The released model uses two index spaces that differ by up to half a voxel
(spec 0.1, trap 10), and weights were trained with both, so both are kept, each under its own name:

* **mesh index space**: surface extraction puts voxel i at ``i / R * 2 - 1`` (voxel 0 lies on the low face of
  the world, voxel R - 1 one step short of the high face);
* **voxeliser index space**: the mesh-to-voxels hand-over halves the world to a unit cube and puts voxel i at
  ``i / (R - 1) - 0.5`` of it (voxels 0 and R - 1 lie on the faces).
"""

from dataclasses import dataclass

import numpy as np

from core.errors import ConfigError

# R voxels a side; positions are numpy arrays or torch tensors of any shape [..., 3] (or scalars)


@dataclass(frozen=True)
class GridSpec:
    """A cubic grid of ``resolution`` voxels a side over the world.

    Raises:
        ConfigError: for fewer than 2 voxels a side.
    """

    resolution: int

    def __post_init__(self) -> None:
        if self.resolution < 2:
            raise ConfigError(f"the grid resolution is {self.resolution}; it must be at least 2.")

    @property
    def voxel_size(self) -> float:
        """World length of one step in mesh index space."""
        return 2.0 / self.resolution

    def index_to_world(self, index):
        """Mesh index space (fractions allowed) to world: ``i / R * 2 - 1``. Arrays, tensors, scalars."""
        return index * (2.0 / self.resolution) - 1.0

    def world_to_index(self, position):
        """World to mesh index space, as fractional indices."""
        return (position + 1.0) * (self.resolution / 2.0)

    def voxeliser_index_to_cube(self, index):
        """Voxeliser index space to the unit cube ``[-0.5, 0.5]``: ``i / (R - 1) - 0.5``."""
        return index / (self.resolution - 1) - 0.5

    def cube_to_voxeliser_index(self, position):
        """Unit cube ``[-0.5, 0.5]`` to voxeliser index space, as fractional indices."""
        return (position + 0.5) * (self.resolution - 1)

    @staticmethod
    def world_to_cube(position):
        """World ``[-1, 1]`` to the voxeliser's unit cube."""
        return position * 0.5

    def coordinates(self) -> np.ndarray:  # [R] float32
        """World coordinate of each voxel along one axis, in mesh index space."""
        return self.index_to_world(np.arange(self.resolution, dtype=np.float32))

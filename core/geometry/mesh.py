"""The triangle mesh that geometry, pipeline and export hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.errors import InputError

if TYPE_CHECKING:
    import trimesh

# V vertices, F faces, E undirected edges


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles over shared vertices, counter-clockwise seen from outside.

    Raises:
        InputError: for wrong shapes, positions that are not finite, or a face that names no vertex.
    """

    vertices: np.ndarray  # [V, 3] float32, world units
    faces: np.ndarray  # [F, 3] int32, rows of `vertices`

    def __post_init__(self) -> None:
        vertices = np.ascontiguousarray(self.vertices, dtype=np.float32)
        faces = np.ascontiguousarray(self.faces, dtype=np.int32)
        for name, array in (("vertices", vertices), ("faces", faces)):
            if array.ndim != 2 or array.shape[1] != 3:
                raise InputError(f"mesh {name} have shape {list(array.shape)}; they must be [N, 3].")
        if len(vertices) and not np.isfinite(vertices).all():
            raise InputError("the mesh has vertices that are not finite; repair it and try again.")
        if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
            raise InputError(f"the mesh has faces that name vertices outside 0..{len(vertices) - 1}; repair it first.")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)

    @property
    def num_vertices(self) -> int:
        return len(self.vertices)

    @property
    def num_faces(self) -> int:
        return len(self.faces)

    @property
    def triangles(self) -> np.ndarray:  # [F, 3, 3] float32
        """Corner positions of each face."""
        return self.vertices[self.faces]

    @property
    def bounds(self) -> np.ndarray:  # [2, 3] float32
        """Lowest and highest corner of the box around the vertices that faces use.

        Raises:
            InputError: for a mesh without faces.
        """
        if not self.num_faces:
            raise InputError("the mesh has no faces.")
        used = self.vertices if self.num_vertices < 3 * self.num_faces else self.vertices[self.faces.ravel()]
        return np.stack([used.min(0), used.max(0)])

    @property
    def area(self) -> float:
        """Sum of triangle areas."""
        return float(self.face_areas().sum(dtype=np.float64))

    @property
    def volume(self) -> float:
        """Signed volume (divergence theorem); positive for a closed mesh whose faces look outward."""
        return float(self.face_volumes().sum())

    def face_normals(self) -> np.ndarray:  # [F, 3] float64
        """Cross products of two edges: twice the area long, outward."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        return np.cross(b - a, c - a)

    def face_areas(self) -> np.ndarray:  # [F] float64
        return 0.5 * np.linalg.norm(self.face_normals(), axis=1)

    def face_volumes(self) -> np.ndarray:  # [F] float64
        """Signed volume of the tetrahedron of each face with the origin."""
        return np.einsum("fi,fi->f", self.vertices[self.faces[:, 0]].astype(np.float64), self.face_normals()) / 6.0

    def is_watertight(self) -> bool:
        """Whether each directed edge has its opposite exactly as often: closed and consistently oriented."""
        if not self.num_faces:
            return False
        start = self.faces.ravel().astype(np.int64)
        end = self.faces[:, [1, 2, 0]].ravel().astype(np.int64)
        forward = np.sort(start * self.num_vertices + end)
        backward = np.sort(end * self.num_vertices + start)
        return bool(np.array_equal(forward, backward))

    def euler_number(self) -> int:
        """``V - E + F`` over the vertices in use: 2 for a sphere, 0 for a torus."""
        edges = np.sort(self.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1).astype(np.int64)
        num_edges = len(np.unique(edges[:, 0] * self.num_vertices + edges[:, 1]))
        return len(np.unique(self.faces)) - num_edges + self.num_faces

    def flipped(self) -> Mesh:
        """The same surface, inside out."""
        return Mesh(self.vertices, self.faces[:, ::-1])

    def with_faces(self, faces: np.ndarray) -> Mesh:  # faces [G, 3]
        """These faces over the same vertices, without the vertices that no face uses (order kept)."""
        used = np.zeros(self.num_vertices, dtype=bool)
        used[faces.ravel()] = True
        renumber = np.cumsum(used, dtype=np.int32) - 1
        return Mesh(self.vertices[used], renumber[faces])

    def normalised(self, longest_side: float = 2.0) -> Mesh:
        """Bounding box centred at the origin, its longest side scaled to ``longest_side`` world units.

        Raises:
            InputError: for a mesh without faces or without extent.
        """
        low, high = self.bounds.astype(np.float64)
        extent = float((high - low).max())
        if extent <= 0.0:
            raise InputError("the mesh is a single point; give one with an extent.")
        return Mesh((self.vertices - (low + high) / 2) * (longest_side / extent), self.faces)

    def to_trimesh(self) -> trimesh.Trimesh:
        """A trimesh over the same vertices, with nothing merged or reordered."""
        import trimesh

        return trimesh.Trimesh(self.vertices, self.faces, process=False, validate=False)

    @classmethod
    def from_trimesh(cls, mesh: trimesh.Trimesh) -> Mesh:
        return cls(np.asarray(mesh.vertices), np.asarray(mesh.faces))

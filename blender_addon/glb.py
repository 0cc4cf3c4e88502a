# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the triangles of a GLB file into arrays, in Blender's axes. Nothing in the file is trusted.

Every offset, count, type and index is checked before it is used; what is wrong raises Damaged with a reason. Only what
a mesh needs is read: positions, triangles and normals of the scene's meshes, put together by their nodes' transforms.
Buffers outside the file, compression and sparse accessors are refused.

glTF has Y up and the front towards +Z, Blender Z up and the front at -Y: (x, y, z) becomes (x, -z, y).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .client_errors import Damaged
from .glb_file import GlbFile, is_whole
from .glb_scene import placed_meshes

# V vertices, F triangles

MAX_TRIANGLES = 5_000_000
MAX_VERTICES = 3 * MAX_TRIANGLES
MAX_FILE_BYTES = 1 << 30
_MAX_PRIMITIVES = 10_000
_TRIANGLES = 4  # the mode of a primitive


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshData:
    """A mesh in Blender's axes."""

    positions: np.ndarray  # [V, 3] float32, finite
    triangles: np.ndarray  # [F, 3] int32, each below V, no vertex twice in a triangle
    normals: np.ndarray | None = None  # [V, 3] float32, finite
    extras: dict[str, Any] = field(default_factory=dict)  # `asset.extras`: settings and seed


def read_glb(source: bytes | str | os.PathLike) -> MeshData:
    """The mesh in a GLB file, or in a file's content.

    Raises:
        Damaged: with what is wrong.
    """
    try:
        return _read(GlbFile(_content(source), MAX_FILE_BYTES))
    except MemoryError:
        raise Damaged("There is not enough memory for this mesh", "Generate it again with fewer faces.") from None


def _content(source: bytes | str | os.PathLike) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        path = Path(source)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Damaged(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB", _FEWER)
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{source} cannot be read: {error.strerror or error}", "Import the job again.") from None


_FEWER = "Generate it again with a face budget."


def _read(file: GlbFile) -> MeshData:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    vertices = triangles = primitives = 0
    for mesh, transform in placed_meshes(file):
        for primitive in _primitives(file, mesh):
            primitives += 1
            counted = _counts(file, primitive)
            vertices, triangles = vertices + counted[0], triangles + counted[1]
            if primitives > _MAX_PRIMITIVES or vertices > MAX_VERTICES or triangles > MAX_TRIANGLES:
                raise Damaged(
                    f"The mesh has more than {MAX_TRIANGLES:,} triangles, which this extension does not load", _FEWER
                )
            parts.append(_arrays(file, primitive, transform))
    if not triangles:
        raise Damaged("The file has no triangles", "Generate the mesh again.")
    positions, faces, normals = _joined(parts)
    if not np.isfinite(positions).all():
        raise Damaged("The mesh has vertices that are nowhere (not finite)", "Generate it again.")
    if normals is not None and not np.isfinite(normals).all():
        normals = None  # Blender makes its own
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    if not proper.all():  # Blender's meshes may not have a vertex twice in a face
        faces = faces[proper]
        if not len(faces):
            raise Damaged("The file has no triangles with an area", "Generate the mesh again.")
    extras = file.asset.get("extras")
    return MeshData(
        positions=positions, triangles=faces, normals=normals, extras=extras if isinstance(extras, dict) else {}
    )


def _primitives(file: GlbFile, mesh: int) -> list[dict[str, Any]]:
    primitives = file.item("meshes", mesh).get("primitives")
    if not isinstance(primitives, list) or not all(isinstance(item, dict) for item in primitives):
        raise Damaged("The file's mesh has no list of primitives")
    return primitives


def _counts(file: GlbFile, primitive: dict[str, Any]) -> tuple[int, int]:
    """Vertices and triangles that a primitive says it has; what it says is held against the file later."""
    if (mode := primitive.get("mode", _TRIANGLES)) != _TRIANGLES or not is_whole(mode):
        raise Damaged("The file holds points, lines or strips in place of triangles")
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict) or "POSITION" not in attributes:
        raise Damaged("The file has a mesh without positions")
    vertices = file.accessor(attributes["POSITION"]).count
    corners = vertices if "indices" not in primitive else file.accessor(primitive["indices"]).count
    if corners % 3:
        raise Damaged("The file has a triangle with a corner missing")
    return vertices, corners // 3


def _arrays(
    file: GlbFile, primitive: dict[str, Any], transform: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Positions and triangles of one primitive, and its normals; in Blender's axes."""
    attributes = primitive["attributes"]
    positions = file.vectors(attributes["POSITION"])
    normals = file.vectors(attributes["NORMAL"]) if "NORMAL" in attributes else None
    if normals is not None and len(normals) != len(positions):
        raise Damaged("The file has not as many normals as vertices")
    if "indices" in primitive:
        triangles = file.indices(primitive["indices"], len(positions)).reshape(-1, 3)
    else:
        triangles = np.arange(len(positions), dtype=np.int32).reshape(-1, 3)
    if transform is not None:
        positions, triangles, normals = _transformed(positions, triangles, normals, transform)
    return _to_blender(positions), triangles, None if normals is None else _to_blender(normals)


def _transformed(
    positions: np.ndarray, triangles: np.ndarray, normals: np.ndarray | None, transform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """By a node's matrix [4, 4]."""
    linear = transform[:3, :3]
    with np.errstate(all="ignore"):  # what overflows is found by the check at the end
        placed = (positions.astype(np.float64) @ linear.T + transform[:3, 3]).astype(np.float32)
        determinant = np.linalg.det(linear)
        if determinant < 0:  # a mirror: else all faces would show their backs
            triangles = triangles[:, ::-1]
        if normals is not None:
            if not np.isfinite(determinant) or determinant == 0:
                normals = None
            else:
                turned = normals @ np.linalg.inv(linear)
                length = np.linalg.norm(turned, axis=1, keepdims=True)
                normals = np.where(length > 0, turned / length, normals).astype(np.float32)
    return placed, np.ascontiguousarray(triangles), normals


def _to_blender(vectors: np.ndarray) -> np.ndarray:  # [V, 3] -> [V, 3]
    turned = np.empty(vectors.shape, np.float32)
    turned[:, 0] = vectors[:, 0]
    np.negative(vectors[:, 2], out=turned[:, 1])
    turned[:, 2] = vectors[:, 1]
    return turned


def _joined(
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(positions) for positions, _, _ in parts[:-1])])
    triangles = [faces + np.int32(start) for (_, faces, _), start in zip(parts, starts, strict=True)]
    normals = [part[2] for part in parts]
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate(triangles),
        None if any(some is None for some in normals) else np.concatenate(normals),
    )

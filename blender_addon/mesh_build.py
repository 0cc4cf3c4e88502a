# SPDX-License-Identifier: GPL-3.0-or-later
"""From arrays to a Blender mesh, at the size that was asked for. Main thread only, except the arithmetic.

Sizes are in Blender units: what the Dimensions field of the sidebar shows while the scene's Unit Scale is 1. With
another unit scale, fields of lengths and dimensions are both shown multiplied by it, so they still agree.

V vertices, F triangles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import bpy
import numpy as np

from .client_errors import Damaged
from .glb import MeshData
from .mesh_edges import MeshEdges


def placed(data: MeshData, size: float, origin: Literal["BASE", "CENTER"]) -> MeshData:
    """The mesh with its longest side ``size`` long, and its origin in the middle of its underside or of its box."""
    half, lowest = size / 2, 0.0 if origin == "BASE" else -size / 2
    return fitted(data, np.array([-half, -half, lowest]), np.array([half, half, lowest + size]), origin=origin)


def fitted(
    data: MeshData,
    low: np.ndarray,  # [3]
    high: np.ndarray,  # [3]
    *,
    origin: Literal["BASE", "CENTER"] = "BASE",
) -> MeshData:
    """The mesh in a box: as long as the box at its longest side, in the middle of its underside or of the whole box.

    Raises:
        Damaged: for a mesh without any extent.
    """
    own_low = data.positions.min(axis=0).astype(np.float64)
    own_high = data.positions.max(axis=0).astype(np.float64)
    extent = (own_high - own_low).max()
    scale = (np.asarray(high, np.float64) - low).max() / extent if extent > 0 else np.inf
    if not np.isfinite(scale) or scale <= 0:
        raise Damaged("The mesh has no size: all of its vertices lie in one place", "Generate it again.")
    anchor, target = (own_low + own_high) / 2, (np.asarray(low, np.float64) + high) / 2
    if origin == "BASE":
        anchor[2], target[2] = own_low[2], low[2]
    positions = ((data.positions - anchor) * scale + target).astype(np.float32)
    return replace(data, positions=positions)


def build_mesh(name: str, data: MeshData, *, smooth: bool = True, edges: MeshEdges | None = None) -> bpy.types.Mesh:
    """A new mesh data-block, not yet used by any object.

    Args:
        data: as ``read_glb`` checked it: every index in range, no vertex twice in a triangle. So ``mesh.validate``,
            which takes longer than all of this, is not needed.
        edges: of ``data.triangles``, if they were found before; Blender finds them otherwise.
    """
    mesh = bpy.data.meshes.new(name)
    try:
        mesh.vertices.add(len(data.positions))
        mesh.loops.add(3 * len(data.triangles))
        mesh.polygons.add(len(data.triangles))
        # By attribute: `vertices.foreach_set("co")` and `loops.foreach_set("vertex_index")` ask for each value by a
        # call, and take five hundred times as long for a large mesh.
        _fill(mesh, "position", "vector", data.positions, np.float32)
        _fill(mesh, ".corner_vert", "value", data.triangles, np.int32)
        # The lengths of polygons follow from where they start; `loop_total` cannot be set since 4.1.
        mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(data.triangles), 3, dtype=np.int32))
        if edges is not None:
            mesh.edges.add(len(edges.vertices))
            _fill(mesh, ".edge_verts", "value", edges.vertices, np.int32)
            _fill(mesh, ".corner_edge", "value", edges.of_corners, np.int32)
        mesh.update(calc_edges=edges is None)
        if not smooth:  # smooth is what a mesh without the attribute `sharp_face` is
            mesh.shade_flat()
    except BaseException:
        bpy.data.meshes.remove(mesh)
        raise
    return mesh


def _fill(mesh: bpy.types.Mesh, attribute: str, field: str, values: np.ndarray, dtype: type) -> None:
    mesh.attributes[attribute].data.foreach_set(field, np.ascontiguousarray(values, dtype).reshape(-1))

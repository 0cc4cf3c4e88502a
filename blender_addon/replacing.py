# SPDX-License-Identifier: GPL-3.0-or-later
"""*Replace Selected*: the new shape on the same object. Its transform, parents, materials and modifiers stay.

The new mesh takes the place of the old one: as long at the longest side, on the middle of the same underside. So the
object is as large in the world as the artist made it, whatever its scale and its parents' are, and its origin stays
where it is.
"""

from __future__ import annotations

import bpy
import numpy as np

from .glb import MeshData
from .mesh_build import fitted, placed
from .placement import Placement
from .provenance import PROPERTY


def why_not(target: bpy.types.Object | None) -> str:
    """Why the object cannot be given a new mesh, as a sentence; empty when it can."""
    if target is None:
        return "The object to replace is no longer there"
    if target.type != "MESH":
        return f"{target.name} is no mesh any more"
    if target.library is not None or target.override_library is not None or not target.is_editable:
        return f"{target.name} is linked from another file"
    return ""


def fitted_to(target: bpy.types.Object, data: MeshData, placement: Placement) -> MeshData:
    """The mesh in the place of the target's own, in its local space."""
    count = len(target.data.vertices)
    if count and target.data.is_editmode:  # the edited shape is not in the arrays yet; its box is close enough
        corners = np.array([tuple(corner) for corner in target.bound_box])
    elif count:
        flat = np.empty(3 * count, np.float32)
        target.data.attributes["position"].data.foreach_get("vector", flat)
        corners = flat.reshape(-1, 3)
    if count and (corners.max(axis=0) - corners.min(axis=0)).max() > 0:
        return fitted(data, corners.min(axis=0), corners.max(axis=0))
    scale = max(abs(factor) for factor in target.matrix_world.to_scale())  # an empty mesh: nothing to go by
    return placed(data, placement.size / scale if scale > 0 else placement.size, placement.origin)


def swap_mesh(target: bpy.types.Object, mesh: bpy.types.Mesh) -> list[str]:
    """Gives ``target`` the mesh and returns what of the old one is lost, in words.

    Other objects that use the old mesh keep it. The target is in Object Mode.
    """
    old = target.data
    lost = _lost(target)
    groups = [(group.name, group.lock_weight) for group in target.vertex_groups]
    active_group, active_slot = target.vertex_groups.active_index, target.active_material_index
    for material in old.materials:
        mesh.materials.append(material)
    target.data = mesh  # with as many slots as before, those that are linked to the object stay so
    if target.material_slots:
        target.active_material_index = active_slot
    for name, locked in groups:  # modifiers name them
        if name not in target.vertex_groups:
            target.vertex_groups.new(name=name).lock_weight = locked
    if groups:
        target.vertex_groups.active_index = active_group
    if not old.users and old.library is None and old.get(PROPERTY):
        bpy.data.meshes.remove(old)  # one of ours, else a row of large meshes would stay until the file is closed
    return lost


def _lost(target: bpy.types.Object) -> list[str]:
    """What belongs to the old vertices and cannot fit the new ones."""
    mesh = target.data
    lost = []
    if mesh.shape_keys is not None:
        lost.append(f"{len(mesh.shape_keys.key_blocks)} shape keys")
    if len(target.vertex_groups):
        lost.append("weights of vertex groups")
    if len(mesh.uv_layers):
        lost.append("UV maps")
    if len(mesh.color_attributes):
        lost.append("colour attributes")
    if len(target.particle_systems):
        lost.append("places of particles")
    bound = [item.name for item in target.modifiers if item.type == "MULTIRES" or getattr(item, "is_bound", False)]
    if bound:
        lost.append(f"binding of {', '.join(bound)}")
    return lost

# SPDX-License-Identifier: GPL-3.0-or-later
"""The coarse structure as a translucent object, until the result is there or the job has ended.

Stand-ins make no undo step of their own, so undo may take one away, redo may bring back one that was removed, and a
saved file may hold one of a job that has long ended. They are found by the job's id on the object, never by a
reference; after undo, redo and loading a file call ``remove_stale_stand_ins``.
"""

from __future__ import annotations

from collections.abc import Iterable

import bpy

from .find_again import collection_of, scene_of, target_of
from .glb import MeshData
from .materials import remove_unused_veil, veil
from .mesh_build import build_mesh, placed
from .replacing import fitted_to
from .session import JobRecord

PROPERTY = "s2mesh_stand_in"  # a custom property: the job's id


def show_stand_in(record: JobRecord, data: MeshData) -> bpy.types.Object:
    """Shows the coarse structure where the result will be; it takes the place of an earlier one. No undo step."""
    remove_stand_in(record)
    name = f"{record.title or 'S2 Mesh'} (coarse)"
    target = target_of(record)
    if target is not None and target.type == "MESH":
        data = fitted_to(target, data, record.placement)
    else:
        target = None
        data = placed(data, record.placement.size, record.placement.origin)
    mesh = build_mesh(name, data, smooth=False)
    mesh.materials.append(veil())
    stand_in = bpy.data.objects.new(name, mesh)
    stand_in[PROPERTY] = record.id
    if target is not None:
        stand_in.matrix_world = target.matrix_world
    else:
        stand_in.location = record.placement.location
        stand_in.rotation_euler = (0.0, 0.0, record.placement.rotation_z)
    stand_in.hide_render = True
    stand_in.hide_select = True
    stand_in.show_transparent = True  # in Solid mode, with the alpha of either colour below
    stand_in.color = veil().diffuse_color
    collection_of(record, scene_of(record))[0].objects.link(stand_in)
    record.stand_in_name = stand_in.name
    return stand_in


def remove_stand_in(record: JobRecord) -> None:
    """Removes the job's stand-in, and copies of it. One that the artist is at work on becomes his."""
    if record.id:
        _remove([item for item in bpy.data.objects if item.get(PROPERTY) == record.id])
    record.stand_in_name = ""


def has_stand_in(record: JobRecord) -> bool:
    return bool(record.id) and any(item.get(PROPERTY) == record.id for item in bpy.data.objects)


def remove_stale_stand_ins(active_jobs: Iterable[str]) -> int:
    """Removes the stand-ins of all jobs but these (ids); returns how many went."""
    active = set(active_jobs)
    stale = [item for item in bpy.data.objects if PROPERTY in item and item[PROPERTY] not in active]
    _remove(stale)
    return len(stale)


def _remove(stand_ins: list[bpy.types.Object]) -> None:
    for item in stand_ins:
        if item.library is not None:
            continue
        if item.mode != "OBJECT":
            del item[PROPERTY]
            item.hide_render = item.hide_select = item.show_transparent = False
            continue
        mesh = item.data
        bpy.data.objects.remove(item)
        if mesh is not None and not mesh.users:
            bpy.data.meshes.remove(mesh)
    if stand_ins:
        remove_unused_veil()

# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a result into the scene without disturbing the artist. Main thread only.

Mode, selection, active object and current scene stay as they are. The result is one step in the undo history. What is
found again is found by name or number at this moment (``find_again.py``).

    reason = reason_to_wait(record)       # a sentence while the artist's work must not be touched
    new = place_result(record, data)      # raises MustWait if it is not asked before
    show_stand_in(record, coarse), remove_stand_in(record), remove_stale_stand_ins(ids of jobs that are active)
"""

from __future__ import annotations

import bpy

from . import materials
from .find_again import collection_of, scene_of, target_of
from .glb import MeshData
from .mesh_build import build_mesh, placed
from .mesh_edges import MeshEdges
from .provenance import PROPERTY, write_provenance
from .replacing import fitted_to, swap_mesh, why_not
from .session import JobRecord
from .stand_in import has_stand_in, remove_stale_stand_ins, remove_stand_in, show_stand_in
from .undo_step import push_undo_step
from .waiting import MustWait, reason_to_wait

__all__ = [
    "MustWait",
    "has_stand_in",
    "place_result",
    "reason_to_wait",
    "remove_stale_stand_ins",
    "remove_stand_in",
    "show_stand_in",
]


def place_result(
    record: JobRecord,
    data: MeshData,
    *,
    smooth: bool = True,
    clay: bool = True,
    mark_as_asset: bool = False,
    edges: MeshEdges | None = None,
) -> bpy.types.Object:
    """The result as a new object, or as the new mesh of the object that is to be replaced; one undo step.

    ``record.object_name`` is set, its stand-in is gone, and ``record.state_text`` says what differs from what was asked
    (empty if nothing does).

    Args:
        clay: give an object without a material the shared clay.
        edges: of the triangles, where the worker thread has found them; importing is several times as fast with them.

    Raises:
        MustWait: not now; nothing was changed. ``record.state_text`` says why.
        Damaged: for a mesh without any extent.
    """
    if reason := reason_to_wait(record):
        record.state_text = reason
        raise MustWait(reason)
    target, obstacle, place = None, "", record.placement
    if record.purpose == "replace":
        target = target_of(record)
        obstacle = why_not(target)
    replaces = target is not None and not obstacle
    fitting = fitted_to(target, data, place) if replaces else placed(data, place.size, place.origin)
    mesh = build_mesh(_title(record), fitting, smooth=smooth, edges=edges)
    mesh[PROPERTY] = record.id or "import"
    if replaces:
        result, notes = target, _swapped(target, mesh)
    else:
        result, notes = _new(record, mesh)
        if obstacle:
            notes.insert(0, f"{obstacle}, so the result is a new object.")
    remove_stand_in(record)
    write_provenance(result, record, data)
    if clay and not any(slot.material for slot in result.material_slots):
        result.data.materials.clear()
        result.data.materials.append(materials.clay())
    if mark_as_asset:
        _mark_as_asset(result, record)
    record.object_name = result.name
    record.state_text = " ".join(notes)
    push_undo_step(_title(record))
    return result


def _new(record: JobRecord, mesh: bpy.types.Mesh) -> tuple[bpy.types.Object, list[str]]:
    result = bpy.data.objects.new(_title(record), mesh)
    result.location = record.placement.location
    result.rotation_euler = (0.0, 0.0, record.placement.rotation_z)
    collection, note = collection_of(record, scene_of(record))
    collection.objects.link(result)
    return result, [note] if note else []


def _swapped(target: bpy.types.Object, mesh: bpy.types.Mesh) -> list[str]:
    lost = swap_mesh(target, mesh)
    return [f"Not kept from the old mesh: {', '.join(lost)}."] if lost else []


def _mark_as_asset(result: bpy.types.Object, record: JobRecord) -> None:
    result.asset_mark()
    result.asset_data.tags.new("S2 Mesh", skip_if_exists=True)
    result.asset_data.description = f"Made from the picture {_title(record)}"


def _title(record: JobRecord) -> str:
    return record.title or "S2 Mesh"

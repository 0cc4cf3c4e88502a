# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's data by the names and numbers that a record holds. Undo and another file make references invalid, so
nothing is kept: it is looked up whenever it is needed.
"""

from __future__ import annotations

import bpy

from .session import JobRecord


def scene_of(record: JobRecord) -> bpy.types.Scene:
    """The scene the job was sent from; where it is gone, the one that is shown."""
    found = bpy.data.scenes.get(record.scene_name)
    return found if found is not None and found.library is None else bpy.context.scene


def target_of(record: JobRecord) -> bpy.types.Object | None:
    """The object that is to be replaced, if it is still there.

    By its number, which survives undo, redo and renaming. Not by its name: in another file the same name (and every
    new file has a "Cube") is another object, which nobody asked to replace.
    """
    if record.purpose != "replace" or not record.target_uid:
        return None
    return next((item for item in bpy.data.objects if item.session_uid == record.target_uid), None)


def collection_of(record: JobRecord, scene: bpy.types.Scene) -> tuple[bpy.types.Collection, str]:
    """Where a new object goes in ``scene``, and a sentence if that is not the collection that was active at the click.

    A result that nobody can see looks like a lost one, so from a collection that is hidden or excluded it moves up to
    the first that is shown.
    """
    top = _layer_of(scene)
    path = _path_to(top, record.collection_name)
    if not path:
        return scene.collection, ""  # renamed, deleted, or the scene's own
    for depth in range(len(path), 0, -1):
        if all(_is_shown(layer) for layer in path[:depth]) and path[depth - 1].collection.is_editable:
            chosen = path[depth - 1].collection
            note = "" if depth == len(path) else f"Collection {record.collection_name} is hidden or linked"
            return chosen, f"{note}, so it stands in {chosen.name}." if note else ""
    return scene.collection, ""


def _layer_of(scene: bpy.types.Scene) -> bpy.types.LayerCollection:
    """Of the view layer that is shown, or of the scene's first."""
    if bpy.context.scene == scene and bpy.context.view_layer is not None:
        return bpy.context.view_layer.layer_collection
    return scene.view_layers[0].layer_collection


def _path_to(top: bpy.types.LayerCollection, name: str) -> list[bpy.types.LayerCollection]:
    """From the top to the collection of that name; empty where there is none."""
    if top.collection.name == name:
        return [top]
    for child in top.children:
        if below := _path_to(child, name):
            return [top, *below]
    return []


def _is_shown(layer: bpy.types.LayerCollection) -> bool:
    return not (layer.exclude or layer.hide_viewport or layer.collection.hide_viewport)

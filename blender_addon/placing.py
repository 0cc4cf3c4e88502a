# SPDX-License-Identifier: GPL-3.0-or-later
"""Where results go: read from the scene when the job is sent, so that what is moved later does not move them."""

from collections.abc import Sequence

import bpy
from bpy.types import Context, Object, Scene

from .placement import Placement
from .translations import t

_GAP = 1.25  # distance of neighbours in a row, in sizes


def placements(
    scene: Scene,
    *,
    size: float,
    origin: str,
    place_at: str = "CURSOR",
    location: Sequence[float] | None = None,
    count: int = 1,
) -> list[Placement]:
    """Places of ``count`` results in a row along X, the first at the cursor, the world's origin or ``location``."""
    if location is None:
        location = scene.cursor.location if place_at == "CURSOR" else (0.0, 0.0, 0.0)
    x, y, z = (float(value) for value in location)
    return [
        Placement(size=float(size), location=(x + index * size * _GAP, y, z), origin=origin) for index in range(count)
    ]


def replace_target(context: Context) -> tuple[Object | None, str]:
    """The object that Replace Selected would give a new shape; or None and why."""
    found = context.view_layer.objects.active if context.view_layer else None
    if found is None or not found.select_get():
        return None, t("Select the mesh object to replace")
    if found.type != "MESH":
        return None, t("{name} is not a mesh").format(name=found.name)
    if not found.is_editable or found.data.library is not None or found.override_library is not None:
        return None, t("{name} is linked from another file").format(name=found.name)
    return found, ""


def clear_of(first: Placement, others: Sequence[Placement]) -> Placement:
    """``first`` moved along X beyond any of ``others`` that stands in its place; for a result made again."""
    x, y, z = first.location
    taken = {tuple(round(value, 3) for value in other.location) for other in others}
    while tuple(round(value, 3) for value in (x, y, z)) in taken:
        x += first.size * _GAP
    return Placement(size=first.size, location=(x, y, z), origin=first.origin, rotation_z=first.rotation_z)


def size_of(scene: Scene, default: float) -> float:
    """The scene's size; where it was never set, the preferences'."""
    settings = scene.s2mesh
    return settings.size if settings.is_property_set("size") else default


def smooth_of(scene: Scene, default: bool) -> bool:
    settings = scene.s2mesh
    return settings.smooth if settings.is_property_set("smooth") else default


def give_defaults(scenes: "bpy.types.bpy_prop_collection", size: float, smooth: bool) -> None:
    """Show the preferences' values in scenes that have none of their own."""
    for scene in scenes:
        if scene.library is not None:
            continue
        if not scene.s2mesh.is_property_set("size") and abs(scene.s2mesh.size - size) > 1e-9:
            scene.s2mesh.size = size
        if not scene.s2mesh.is_property_set("smooth") and scene.s2mesh.smooth != smooth:
            scene.s2mesh.smooth = smooth

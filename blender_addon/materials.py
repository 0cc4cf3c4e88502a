# SPDX-License-Identifier: GPL-3.0-or-later
"""The two materials of this extension: clay for results that have none, and the veil of stand-ins. Each exists once."""

from __future__ import annotations

import bpy

CLAY = "S2 Mesh Clay"
VEIL = "S2 Mesh Coarse"
_CLAY_COLOR = (0.60, 0.56, 0.52, 1.0)  # linear
_VEIL_COLOR = (0.25, 0.55, 0.95, 0.35)


def clay() -> bpy.types.Material:
    """The clay of this file, made at first use. What the artist changes in it stays."""
    found = _find(CLAY)
    if found is not None:
        return found
    material, shader = _new(CLAY, _CLAY_COLOR)
    if shader is not None:
        shader.inputs["Base Color"].default_value = _CLAY_COLOR
        shader.inputs["Roughness"].default_value = 0.65
    material.roughness = 0.65
    return material


def veil() -> bpy.types.Material:
    """Translucent in Solid mode by its viewport colour, in Material Preview by its shader."""
    found = _find(VEIL)
    if found is not None:
        return found
    material, shader = _new(VEIL, _VEIL_COLOR)
    if shader is not None:
        shader.inputs["Base Color"].default_value = (*_VEIL_COLOR[:3], 1.0)
        shader.inputs["Alpha"].default_value = _VEIL_COLOR[3]
    material.surface_render_method = "BLENDED"
    return material


def remove_unused_veil() -> None:
    found = _find(VEIL)
    if found is not None and not found.users:
        bpy.data.materials.remove(found)


def _find(name: str) -> bpy.types.Material | None:
    """Of this file, not of a linked one."""
    return next((item for item in bpy.data.materials if item.name == name and item.library is None), None)


def _new(name: str, color: tuple[float, float, float, float]) -> tuple[bpy.types.Material, bpy.types.Node | None]:
    material = bpy.data.materials.new(name)
    material.diffuse_color = color  # what Solid mode shows
    if material.node_tree is None:  # since 5.0 a new material has nodes, and asking for them is deprecated
        material.use_nodes = True
    nodes = material.node_tree.nodes
    return material, next((node for node in nodes if node.type == "BSDF_PRINCIPLED"), None)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender presets of the settings: Draft, Standard and High come along, the user's own are kept by Blender."""

from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel
from bpy.types import Menu, Operator, Panel

from .option_checks import SIMPLE, SWITCHED

SUBFOLDER = "s2mesh"
_HOME = str(Path(__file__).parent)  # Blender looks for presets/s2mesh in here


class S2MESH_MT_Presets(Menu):
    bl_label = "S2 Mesh Presets"
    preset_subdir = SUBFOLDER
    preset_operator = "script.execute_preset"
    draw = Menu.draw_preset


class S2MESH_PT_Presets(PresetPanel, Panel):
    bl_label = "S2 Mesh Presets"
    preset_subdir = SUBFOLDER
    preset_operator = "script.execute_preset"
    preset_add_operator = "s2mesh.add_preset"


class S2MESH_OT_AddPreset(AddPresetBase, Operator):
    """Keep the settings of model, quality and faces as a preset, or remove one"""

    bl_idname = "s2mesh.add_preset"
    bl_label = "Add S2 Mesh Preset"
    preset_menu = "S2MESH_MT_Presets"
    preset_subdir = SUBFOLDER
    preset_defines = ["settings = bpy.context.scene.s2mesh"]
    preset_values = [
        *(f"settings.{name}" for name in ("preset", "resolution", *SIMPLE)),
        *(f"settings.{prefix}{name}" for name in SWITCHED for prefix in ("use_", "")),
    ]


CLASSES = (S2MESH_MT_Presets, S2MESH_PT_Presets, S2MESH_OT_AddPreset)


def register() -> None:
    bpy.utils.register_preset_path(_HOME)


def unregister() -> None:
    bpy.utils.unregister_preset_path(_HOME)

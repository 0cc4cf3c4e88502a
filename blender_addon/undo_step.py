# SPDX-License-Identifier: GPL-3.0-or-later
"""One named step in Blender's undo history for what was done outside of an operator."""

from __future__ import annotations

import bpy


def push_undo_step(name: str) -> None:
    """As the artist reads it in Edit > Undo History: "S2 Mesh: mug"."""
    windows = bpy.context.window_manager.windows
    message = f"S2 Mesh: {name}"
    if bpy.context.window is not None or not windows:
        if bpy.ops.ed.undo_push.poll():
            bpy.ops.ed.undo_push(message=message)
        return
    with bpy.context.temp_override(window=windows[0]):  # a timer has no window
        bpy.ops.ed.undo_push(message=message)

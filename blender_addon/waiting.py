# SPDX-License-Identifier: GPL-3.0-or-later
"""When a result may not be put into the scene at once, and why. The artist's work comes first."""

from __future__ import annotations

import bpy

from .find_again import target_of
from .session import JobRecord

_MODES = {
    "EDIT": "Edit Mode",
    "SCULPT": "Sculpt Mode",
    "VERTEX_PAINT": "Vertex Paint",
    "WEIGHT_PAINT": "Weight Paint",
    "TEXTURE_PAINT": "Texture Paint",
    "PARTICLE_EDIT": "Particle Edit",
}
# Of Blender's own operators that run on until the mouse is released; those of other add-ons may run for hours.
_HANDS_ON = (
    "TRANSFORM_OT_",
    "SCULPT_OT_",
    "PAINT_OT_",
    "MESH_OT_",
    "OBJECT_OT_",
    "CURVE_OT_",
    "ARMATURE_OT_",
    "UV_OT_",
)
# Jobs of Blender's that read the file's data in a thread of their own.
_JOBS = {"RENDER": "the render", "OBJECT_BAKE": "the bake"}


class MustWait(Exception):
    """It is not the time yet. Nothing was changed; try again later. ``reason`` is a sentence for the panel."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_to_wait(record: JobRecord) -> str:
    """Why the record's result cannot be put into the scene now, as a sentence; empty when it can. Cheap."""
    target = target_of(record)
    if target is not None and target.mode != "OBJECT":
        mode = _MODES.get(target.mode, "its mode")
        return f"Ready. It replaces {target.name} as soon as you leave {mode}."
    for job, words in _JOBS.items():
        if bpy.app.is_job_running(job):
            return f"Ready. It comes into the scene when {words} has ended."
    if _is_in_the_middle():
        return "Ready. It comes into the scene when the running operation has ended."
    return ""


def _is_in_the_middle() -> bool:
    """Whether a move, a stroke or the like is under way: an undo step now would cut it in two."""
    windows = bpy.context.window_manager.windows
    return any(operator.bl_idname.startswith(_HANDS_ON) for window in windows for operator in window.modal_operators)

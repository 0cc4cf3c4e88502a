# SPDX-License-Identifier: GPL-3.0-or-later
"""S2 Mesh for Blender: pick a picture, click Generate, the mesh stands in the scene.

Registers and unregisters the parts, in order. Everything else is imported inside ``register``, so that an error in a
part is reported when the extension is switched on and leaves nothing half registered.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_PARTS = (
    "translations",
    "properties",
    "preferences",
    "thumbnails",
    "app_state",  # threads and the server's process; ends before the properties that show them
    "operators.generate",
    "operators.pictures",
    "operators.jobs",
    "operators.server",
    "operators.diagnose",
    "presets",
    "panel",
    "panel_jobs",
    "drop",
    "main_thread",  # last: the timer may run as soon as it is registered
)

if "_registered" in globals():  # Blender's "Reload Scripts" runs this file again; the parts must be new as well
    for _name in [name for name in sys.modules if name.startswith(f"{__name__}.")]:
        del sys.modules[_name]

_registered: list[ModuleType] = []  # parts that are on, in order


def register() -> None:
    """Switch every part on; when one fails, those before it are switched off again and the error goes on."""
    if _registered:
        return
    try:
        for name in _PARTS:
            part = importlib.import_module(f".{name}", __package__)
            _registered.append(part)  # before the attempt, so that a half-registered part is cleaned as well
            _register_part(part)
    except BaseException:
        unregister()
        raise


def unregister() -> None:
    """Switch every part off, the last one first, and go on when one cannot: what stays crashes Blender at its exit."""
    problem: BaseException | None = None
    while _registered:
        part = _registered.pop()
        try:
            _unregister_part(part)
        except Exception as error:
            problem = problem or error
    if problem is not None:
        raise problem


def _register_part(part: ModuleType) -> None:
    import bpy

    for cls in getattr(part, "CLASSES", ()):
        bpy.utils.register_class(cls)
    if hasattr(part, "register"):
        part.register()


def _unregister_part(part: ModuleType) -> None:
    import bpy

    try:
        if hasattr(part, "unregister"):
            part.unregister()
    finally:
        for cls in reversed(getattr(part, "CLASSES", ())):
            if getattr(cls, "is_registered", False):
                bpy.utils.unregister_class(cls)

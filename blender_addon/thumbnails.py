# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of jobs, held by Blender's preview collection and freed with it."""

from pathlib import Path

import bpy.utils.previews

_MOST = 200  # the server keeps no more jobs than that

_pictures: "bpy.utils.previews.ImagePreviewCollection | None" = None


def add(key: str, path: Path) -> None:
    """Show the picture at ``path`` for the job ``key``; an older one is replaced."""
    if _pictures is None:
        return
    if key in _pictures:
        del _pictures[key]
    while len(_pictures) >= _MOST:
        del _pictures[next(iter(_pictures))]
    _pictures.load(key, str(path), "IMAGE")


def icon_of(key: str) -> int:
    """The icon of the job's picture; 0 if there is none."""
    return _pictures[key].icon_id if _pictures is not None and key in _pictures else 0


def remove(key: str) -> None:
    if _pictures is not None and key in _pictures:
        del _pictures[key]


def register() -> None:
    global _pictures
    _pictures = bpy.utils.previews.new()


def unregister() -> None:
    global _pictures
    if _pictures is not None:
        bpy.utils.previews.remove(_pictures)
        _pictures = None

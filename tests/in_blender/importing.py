"""What the checks of the importer share: records and meshes to import, and what an artist's session looks like."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import harness
import numpy as np

JOB = "ab" * 16
# The shape of write_asymmetric.py as Blender is to show it while its size is 0.3: a sixth of the file's.
SIZE = 0.3
FROM_BASE = {
    "ear": (0.075, 0.05, 0.5 / 6),
    "other ear": (-0.075, 0.05, 0.5 / 6),
    "hat": (-0.25 / 6, 0.05, 0.3),
    "foot": (-0.25 / 6, 0.05, 0.0),
    "nose": (-0.25 / 6, -0.1, 0.5 / 6),
    "back": (-0.25 / 6, 0.1, 0.5 / 6),
}


def asymmetric() -> Any:
    """Nose, hat and ear as the server's own exporter writes them, read by the extension's own reader."""
    path = harness.work / "asymmetric.glb"
    if not path.exists():
        writer = Path(__file__).with_name("write_asymmetric.py")
        subprocess.run([harness.server.command[0], str(writer), str(path)], check=True)
    return harness.module("glb").read_glb(path)


def mesh_data(corners: Any = None, triangles: Any = None, **more: Any) -> Any:
    """A tetrahedron, or what is given, as the reader would hand it over."""
    corners = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] if corners is None else corners
    triangles = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)] if triangles is None else triangles
    glb = harness.module("glb")
    return glb.MeshData(positions=np.array(corners, np.float32), triangles=np.array(triangles, np.int32), **more)


def ball(rings: int) -> Any:
    """About ``2 * rings**2`` triangles."""
    turn, rise = np.meshgrid(np.linspace(0, 2 * np.pi, rings + 1), np.linspace(0.01, 3.13, rings + 1), indexing="ij")
    points = np.stack([np.cos(turn) * np.sin(rise), np.sin(turn) * np.sin(rise), np.cos(rise)], -1).reshape(-1, 3)
    corner = (np.arange(rings)[:, None] * (rings + 1) + np.arange(rings)).reshape(-1)
    right, below = corner + rings + 1, corner + 1
    return mesh_data(
        points, np.concatenate([np.stack([corner, right, right + 1], 1), np.stack([corner, right + 1, below], 1)])
    )


def record(**changes: Any) -> Any:
    """Of a job that was sent from the scene as it is now, for a new object of size ``SIZE`` at the origin."""
    session = harness.module("session")
    place = {name: changes.pop(name) for name in ("size", "location", "origin", "rotation_z") if name in changes}
    placement = harness.module("placement").Placement(**{"size": SIZE, **place})
    context = bpy.context
    given = {"id": JOB, "title": "mug", "scene_name": context.scene.name, "collection_name": context.collection.name}
    return session.JobRecord(placement=placement, wanted=True, **(given | changes))


def replacing(target: bpy.types.Object, **changes: Any) -> Any:
    return record(purpose="replace", target_name=target.name, target_uid=target.session_uid, **changes)


def corners_of(thing: bpy.types.Object) -> np.ndarray:  # [V, 3], local
    return np.array([tuple(vertex.co) for vertex in thing.data.vertices])


def world_corners_of(thing: bpy.types.Object) -> np.ndarray:  # [V, 3]
    bpy.context.view_layer.update()
    return np.array([tuple(thing.matrix_world @ vertex.co) for vertex in thing.data.vertices])


def longest_side(corners: np.ndarray) -> float:
    return float((corners.max(axis=0) - corners.min(axis=0)).max())


def desk() -> dict[str, Any]:
    """Everything on an artist's desk that an import must leave as it is."""
    context, things = bpy.context, bpy.context.view_layer.objects
    return {
        "mode": context.mode,
        "scene": context.scene.name,
        "active": things.active.name if things.active else None,
        "selected": sorted(item.name for item in things if item.select_get()),
        "modes": {item.name: item.mode for item in things if item.mode != "OBJECT"},
        "collection": context.collection.name,
        "cursor": tuple(context.scene.cursor.location),
    }


def window() -> contextlib.AbstractContextManager:
    """Undo and mode operators ask for a window, which background mode has as data only."""
    return bpy.context.temp_override(window=bpy.context.window_manager.windows[0])


@contextlib.contextmanager
def without_handlers() -> Iterator[None]:
    """The extension does not look at undo and new files by itself meanwhile."""
    names = ("undo_post", "redo_post", "load_post")
    kept = {name: list(getattr(bpy.app.handlers, name)) for name in names}
    for name in names:
        getattr(bpy.app.handlers, name)[:] = [f for f in kept[name] if not f.__module__.startswith(harness.PACKAGE)]
    try:
        yield
    finally:
        for name in names:
            getattr(bpy.app.handlers, name)[:] = kept[name]


def start_history() -> None:
    """As a session begins: the file as it is can be returned to."""
    with window():
        bpy.ops.ed.undo_push(message="Original")


def undo() -> None:
    with window():
        assert bpy.ops.ed.undo() == {"FINISHED"}


def redo() -> None:
    with window():
        assert bpy.ops.ed.redo() == {"FINISHED"}


def enter(mode: str, name: str = "Cube") -> None:
    """As the artist does it: choose the object, switch the mode, which is an undo step."""
    with window():
        bpy.context.view_layer.objects.active = bpy.data.objects[name]
        bpy.ops.object.mode_set(mode=mode)
        bpy.ops.ed.undo_push(message=f"Enter {mode}")


def history() -> list[str]:
    """The names of the undo steps that the artist sees, which Blender only prints."""
    lines = _printed(bpy.context.window_manager.print_undo_steps).splitlines()
    steps = [re.match(r"\[(.{4})\].*name='(.*)'", line) for line in lines]
    return [step[2] for step in steps if step and "S" not in step[1]]


def _printed(work: Callable[[], object]) -> str:
    """What C code writes to the standard output meanwhile."""
    with tempfile.TemporaryFile() as file, _output_into(file.fileno()):
        work()
        ctypes.CDLL(None).fflush(None)
        file.seek(0)
        return file.read().decode()


@contextlib.contextmanager
def _output_into(number: int) -> Iterator[None]:
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
    kept = os.dup(1)
    os.dup2(number, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

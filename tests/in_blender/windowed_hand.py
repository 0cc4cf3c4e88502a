"""An artist's hand in a Blender with a window: the mouse, the keys, and an eye for buttons. Runs in Blender.

Everything here is a generator that yields between two turns of Blender's own loop: events are handled, timers run and
windows are drawn meanwhile, as they are while a person sits there. See windowed_script.py for what turns them.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import bpy

Steps = Generator[None, None, Any]

PATIENCE_S = 60.0
_SETTLED_S = 0.15  # after which a button under the mouse is surely the active one
_ROW = 9  # pixels between two looks; a button is about 20 high


def pause(seconds: float) -> Steps:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def until(happened: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Steps:
    """The first true answer."""
    deadline = time.monotonic() + patience_s
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        yield
    return answer


class Hand:
    """Works in the first window, mostly in its 3D viewport."""

    def __init__(self, shots: Path) -> None:
        self.shots = shots
        self.is_shooting = False
        self._known: dict[str, tuple[int, int]] = {}  # where a button was last, from the region's upper left corner

    # --- what there is; looked up each time, since Blender makes screens anew ---

    @property
    def window(self) -> bpy.types.Window:
        return bpy.context.window_manager.windows[0]

    @property
    def area(self) -> bpy.types.Area:
        return next(area for area in self.window.screen.areas if area.type == "VIEW_3D")

    def region(self, kind: str) -> bpy.types.Region:
        return next(region for region in self.area.regions if region.type == kind)

    @property
    def sidebar(self) -> bpy.types.Region:
        return self.region("UI")

    def in_viewport(self, across: float, up: float) -> tuple[int, int]:
        """A point by its share of the viewport's width, without the sidebar, and of its height."""
        region = self.region("WINDOW")
        width = (self.sidebar.x if self.sidebar.width > 1 else region.x + region.width) - region.x
        return region.x + int(across * width), region.y + int(up * region.height)

    # --- events ---

    def move(self, x: int, y: int) -> Steps:
        self.window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
        yield
        yield

    def click(self, x: int, y: int, button: str = "LEFTMOUSE", **keys: bool) -> Steps:
        yield from self.move(x, y)
        yield from pause(_SETTLED_S)
        for value in ("PRESS", "RELEASE"):
            self.window.event_simulate(type=button, value=value, x=x, y=y, **keys)
            yield from pause(0.05)

    def key(self, name: str, at: tuple[int, int] | None = None, **keys: bool) -> Steps:
        """Over the viewport, unless another place is given: Blender sends keys to what is under the mouse."""
        x, y = at or self.in_viewport(0.6, 0.3)
        yield from self.move(x, y)
        yield from pause(0.05)
        for value in ("PRESS", "RELEASE"):
            self.window.event_simulate(type=name, value=value, x=x, y=y, **keys)
            yield from pause(0.05)

    # --- buttons ---

    def under_the_mouse(self) -> str:
        """The Python of the button that the mouse is over, as Blender itself tells it; empty where there is none."""
        with bpy.context.temp_override(window=self.window, area=self.area, region=self.sidebar):
            if not bpy.ops.ui.copy_python_command_button.poll():
                return ""
            bpy.ops.ui.copy_python_command_button()
        return bpy.context.window_manager.clipboard

    def find(self, call: str, from_left: float = 0.0, from_right: float = 0.0) -> Steps:
        """Where the sidebar has the button that calls this: by moving the mouse down a line until it is under it.

        Args:
            call: how the button's Python begins, such as "bpy.ops.s2mesh.generate(".
            from_left, from_right: of the line, in pixels from the sidebar's left or right edge.
        """
        region = self.sidebar
        x = region.x + (int(from_left) if from_left else region.width - int(from_right))
        if call in self._known:
            dx, dy = self._known[call]
            if (yield from self._is_at(call, region.x + dx, region.y + region.height - dy)):
                return region.x + dx, region.y + region.height - dy
        for y in range(region.y + region.height - 8, region.y, -_ROW):
            yield from self.move(x, y)
            yield from pause(0.03)
            # What is read may still be the button of one look before: asked again, and half a button lower.
            if self.under_the_mouse().startswith(call):
                for close in (y, y - _ROW // 2, y + _ROW // 2):
                    if (yield from self._is_at(call, x, close)):
                        self._known[call] = (x - region.x, region.y + region.height - close)
                        return x, close
        raise AssertionError(f"the sidebar has no button {call!r} at that line")

    def _is_at(self, call: str, x: int, y: int) -> Steps:
        yield from self.move(x, y)
        yield from pause(_SETTLED_S)
        return self.under_the_mouse().startswith(call)

    def press(self, call: str, happened: Callable[[], Any], **where: float) -> Steps:
        """Click a button until it has done what it should, three times at most; the panel may move under the mouse."""
        for _ in range(3):
            x, y = yield from self.find(call, **where)
            yield from self.click(x, y)
            deadline = time.monotonic() + 3.0
            while time.monotonic() < deadline:
                if answer := happened():
                    return answer
                yield
        raise AssertionError(f"{call!r} was clicked three times and nothing happened")

    # --- pictures ---

    def shot(self, name: str, **facts: Any) -> Steps:
        """A picture of the screen by another process, so that Blender draws on; in JSON beside it, where things are."""
        x, y = self.in_viewport(0.6, 0.3)
        yield from self.move(x, y)  # no button is lit up
        yield from pause(0.3)
        areas = {"area": self.area, "sidebar": self.sidebar, "viewport": self.region("WINDOW")}
        boxes = {key: (item.x, item.y, item.width, item.height) for key, item in areas.items()}
        text = json.dumps({"window": (self.window.width, self.window.height), **boxes, **facts})
        (self.shots / f"{name}.json").write_text(text)
        self.is_shooting = True
        process = subprocess.Popen(["import", "-window", "root", str(self.shots / f"{name}.png")])
        yield from until(lambda: process.poll() is not None, "the picture of the screen")
        yield
        self.is_shooting = False
        assert process.returncode == 0, f"import ended with status {process.returncode}"

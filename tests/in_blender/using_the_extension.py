"""What the check files do again and again with the extension; see harness.py for the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bpy
import harness

MUG = str(harness.PICTURES / "mug.png")


def app() -> Any:
    """The state of the extension."""
    return harness.module("app_state").current()


def newest() -> Any:
    """The record of the newest job; None if there is none."""
    return next(iter(app().newest_first()), None)


def pump(seconds: float = 0.0) -> None:
    """What the timer does in a Blender with a window; for so long."""
    deadline = time.monotonic() + seconds
    harness.module("headless").pump(app())
    while time.monotonic() < deadline:
        time.sleep(0.02)
        harness.module("headless").pump(app())


def until(happened: Callable[[], Any], what: str, patience_s: float = harness.PATIENCE_S) -> Any:
    """Pump until ``happened`` says so; its answer."""
    deadline = time.monotonic() + patience_s
    while not (answer := happened()):
        record = newest()
        assert record is None or record.error is None or what.startswith("the error"), record.error
        state = record and (record.title, record.state, str(record.error or ""), record.state_text)
        assert time.monotonic() < deadline, f"waited in vain for {what}; newest job: {state}; {app().error}"
        pump()
        time.sleep(0.02)
    return answer


def generate(**options: Any) -> bpy.types.Object:
    """A mesh of the mug by the operator."""
    assert bpy.ops.s2mesh.generate(filepath=MUG, wait=True, **options) == {"FINISHED"}
    return bpy.data.objects[newest().object_name]


def refusal(call: Callable[[], object]) -> str:
    """The text of the error that an operator reports, in one line."""
    try:
        result = call()
    except RuntimeError as error:
        return " ".join(str(error).split())
    raise AssertionError(f"no error, but {result}")

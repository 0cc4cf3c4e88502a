"""What ``s2mesh models`` tells while it works: a bar on a terminal, else a line a file; or JSON lines for programs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.checkpoints.download import OnProgress, Plan

_EVERY_S = 0.2  # between two JSON lines of one file
_WORDS = {
    "check": "comparing",
    "download": "downloading",
    "convert": "converting",
    "copy": "copying",
    "verify": "verifying",
}


@contextmanager
def shown(title: str, plan: Plan | None = None, *, as_json: bool = False) -> Iterator[OnProgress]:
    """Gives what the steps of ``core.checkpoints.install`` tell their progress to.

    Args:
        title: the release's name.
        plan: of a download: its files count by their bytes, so that the whole is told and not each file alone.
    """
    if as_json:
        told = _Lines(title)
    elif sys.stderr.isatty():
        with _bar(title) as bar:
            yield _whole(bar, plan)
        return
    else:
        told = _Words(title)
    yield _whole(told, plan)


def _whole(told: OnProgress, plan: Plan | None) -> OnProgress:
    """Bytes of one file become bytes of all."""
    if plan is None:
        return told
    before, offsets = 0, {}
    for file in plan.files:
        offsets[file.name] = before
        before += file.bytes

    def of_all(stage: str, file: str, done: int, total: int) -> None:
        if stage in ("check", "download"):
            done, total = offsets.get(file, 0) + done, before
        told(stage, file, done, total)

    return of_all


class _Lines:
    """One JSON object a line, on the output: each file, and a few times a second how far it is."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last: tuple[str, str] | None = None
        self._told_at = 0.0

    def __call__(self, stage: str, file: str, done: int, total: int) -> None:
        now = time.monotonic()
        if (stage, file) == self._last and now - self._told_at < _EVERY_S and done < total:
            return
        self._last, self._told_at = (stage, file), now
        progress = {"stage": stage, "file": file, "done": done, "total": total}
        print(json.dumps({"type": "progress", "name": self._title, **progress}), flush=True)


class _Words:
    """A line for each file, on the error stream."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last: tuple[str, str] | None = None

    def __call__(self, stage: str, file: str, done: int, total: int) -> None:
        if (stage, file) != self._last:
            self._last = (stage, file)
            print(f"{self._title}: {_WORDS[stage]} {file}", file=sys.stderr, flush=True)


@contextmanager
def _bar(title: str) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    counted = (*columns[:3], TimeRemainingColumn())
    console, current = Console(stderr=True), {"stage": "", "bars": None, "task": None}

    def show(stage: str, file: str, done: int, total: int) -> None:
        if stage != current["stage"]:
            stop()
            kind = columns if stage in ("check", "download") else counted
            bars = Progress(*kind, console=console, transient=True)
            bars.start()
            current.update(stage=stage, bars=bars, task=bars.add_task("", total=total))
        words = f"{title}: {_WORDS[stage]} {file}"
        current["bars"].update(current["task"], completed=done, total=total, description=words)

    def stop() -> None:
        if current["bars"] is not None:
            current["bars"].stop()

    try:
        yield show
    finally:
        stop()

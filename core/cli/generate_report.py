"""What ``s2mesh generate`` tells while it works and when it is done: bar or lines, result, peak memory."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from core.config.stages import Fraction

if TYPE_CHECKING:  # the pipeline takes seconds to load
    import torch

    from core.pipeline.image_to_shape import GenerationResult
    from core.pipeline.progress import Progress

FractionOf = Callable[[str, int, int], float]


@contextmanager
def shown_progress(
    title: str, stages: list[str], *, quiet: bool, fraction: FractionOf | None = None
) -> "Iterator[Callable[[Progress], None]]":
    """Draws a bar with the stage and the time left on a terminal, else one line a stage; on the error stream.

    Args:
        fraction: gives the share of the work that is done after (stage, step, steps); None takes the usual weights.
    """
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar(title, fraction or Fraction(stages).after) as show:
            yield show
    else:
        yield _lines(title, stages)


@contextmanager
def shown_together(titles: list[str], stages: list[str], *, quiet: bool) -> "Iterator[Callable[[int, Progress], None]]":
    """As ``shown_progress`` for several that walk together: on a terminal one bar for all, else lines with titles.

    What it gives is called with the place of a title first.
    """
    if len(titles) == 1 or quiet or not sys.stderr.isatty():
        with ExitStack() as stack:
            shows = [stack.enter_context(shown_progress(title, stages, quiet=quiet)) for title in titles]
            yield lambda index, progress: shows[index](progress)
        return
    fractions, done = [Fraction(stages) for _ in titles], [0.0] * len(titles)
    with _bar(f"{len(titles)} meshes", lambda *_: sum(done) / len(done)) as show:

        def show_one(index: int, progress: "Progress") -> None:
            done[index] = fractions[index].after(progress.stage, progress.step, progress.steps)
            show(progress)

        yield show_one


@contextmanager
def _bar(title: str, fraction: FractionOf) -> "Iterator[Callable[[Progress], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.fields[title]}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[stage]:<24}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bars:
        task = bars.add_task("", total=1.0, title=title, stage="loading")

        def show(progress: "Progress") -> None:
            stage = f"{progress.stage} {progress.step}/{progress.steps}"
            bars.update(task, completed=fraction(progress.stage, progress.step, progress.steps), stage=stage)

        yield show


def _lines(title: str, stages: list[str]) -> "Callable[[Progress], None]":
    started = time.perf_counter()

    def show(progress: "Progress") -> None:
        if progress.step == progress.steps:
            number = stages.index(progress.stage) + 1
            seconds = time.perf_counter() - started
            line = f"{title}: [{number}/{len(stages)}] {progress.stage} done after {seconds:.1f} s"
            print(line, file=sys.stderr, flush=True)

    return show


def described(result: "GenerationResult", image: str, output: str, seconds: float, peak: int | None) -> dict[str, Any]:
    """What is told about one result, as plain data."""
    return {
        "image": image,
        "output": output,
        "vertices": result.mesh.num_vertices,
        "faces": result.mesh.num_faces,
        "watertight": result.mesh.is_watertight(),
        "seconds": round(seconds, 2),
        "peak_memory_bytes": peak,
        "seed": result.seed,
        "tokens": result.num_tokens,
        "timings": {stage: round(value, 3) for stage, value in result.timings.items()},
        "notes": list(result.notes),
    }


def result_line(facts: dict[str, Any]) -> str:
    """``described`` for people."""
    closed = "watertight" if facts["watertight"] else "not watertight"
    peak = facts["peak_memory_bytes"]
    memory = "" if peak is None else f", {peak / 2**30:.2f} GiB peak memory"
    size = f"{facts['vertices']} vertices, {facts['faces']} faces, {closed}"
    return f"{facts['output']}: {size}, {facts['seconds']:.1f} s{memory}"


def peak_memory(device: "torch.device") -> int | None:
    """Most bytes that this process has held, on the CUDA device where it is one, else in main memory."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int | None:
    """PeakWorkingSetSize of this process, asked of Windows itself."""
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in ("PeakWorkingSetSize", "WorkingSetSize", "QuotaPeakPagedPoolUsage")),
            *((name, ctypes.c_size_t) for name in ("QuotaPagedPoolUsage", "QuotaPeakNonPagedPoolUsage")),
            *((name, ctypes.c_size_t) for name in ("QuotaNonPagedPoolUsage", "PagefileUsage", "PeakPagefileUsage")),
        ]

    counters = Counters(cb=ctypes.sizeof(Counters))
    windll = ctypes.windll  # type: ignore[attr-defined]
    process = wintypes.HANDLE(windll.kernel32.GetCurrentProcess())
    asked = windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
    return int(counters.PeakWorkingSetSize) if asked else None

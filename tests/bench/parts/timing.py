"""How the benchmarks time: candidates take turns, the cache is emptied between runs, medians, and what ran where.

On a GPU times are between CUDA events, so that they hold the gaps between launches but not what Python does before
the first. Nothing here passes or fails.
"""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

FLUSHED_BYTES = 256 * 2**20  # more than any second-level cache holds
KERNELS_KEPT = 20
Call = Callable[[], Any]


@dataclass(frozen=True)
class Policy:
    """Runs that do not count, then runs whose median does."""

    warmups: int
    repeats: int


GPU, CPU, QUICK = Policy(5, 20), Policy(1, 3), Policy(1, 2)
SLOW = Policy(1, 3)  # of what takes seconds on a GPU too


class Budget:
    """Minutes that a benchmark may take; None is no bound."""

    def __init__(self, minutes: float | None):
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def spent(self) -> bool:
        """Whether time is up."""
        return self.end is not None and time.monotonic() > self.end


def working(calls: Mapping[str, Call]) -> tuple[dict[str, Call], dict[str, str]]:
    """Each run once: those that ran, and why the others did not."""
    good, problems = {}, {}
    for name, call in calls.items():
        try:
            call()
            good[name] = call
        except Exception as error:  # a rival that this machine, version or memory does not have: said in the row
            problems[name] = one_line(error)
    return good, problems


def one_line(error: Exception) -> str:
    """Type and beginning of an error's text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def prepared(builders: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """What each builder makes, if it can be made and runs; and why the others do not."""
    calls, problems = {}, {}
    for name, build in builders.items():
        try:
            calls[name] = build()
        except Exception as error:  # as above
            problems[name] = one_line(error)
    calls, failed = working(calls)
    return calls, problems | failed


def rounded(value: float | None) -> float | None:
    """Four digits, for the results file."""
    return None if value is None else float(f"{value:.4g}")


def share(part: float | None, whole: float | None) -> float | None:
    """``part / whole`` where both are known, with three digits."""
    return float(f"{part / whole:.3g}") if part is not None and whole else None


def medians(calls: Mapping[str, Call], device: torch.device, policy: Policy) -> dict[str, float]:
    """Milliseconds of each call: A B A B ..., not A A B B, so that a change of the clock meets all alike."""
    for _ in range(policy.warmups):
        for call in calls.values():
            call()
    if device.type == "cuda":
        return _event_medians(calls, device, policy.repeats)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(policy.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def _event_medians(calls: Mapping[str, Call], device: torch.device, repeats: int) -> dict[str, float]:
    scratch = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    with torch.cuda.device(device):
        for _ in range(repeats):
            for name, call in calls.items():
                scratch.zero_()
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                stop.record()
                events[name].append((start, stop))
        torch.cuda.synchronize(device)
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) for name, pairs in events.items()}


def captured(prepare: Callable[[], Call], device: torch.device) -> Call:
    """A CUDA graph of what ``prepare()`` returns; ``prepare`` runs on the stream that records, as backward needs."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work = prepare()
        for _ in range(3):
            work()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = work()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def peak_mb(call: Call, device: torch.device) -> float | None:
    """Most memory alive during a call beyond what was there before and what it returns, 10^6 bytes; GPU only."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before - sum(x.nbytes for x in tensors_in(out))
    return round(peak / 1e6, 1)


def kernel_times(call: Call, device: torch.device, runs: int = 3) -> dict[str, float]:
    """Milliseconds of each GPU kernel in one call, the longest first, as the profiler sees them; empty if it cannot."""
    if device.type != "cuda":
        return {}
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(runs):
                call()
            torch.cuda.synchronize(device)
        found: dict[str, float] = {}
        for event in profile.key_averages():
            micro = getattr(event, "self_device_time_total", None)
            if micro is None:  # its name before torch 2.6
                micro = event.self_cuda_time_total
            found[event.key[:80]] = found.get(event.key[:80], 0.0) + micro / runs / 1e3
    except Exception as error:  # machines without counters: the times of whole calls are what counts
        return {one_line(error): 0.0}
    longest = sorted(found.items(), key=lambda pair: -pair[1])[:KERNELS_KEPT]
    return {name: float(f"{ms:.4g}") for name, ms in longest if ms > 0}


def tensors_in(found: object) -> Iterable[Tensor]:
    """The tensors of a nest of tuples and lists."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for part in found:
            yield from tensors_in(part)


def free(device: torch.device) -> None:
    """Gives memory that nothing holds back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clocks(device: torch.device) -> dict[str, float] | None:
    """Clocks (MHz), temperature (C) and power (W) as nvidia-smi reads them, or None."""
    if device.type != "cuda":
        return None
    names = {"sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem", "celsius": "temperature.gpu", "watt": "power.draw"}
    found = _smi(device, ",".join(names.values()))
    try:
        return {name: float(text) for name, text in zip(names, (found or "").split(","), strict=True)}
    except ValueError:
        return None


def _smi(device: torch.device, query: str) -> str | None:
    index = torch.cuda.current_device() if device.index is None else device.index
    unique = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    for which in (f"GPU-{unique}", str(index)) if unique else (str(index),):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", which]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0:
            return done.stdout.strip()
    return None


@cache
def facts(device: torch.device) -> dict[str, Any]:
    """What a result was measured on and with."""
    try:
        import triton
    except ImportError:
        triton = None
    known = {
        "device": "cpu",
        "torch": torch.__version__,
        "triton": None if triton is None else triton.__version__,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known["device"] = properties.name
        known["driver"] = _smi(device, "driver_version")
        known["multiprocessors"] = properties.multi_processor_count
        known["memory_gb"] = round(properties.total_memory / 1e9, 1)
    return known

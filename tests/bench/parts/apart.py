"""Two ways of the same work, each in a process of its own: seconds, and the most memory beyond what was loaded before.

A bench has cases, ``{case: {side: make}}``, where ``make(options)`` imports what it needs and returns a function that
makes the input and returns another one, the work; its result is a number to compare (faces, cells). The input counts
towards memory and not towards time. The first side is ours, the last the dense definition.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

Work = Callable[[], float]
Make = Callable[[argparse.Namespace], Callable[[], Work]]
Cases = dict[str, dict[str, Make]]


class Peak:
    """The most memory in use between ``start`` and ``stop``: of the device if it is a GPU, else of the process."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device.startswith("cuda")

    def start(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        Path("/proc/self/clear_refs").write_text("5")  # Linux alone: the high-water mark starts anew
        self.before = _status("VmRSS")

    def stop(self) -> int:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self.before
        return _status("VmHWM") - self.before


def _status(field: str) -> int:
    """Bytes of a field of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def measure_here(make: Make, options: argparse.Namespace) -> dict[str, float]:
    """Runs one side in this process; meant for a fresh one."""
    prepare, peak = make(options), Peak(options.device)
    peak.start()
    work = prepare()
    start = time.perf_counter()
    result = work()
    if peak.on_gpu:
        peak.stop()  # waits for the device
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 3), "peak_mb": round(peak.stop() / 1e6, 1), "result": result}


def main(module: str, cases: Cases, parser: argparse.ArgumentParser, argv: list[str] | None) -> int:
    """Measures the chosen cases and prints a line for each: ratios first, ours over the dense definition."""
    parser.add_argument("--case", choices=list(cases), action="append", help="this case alone; may be repeated")
    parser.add_argument("--side", help="one side of one case in this process, as JSON")
    parser.add_argument("--device", default="cpu", help="of ours; what runs on the CPU alone stays there")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args(argv)
    if options.side:
        print(json.dumps(measure_here(cases[options.case[-1]][options.side], options)))
        return 0
    passed_on = sys.argv[1:] if argv is None else argv
    for case in options.case or cases:
        row: dict[str, Any] = {"case": case}
        found = {}
        for side in cases[case]:
            command = [sys.executable, "-m", module, *passed_on, "--case", case, "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
            found[side] = json.loads(done.stdout.splitlines()[-1])
        if len(found) > 1:
            ours, *_, dense = found.values()
            row["time_ratio"] = round(ours["seconds"] / max(dense["seconds"], 1e-3), 3)
            row["memory_ratio"] = round(ours["peak_mb"] / max(dense["peak_mb"], 0.1), 4)
        row |= found
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        ratios = f"time x {row['time_ratio']:<7} memory x {row['memory_ratio']:<7}" if len(found) > 1 else ""
        sides = "  ".join(
            f"{side}: {one['seconds']:.2f} s {one['peak_mb']:.0f} MB ({one['result']:g})" for side, one in found.items()
        )
        print(f"{case:10} {ratios} {sides}", flush=True)
    return 0

"""The results file of a device: one JSON object, of which every benchmark replaces its own section.

``{"device", "torch", "triton", "measured", "ceilings", "ssa": [rows], "conv": [rows], "block": [rows]}``, and
whatever else describes the machine.
"""

import argparse
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from tests.bench.parts.ceilings import measure_ceilings
from tests.bench.parts.timing import Budget, clocks, facts

FOLDER = Path(__file__).resolve().parents[1] / "results"
SECTIONS = ("ssa", "conv", "block")


def parser_of(section: str, description: str) -> argparse.ArgumentParser:
    """Options that the benchmarks share."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{section}", description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a few seconds: shows that it runs")
    parser.add_argument("--backward", action="store_true", help="the backward pass too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--minutes", type=float, help="start no further case after this long")
    parser.add_argument("--results", type=Path, help="folder of the results file (tests/bench/results on a GPU)")
    parser.add_argument("--report", action="store_true", help="then write table and plot into core/README.md")
    return parser


class Sheet:
    """Rows of one benchmark: printed as they come, kept in the device's file after each."""

    def __init__(self, section: str, options: argparse.Namespace, columns: tuple[str, ...]):
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        self.section, self.options, self.columns = section, options, columns
        self.device = torch.device(options.device)
        self.budget = Budget(options.minutes)
        self.rows: list[dict[str, Any]] = []
        self.clocks = {"before": clocks(self.device)}
        self.ceilings = measure_ceilings(self.device, options.quick)
        self.clocks["after_ceilings"] = clocks(self.device)
        self.folder = options.results or (FOLDER if self.device.type == "cuda" and not options.quick else None)
        if options.json:
            print(json.dumps({**facts(self.device), "ceilings": self.ceilings}), flush=True)
        else:
            print(facts(self.device))
            print(self.ceilings)
            print(" ".join(f"{name:>14}" for name in columns))

    def add(self, row: dict[str, Any]) -> None:
        """Print and keep one row."""
        self.rows.append(row)
        if self.options.json:
            print(json.dumps(row), flush=True)
        else:
            print(" ".join(f"{_cell(row.get(name)):>14}" for name in self.columns), flush=True)
            for name, text in row.get("problems", {}).items():
                print(f"    {name}: {text}", flush=True)
        self._keep()

    def finish(self) -> int:
        """Exit status: 1 if our own side failed somewhere."""
        self.clocks["after"] = clocks(self.device)
        self._keep()
        if self.options.report:
            from tests.bench import report

            report.write(self.folder or FOLDER)
        return int(any(row["ms"] is None for row in self.rows))

    def _keep(self) -> None:
        if self.folder is None:
            return
        described = {**facts(self.device), "measured": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        merge(self.folder, described, self.ceilings, self.section, self.rows, self.clocks)


def merge(
    folder: Path,
    described: dict[str, Any],
    ceilings: dict[str, float],
    section: str,
    rows: list[dict[str, Any]],
    clock_readings: dict[str, Any],
) -> Path:
    """Put ``rows`` into the file of ``described["device"]``; the other sections stay."""
    path = folder / f"{slug(described['device'])}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {name: known.get(name, []) for name in SECTIONS}
    kept = {k: v for k, v in known.items() if k not in SECTIONS}
    clock_table = {**known.get("clocks", {}), section: clock_readings}
    merged = {**kept, **described, "ceilings": ceilings, "clocks": clock_table, **found, section: rows}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    return path


def slug(device: str) -> str:
    """The name of a device as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def newest(folder: Path) -> dict[str, Any] | None:
    """The results of a GPU that were measured last, or None."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    found = [result for result in found if result.get("device", "cpu") != "cpu" and "measured" in result]
    return max(found, key=lambda result: result["measured"], default=None)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

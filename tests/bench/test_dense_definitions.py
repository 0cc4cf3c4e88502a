"""The benches against dense definitions at tiny sizes: both sides of a case come to the same result."""

import argparse
import json
from pathlib import Path

import pytest

from tests.bench import extraction, refiners
from tests.bench.parts import apart

TINY = argparse.Namespace(
    device="cpu", quick=False, resolution=128, band=4.0, patch=16, deep=4, budget_mb=0
)  # fmt: skip
CASES = {**extraction.CASES, **refiners.CASES}
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")


@needs_proc
@pytest.mark.parametrize("case", [case for case, sides in CASES.items() if len(sides) > 1 and case != "decimate"])
def test_both_sides_come_to_the_same(case):
    rows = [apart.measure_here(make, TINY) for make in CASES[case].values()]
    assert rows[0]["result"] == pytest.approx(rows[1]["result"], rel=1e-3, abs=1e-6) and rows[0]["result"] != 0


@needs_proc
def test_each_side_runs_in_a_process_of_its_own(capsys):
    assert extraction.main(["--quick", "--json", "--case", "hand-over"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert list(row)[:3] == ["case", "time_ratio", "memory_ratio"]
    assert row["sparse"]["result"] == row["dense"]["result"] and row["sparse"]["peak_mb"] < row["dense"]["peak_mb"]

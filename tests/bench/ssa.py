"""Spatial sparse attention against dense attention and the authors' kernels, in one process and taking turns.

    python -m tests.bench.ssa [--device cuda] [--backward] [--quick] [--json] [--threads 2] [--minutes M] [--report]

Scopes: ``kernel`` is the op on given queries, keys, pooled keys and gates, with what follows from coordinates computed
before on both sides; ``module`` is the whole layer with its projections, with that computed before (``ms``), in each
call (``with_geometry_ms``), or once for 24 layers, 15 steps and 2 branches (``amortised_ms``). The dense side is
attention alone with the same heads and tokens. Passes: ``forward`` without gradients, and ``backward`` alone.

Ceilings come first, and every percentage refers to them. On a GPU rows go to tests/bench/results. Nothing passes or
fails here; a row whose ``ms`` is null says why under ``problems``.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from core.config.models import SSAConfig
from core.config.presets import STARTER, V1_0, V1_1
from tests.bench.parts import authors, rivals
from tests.bench.parts.floors import SHORT, as_dict, block_facts, count, dense_floor_ms, floor_ms, rates, union_ratio
from tests.bench.parts.results import Sheet, parser_of
from tests.bench.parts.shells import Problem, make_problem
from tests.bench.parts.sides import Kernel, Module, one_pass, whole
from tests.bench.parts.timing import (
    CPU,
    GPU,
    QUICK,
    Call,
    captured,
    free,
    kernel_times,
    medians,
    one_line,
    peak_mb,
    prepared,
    rounded,
    share,
)

RELEASED_LAYERS, RELEASED_STEPS, BRANCHES = 24, 15, 2
GRAPH_TOKENS = 16_384  # up to here launches weigh, and a graph is timed too
UNION_TILES = (4, 8)
CONFIGS: dict[str, tuple[int, SSAConfig]] = {  # name: width, sizes
    "v1.1": (1024, V1_1.sparse[-1].dit.ssa),
    "v1.0": (1024, V1_0.sparse[-1].dit.ssa),  # the 1024 stage: compression in cells of 4, 8 blocks
    "v1.0-512": (1024, V1_0.sparse[0].dit.ssa),  # 32 blocks
    "starter": (192, STARTER.sparse[0].dit.ssa),
    "tiny": (64, replace(V1_1.sparse[0].dit.ssa, num_heads=4, selected_blocks=2)),
}
COLUMNS = ("config", "tokens", "dtype", "regime", "pass", "scope", "ms", "graph_ms", "sdpa_flash_ms", "cudnn_ms",
           "authors_ms", "flex_ms", "floor_ms", "of_floor", "vs_flash", "peak_mb")  # fmt: skip


class Case(NamedTuple):
    """One set of inputs and what is measured on it."""

    config: str
    tokens: int
    dtype: torch.dtype = torch.bfloat16
    regime: str = "smooth"
    shift: int = 0
    scopes: tuple[str, ...] = ("kernel", "module")
    dense: bool = True  # else, and for the module, the dense side's times are those of an earlier row of this size
    twice: bool = False  # measure again, to show how much a time moves
    flex: bool = False


ON_GPU = (  # the sizes of the targets first: time may be short
    Case("v1.1", 131_072),
    Case("v1.1", 45_900),
    Case("v1.1", 10_700, twice=True),
    Case("v1.0", 131_072, scopes=("kernel",), dense=False),
    Case("v1.1", 4_096),
    Case("v1.0", 45_900, dense=False),
    Case("v1.0-512", 10_700, dense=False),
    Case("v1.1", 131_072, regime="iid", scopes=("kernel",), dense=False),
    Case("v1.1", 45_900, regime="iid", scopes=("kernel",), dense=False),
    Case("v1.1", 45_900, shift=4, scopes=("kernel",), dense=False),
    Case("v1.1", 45_900, torch.float16, scopes=("kernel",)),
    Case("v1.1", 10_700, torch.float16, "iid", scopes=("kernel",)),
    Case("v1.1", 45_900, scopes=("kernel",), dense=False, flex=True),  # last: it compiles for a minute
)
ON_CPU = tuple(
    Case(config, tokens, torch.float32, scopes=("module",))
    for config in ("starter", "v1.1")
    for tokens in (4000, 16000)
)
TINY = (Case("tiny", 300, torch.float32, twice=True), Case("tiny", 300, torch.float32, "iid", 4, ("kernel",), False))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    options = parser_of("ssa", "SSA against dense attention and the authors' kernels.").parse_args(argv)
    sheet = Sheet("ssa", options, COLUMNS)
    on_gpu = sheet.device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    cases = tuple(case._replace(dtype=dtype) for case in TINY) if options.quick else ON_GPU if on_gpu else ON_CPU
    earlier: dict[tuple, dict[str, float]] = {}
    for case in cases:
        if sheet.budget.spent():
            break
        for row in measure(case, sheet, options, earlier):
            sheet.add(row)
        free(sheet.device)
    return sheet.finish()


def measure(
    case: Case, sheet: Sheet, options: argparse.Namespace, earlier: dict[tuple, dict[str, float]]
) -> Iterator[dict[str, Any]]:
    """The rows of one case."""
    device, (width, config) = sheet.device, CONFIGS[case.config]
    problem = make_problem(case.tokens, width, config, case.regime, case.dtype, device, case.shift)
    work = count(problem)
    known = {
        "config": case.config,
        "tokens": work.tokens,
        "dtype": SHORT[case.dtype],
        "regime": case.regime,
        "shift": case.shift,
        "cells": work.cells,
        "blocks": work.blocks,
        "tokens_of_blocks": block_facts(problem.plan),
        "work": as_dict(work),
        "rho": {str(size): union_ratio(problem.chosen, problem.windows, size) for size in UNION_TILES},
    }
    for scope in case.scopes:
        side: Kernel | Module = Kernel(problem, config, case.shift)
        if scope == "module":
            side = Module(problem, width, config, case.regime, case.shift)
        for backward in (False, True) if options.backward else (False,):
            part = floor_ms(work, sheet.ceilings, case.dtype, backward)
            row = {**known, "pass": "backward" if backward else "forward", "scope": scope}
            row |= _times(side, case, problem, backward, options.quick, earlier)
            row |= {"floor_ms": part["total"], "floor_parts_ms": part}
            row["dense_floor_ms"] = dense_floor_ms(work, sheet.ceilings, case.dtype, backward)
            ours, flash = row["ms"], row["sdpa_flash_ms"]
            row["of_floor"] = share(part["total"], ours) if scope == "kernel" else None
            row |= rates(work, ours, backward) if scope == "kernel" else {}
            row |= {"vs_flash": share(flash, ours), "vs_cudnn": share(row["cudnn_ms"], ours)}
            row["vs_authors"] = share(row["authors_ms"], ours)
            yield row
        del side
        free(device)


def _times(
    side: Kernel | Module,
    case: Case,
    problem: Problem,
    backward: bool,
    quick: bool,
    earlier: dict[tuple, dict[str, float]],
) -> dict[str, Any]:
    """Milliseconds of all sides of one row, under the names of the results file."""
    device, problems = problem.q.device, {}
    policy = QUICK if quick else GPU if device.type == "cuda" else CPU
    for tensor in side.inputs:
        tensor.requires_grad_(backward)
    builders: dict[str, Callable[[], Call]] = {"ours": lambda: one_pass(side.ours, side.inputs, side.grad, backward)}
    theirs = None
    try:
        theirs = side.theirs()
        builders["authors"] = lambda: one_pass(*theirs, side.grad, backward)
    except authors.Absent as reason:
        problems["authors"] = str(reason)
    except Exception as error:  # theirs, on a machine that it does not know: said in the row
        problems["authors"] = one_line(error)
    size = (problem.q.shape, case.dtype, backward)
    measures_dense = (case.dense and isinstance(side, Kernel)) or size not in earlier
    if measures_dense:
        grad = problem.grad if backward else None
        for name, backend in rivals.DENSE.items():
            builders[name] = lambda backend=backend: rivals.dense_call(backend, problem.q, grad)
    if isinstance(side, Module) and not backward:
        builders["with_geometry"] = lambda: one_pass(side.with_geometry, side.inputs, side.grad, False)
    if backward:
        builders["both"] = lambda: whole(side.ours, side.inputs, side.grad, True)
    if case.twice:
        builders["again"] = builders["ours"]
    if device.type == "cuda" and problem.q.shape[0] <= GRAPH_TOKENS:

        def recorded() -> Call:
            twin = side.twin()
            return one_pass(twin.ours, twin.inputs, twin.grad, backward)

        builders["graph"] = lambda: captured(recorded, device)
    if case.flex and isinstance(side, Kernel) and not backward and device.type == "cuda":
        masks: list[Call] = []

        def flex() -> Call:
            call, build = rivals.flex_call(problem)
            masks.append(build)
            return call

        builders["flex"] = flex
        builders["flex_masks"] = lambda: masks[0]
    calls, failed = prepared(builders)
    problems |= failed
    peaks = {}
    if "ours" in calls:
        peaks["peak_mb"] = peak_mb(whole(side.ours, side.inputs, side.grad, backward), device)
    if "authors" in calls and theirs is not None:
        peaks["authors_peak_mb"] = peak_mb(whole(*theirs, side.grad, backward), device)
    difference = _difference(calls, backward)
    ms = medians(calls, device, policy)
    if "ours" in calls and isinstance(side, Kernel):
        peaks["kernels_ms"] = kernel_times(calls["ours"], device)
    del calls
    if any(name in ms for name in rivals.DENSE):
        earlier[size] = {name: ms[name] for name in rivals.DENSE if name in ms}
    ms = {**earlier.get(size, {}), **ms}
    row: dict[str, Any] = {f"{name}_ms": rounded(ms.get(name)) for name in ("sdpa_flash", "cudnn", "authors", "flex")}
    row = {"ms": rounded(ms.get("ours")), **row, "peak_mb": None, **peaks, "dense_reused": not measures_dense}
    row["graph_ms"] = rounded(ms.get("graph"))
    if "both" in ms:
        row["forward_backward_ms"] = rounded(ms["both"])
    if "again" in ms and "ours" in ms:
        row["again_ms"], row["spread"] = rounded(ms["again"]), round(abs(ms["again"] / ms["ours"] - 1), 4)
    if "flex_masks" in ms:
        row["flex_masks_ms"] = rounded(ms["flex_masks"])
    if "with_geometry" in ms and "ours" in ms:
        row["with_geometry_ms"] = rounded(ms["with_geometry"])
        calls_of_a_sample = RELEASED_LAYERS * RELEASED_STEPS * BRANCHES
        row["amortised_ms"] = rounded(ms["ours"] + max(ms["with_geometry"] - ms["ours"], 0) / calls_of_a_sample)
    if difference is not None:
        row["authors_difference"] = difference
    if problems:
        row["problems"] = problems
    return row


def _difference(calls: dict[str, Call], backward: bool) -> float | None:
    """How far the authors' output is from ours, relative; a large one would mean that the sides do different things."""
    if backward or not {"ours", "authors"} <= set(calls):
        return None
    ours, theirs = (calls[name]().float() for name in ("ours", "authors"))
    return float(f"{float((ours - theirs).norm() / ours.norm()):.3g}")


if __name__ == "__main__":
    sys.exit(main())

"""Writes the benchmark section of core/README.md, and its plot, from the GPU results that were measured last.

    python -m tests.bench.report [--results FOLDER] [--readme FILE]

The section stands between two comments; what is around it stays. Without results of a GPU it says so.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.parts.plot import Points, panels
from tests.bench.parts.results import FOLDER, newest, slug

README = Path(__file__).resolve().parents[2] / "core" / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
NOTHING = (
    "No GPU has measured it yet. `python3 packaging/gpu_duty.py --all` runs the tests and the benchmarks there, "
    "and writes this section."
)
SIDES = {"ours": "ms", "SDPA flash": "sdpa_flash_ms", "cuDNN": "cudnn_ms", "authors": "authors_ms", "floor": "floor_ms"}
Row = dict[str, Any]


class Target(NamedTuple):
    """What was set before anything was measured, for one H200."""

    text: str
    section: str
    where: dict[str, Any]  # fields that the row must have; tokens within 5 %
    value: Callable[[Row], float | None]
    bound: float
    at_least: bool = True
    unit: str = "x"


def _targets() -> list[Target]:
    kernel = {"scope": "kernel", "regime": "smooth", "dtype": "bf16", "shift": 0}

    def ssa(config: str, tokens: int, direction: str, name: str, key: str, bound: float, **rest: Any) -> Target:
        where = {**kernel, "config": config, "tokens": tokens, "pass": direction}
        return Target(f"{config}, {tokens / 1000:.3g}k, {direction}: {name}", "ssa", where, _field(key), bound, **rest)

    flash, theirs = ("against SDPA flash", "vs_flash"), ("against the authors' kernels", "vs_authors")
    memory, floor = ("memory beyond inputs and outputs", "peak_mb"), ("share of the floor", "of_floor")
    graph = "against SDPA flash, with a graph"
    found = []
    for direction, bounds in (
        ("forward", (25, 0.42, 15, 2, 3, 9, 2, 2000)),
        ("backward", (30, 0.28, 15, 1.8, 3, 12, 1.5, 4000)),
    ):
        a, b, c, d, e, f, g, h = bounds
        found += [
            ssa("v1.1", 131_072, direction, *flash, a),
            ssa("v1.1", 131_072, direction, *floor, b, unit=""),
            ssa("v1.1", 45_900, direction, *flash, c),
            ssa("v1.1", 45_900, direction, *theirs, d),
            ssa("v1.1", 10_700, direction, graph, "", e)._replace(value=_flash_over_graph),
            ssa("v1.0", 131_072, direction, *flash, f),
            ssa("v1.0", 131_072, direction, *theirs, g),
            ssa("v1.1", 131_072, direction, *memory, h, at_least=False, unit=" MB"),
        ]
    where = {"config": "decoder", "layer": "all", "tokens": 131_072, "pass": "forward"}
    found.append(Target("decoder convolutions, 131k latents", "conv", where, _field("ms"), 30, False, " ms"))
    return found


def _field(key: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(key)


def _flash_over_graph(row: Row) -> float | None:
    ours, flash = row.get("graph_ms"), row.get("sdpa_flash_ms")
    return flash / ours if ours and flash else None


def section(results: dict[str, Any] | None, picture: str | None) -> str:
    """The Markdown between the two comments."""
    if results is None:
        return NOTHING
    lines = [_machine(results), ""]
    if picture:
        lines += [f"![milliseconds over tokens, forward and backward]({picture})", ""]
    lines += _target_table(results)
    ssa = [row for row in results.get("ssa", []) if row["regime"] == "smooth" or row["scope"] == "kernel"]
    ssa = [row for row in ssa if row["shift"] == 0 and row["dtype"] == "bf16"]
    lines += _table(
        "Spatial sparse attention, milliseconds",
        ssa,
        ("config", "tokens", "regime", "pass", "scope"),
        {
            **SIDES,
            "with graph": "graph_ms",
            "of floor": "of_floor",
            "/ flash": "vs_flash",
            "/ authors": "vs_authors",
            "MB": "peak_mb",
        },
    )
    lines += _table(
        "Convolution, milliseconds",
        results.get("conv", []),
        ("config", "layer", "level", "tokens", "pass"),
        {"ours": "ms", "im2col": "im2col_ms", "by offset": "gather_scatter_ms", "floor": "floor_ms", "MB": "peak_mb"},
    )
    lines += _table(
        "Blocks and steps of the sparse diffusion model, milliseconds",
        results.get("block", []),
        ("config", "tokens", "scope", "pass"),
        {
            "ours": "ms",
            "with graph": "graph_ms",
            "torch ops": "torch_ms",
            "dense layers' floor": "products_ms",
            "MB": "peak_mb",
        },
    )
    return "\n".join(lines).rstrip()


def _machine(results: dict[str, Any]) -> str:
    rates = {"copy_tb_s": "copy {} TB/s", "gemm_bf16_tflops": "bf16 products {} TFLOP/s",
             "exp2_t_s": "{} · 10^12 exponentials/s", "l2_read_tb_s": "reads in L2 {} TB/s"}  # fmt: skip
    ceilings = results.get("ceilings", {})
    reached = ", ".join(text.format(_number(ceilings[key])) for key, text in rates.items() if key in ceilings)
    return (
        f"{results['device']}, torch {results['torch']}, Triton {results['triton']}, driver {results.get('driver')}, "
        f"{results['measured'][:10]}. Ceilings measured first: {reached}. Medians of one run, sides "
        "taking turns; dense attention has the same heads and tokens; the floor is what arithmetic and bytes take at "
        f"the ceilings. All rows: `tests/bench/results/{slug(results['device'])}.json`."
    )


def _target_table(results: dict[str, Any]) -> list[str]:
    lines = ["| target, set for an H200 | bound | measured | |", "|---|---|---|---|"]
    for target in _targets():
        row = next((row for row in results.get(target.section, []) if _fits(row, target.where)), None)
        value = None if row is None else target.value(row)
        sign = ">=" if target.at_least else "<="
        met = "" if value is None else "met" if (value >= target.bound) == target.at_least else "missed"
        shown = "not measured" if value is None else f"{_number(value)}{target.unit}"
        lines.append(f"| {target.text} | {sign} {target.bound:g}{target.unit} | {shown} | {met} |")
    return [*lines, ""]


def _fits(row: Row, where: dict[str, Any]) -> bool:
    near = abs(row.get("tokens", 0) - where["tokens"]) <= 0.05 * where["tokens"]
    return near and all(row.get(key) == value for key, value in where.items() if key != "tokens")


def _table(title: str, rows: list[Row], labels: Sequence[str], columns: dict[str, str]) -> list[str]:
    """One table; columns without any number are left out."""
    columns = {name: key for name, key in columns.items() if any(row.get(key) is not None for row in rows)}
    if not columns:
        return []
    head = "| " + " | ".join((*labels, *columns)) + " |"
    lines = [f"{title}:", "", head, "|" + "---|" * (len(labels) + len(columns))]
    for row in rows:
        cells = [_number(row.get(key)) for key in (*labels, *columns.values())]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _number(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def charts(results: dict[str, Any]) -> dict[str, dict[str, Points]]:
    """Series of the plot: v1.1, the op alone, bf16, smooth inputs."""
    found: dict[str, dict[str, Points]] = {}
    for direction in ("forward", "backward"):
        where = {
            "config": "v1.1",
            "scope": "kernel",
            "pass": direction,
            "dtype": "bf16",
            "regime": "smooth",
            "shift": 0,
        }
        rows = [row for row in results.get("ssa", []) if all(row.get(key) == value for key, value in where.items())]
        series = {
            name: sorted({row["tokens"]: row[key] for row in rows if row.get(key)}.items())
            for name, key in SIDES.items()
        }
        found[f"v1.1, {direction}"] = {name: points for name, points in series.items() if points}
    return found


def write(results_folder: Path = FOLDER, readme: Path = README) -> None:
    """Plot into ``results_folder``, section into ``readme``."""
    results = newest(results_folder)
    picture = None
    if results is not None and any(charts(results).values()):
        path = results_folder / f"{slug(results['device'])}.svg"
        path.write_text(panels(charts(results)), encoding="utf-8")
        picture = f"../tests/bench/results/{path.name}"
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{readme} has no section between {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{section(results, picture)}\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """See the head of the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--readme", type=Path, default=README)
    options = parser.parse_args(argv)
    write(options.results, options.readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())

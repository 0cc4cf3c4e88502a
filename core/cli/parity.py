"""``python -m core.cli.parity FILE...``: are our modules equal to the authors', on their golden tensors?"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.cli.errors import run_reporting

DEFAULT_TOLERANCE = 1e-4


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m core.cli.parity",
        description="Run our module on each golden file and print one line a tensor: file, tensor, relative RMS "
        "error, shape. Exit status 1 if an error is above --tol or a file cannot be run.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="golden .safetensors or .json")
    parser.add_argument("--tol", type=float, default=DEFAULT_TOLERANCE, help="largest error (default %(default)g)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--device", default="cpu", help="where to run: cpu, cuda:N, mps (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = build_parser().parse_args(argv)
    results = []
    for path in options.files:
        result = _check(path, options.tol, options.device)
        results.append(result)
        if not options.json:
            print("\n".join(_lines(result)), flush=True)
    ok = all(result["ok"] for result in results)
    if options.json:
        print(json.dumps({"tol": options.tol, "ok": ok, "files": results}, indent=1))
    return 0 if ok else 1


def _check(path: Path, tolerance: float, device: str) -> dict[str, Any]:
    """What is known of one file: ``tensors`` with their errors, or a ``reason`` why it was not run."""
    from core.cli.parity_cases import run_file  # torch and every network

    result: dict[str, Any] = {"file": str(path), "ok": False, "reason": None, "tensors": []}
    try:
        comparisons = run_file(path, device)
    except Exception as error:  # whatever stops one file must not stop the others
        result["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return result
    for comparison in comparisons:
        result["tensors"].append(
            {
                "tensor": comparison.tensor,
                "relative_rms_error": comparison.error if math.isfinite(comparison.error) else None,
                "shape": list(comparison.shape),
                "ok": comparison.error <= tolerance,
                "note": comparison.note,
            }
        )
    result["ok"] = bool(comparisons) and all(tensor["ok"] for tensor in result["tensors"])
    return result


def _lines(result: dict[str, Any]) -> list[str]:
    name = Path(result["file"]).name
    if result["reason"] is not None:
        return [f"{name}  cannot run: {result['reason']}"]
    lines = []
    for tensor in result["tensors"]:
        error = tensor["relative_rms_error"]
        shown = "inf" if error is None else f"{error:.2e}"
        tail = "".join(f"  {text}" for text in ("" if tensor["ok"] else "ABOVE TOLERANCE", tensor["note"]) if text)
        lines.append(f"{name}  {tensor['tensor']}  {shown}  {tensor['shape']}{tail}")
    return lines


if __name__ == "__main__":
    sys.exit(run_reporting(main))

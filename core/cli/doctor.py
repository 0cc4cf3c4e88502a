"""``s2mesh doctor``: what this machine has for S2 Mesh, and what is missing."""

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from core import __version__
from core.cli.errors import run_reporting


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh doctor",
        description="Say which devices, backends and presets this machine has, and why. "
        "Exit status 1 if something that `generate` needs is missing.",
    )
    parser.add_argument("--models-dir", type=Path, metavar="FOLDER", help="where presets are kept besides the bundled")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Prints the report; 0 when a picture can be turned into a mesh here, else 1."""
    options = build_parser().parse_args(argv)
    report = examine(options.models_dir)
    print(json.dumps(report, indent=2) if options.json else as_text(report))
    return 1 if report["problems"] else 0


def examine(models_dir: Path | None = None) -> dict[str, Any]:
    """The report as plain data: versions, devices, backends, presets, and a list of problems in words."""
    import torch

    from core.checkpoints.installed import find_preset_folder, missing_networks
    from core.config.presets import PRESETS
    from core.ops.backend import backend_report
    from core.pipeline.devices import available_devices, resolve_dtype
    from core.pipeline.memory_plan import make_plan

    problems = []
    devices = []
    for device in available_devices():
        works = _works(device)
        memory = _memory(device) if works is True else {"name": "not usable"}
        dtype = str(resolve_dtype(device)).removeprefix("torch.")
        devices.append({"device": str(device), "dtype": dtype, "works": works, **memory})
        if works is not True:
            problems.append(f"{device} cannot compute: {works}. Update its driver, or use another --device.")

    presets = []
    working = [device for device, entry in zip(available_devices(), devices, strict=True) if entry["works"] is True]
    device = (working or available_devices()[-1:])[0]
    for preset in PRESETS.values():
        folder = find_preset_folder(preset, models_dir)
        missing = missing_networks(preset, folder)
        plan = make_plan(preset, device, resolve_dtype(device))
        presets.append(
            {
                "preset": preset.name,
                "installed": not missing,
                "folder": str(folder),
                "missing": missing,
                "memory": plan.mode,
                "memory_why": plan.why(),
            }
        )
    if not any(preset["installed"] for preset in presets):
        problems.append("no preset is installed. Clone the repository again (starter), or see `s2mesh models list`.")

    return {
        "s2mesh": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton") or _version("triton-windows"),
        "devices": devices,
        "backends": [
            {"op": line.op, "backend": line.backend.value, "reason": line.reason}
            for line in backend_report(available_devices()[0])
        ],
        "presets": presets,
        "problems": problems,
    }


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"s2mesh {report['s2mesh']}, Python {report['python']}, {report['system']}",
        f"torch {report['torch']} ({report['threads']} threads of {report['processors']} processors), "
        f"CUDA {report['cuda'] or 'none'}, Triton {report['triton'] or 'none'}",
        "",
        "devices (the first is used unless --device says otherwise)",
    ]
    for entry in report["devices"]:
        memory = f", {entry['free_gb']:.1f} of {entry['total_gb']:.1f} GB free" if "total_gb" in entry else ""
        lines.append(f"  {entry['device']:<8} {entry['name']}{memory}, computes in {entry['dtype']}")
    lines += ["", "backends"]
    lines += [f"  {entry['op']:<26} {entry['backend']:<10} {entry['reason']}" for entry in report["backends"]]
    lines += ["", "presets"]
    for entry in report["presets"]:
        state = f"installed in {entry['folder']}" if entry["installed"] else f"not installed ({entry['folder']})"
        lines.append(f"  {entry['preset']:<18} {state}")
        lines.append(f"  {'':<18} memory {entry['memory_why']}")
    lines += (
        ["", *(f"problem: {problem}" for problem in report["problems"])] if report["problems"] else ["", "all well"]
    )
    return "\n".join(lines)


def _memory(device: Any) -> dict[str, Any]:
    """Name and, where the system tells them, total and free memory in GB (1e9 bytes)."""
    from core.pipeline.devices import device_memory, device_title

    memory = device_memory(device)
    if memory is None:
        return {"name": device_title(device)}
    return {"name": device_title(device), "total_gb": memory[1] / 1e9, "free_gb": memory[0] / 1e9}


def _works(device: Any) -> bool | str:
    """True, or why a small product on the device fails."""
    import torch

    try:
        ones = torch.ones(8, 8, device=device)
        return bool((ones @ ones).sum().item() == 512) or "a product came out wrong"
    except RuntimeError as error:
        return str(error).split("\n")[0]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(run_reporting(main))

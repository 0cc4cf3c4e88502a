"""From the names a user gives to a torch device and dtype, with an error that says what this machine has."""

import difflib
import platform
from pathlib import Path

import torch

from core.errors import ConfigError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def available_devices() -> list[torch.device]:
    """Every device of this machine, best first; the CPU is always the last."""
    devices = []
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return [*devices, torch.device("cpu")]


def device_title(device: torch.device) -> str:
    """What the device is called by its maker, or what comes nearest to that."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    try:  # Linux; platform.processor() knows only the architecture there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes that are free and that there are in all, of the machine where the device is its CPU; None: it is not told.

    What this process holds without using it (torch keeps freed memory) counts as free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total
    if device.type == "mps":  # shares the machine's memory; the system recommends a limit
        total = torch.mps.recommended_max_memory()
        return max(total - torch.mps.current_allocated_memory(), 0), total
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free, total = (int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):  # Windows and macOS say it elsewhere
        return None
    return _within_container(free, total)


def _within_container(free: int, total: int) -> tuple[int, int]:
    """The same where the process's group may use less than the machine has."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        left = limit - used + int(rows["inactive_file"])  # what was read of files is given up when it is needed
    except (OSError, KeyError, ValueError):  # no such group, or no limit
        return free, total
    return max(min(free, left), 0), min(total, limit)


def resolve_device(name: str = "auto") -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` to a device that exists here.

    ``auto`` is the first CUDA device, else Apple's GPU, else the CPU. Raises ConfigError for a name that is
    none of these, a device that this machine (or this build of torch) lacks, or an index out of range.
    """
    devices = available_devices()
    if name == "auto":
        return devices[0]
    kind, _, index = name.lower().partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()) or name.endswith(":"):
        close = difflib.get_close_matches(kind, ["auto", "cpu", "cuda", "mps"], n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"there is no device '{name}'. Use auto, cpu, cuda, cuda:INDEX or mps.{hint}")
    here = ", ".join(map(str, devices))
    if kind == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            why = f"the installed torch {torch.__version__} has no CUDA. Run `python packaging/run.py setup --cuda`"
        else:
            why = "torch finds no usable NVIDIA GPU. Check that `nvidia-smi` lists one and that its driver is recent"
        raise ConfigError(f"device '{name}' is not available: {why}, or use one of: {here}.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device 'mps' needs macOS 12.3 or newer on Apple silicon. Use one of: {here}.")
    of_kind = [device for device in devices if device.type == kind]
    if int(index or 0) >= len(of_kind):
        raise ConfigError(f"device '{name}' does not exist: this machine has {here}.")
    return of_kind[int(index or 0)]


def resolve_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """``auto`` or a name of ``DTYPES`` to the dtype that the networks compute in on ``device``.

    ``auto`` is bfloat16 on a CUDA device that has it in hardware (compute capability 8.0), float16 on an
    older one, and float32 elsewhere. Raises ConfigError for an unknown name or one that the device lacks.
    """
    native_bfloat16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if native_bfloat16 else torch.float16
    if name not in DTYPES:
        raise ConfigError(f"there is no dtype '{name}'. Use auto, float32, bfloat16 or float16.")
    if DTYPES[name] is torch.bfloat16 and not native_bfloat16:
        raise ConfigError(f"{torch.cuda.get_device_name(device)} has no bfloat16. Use --dtype float16 or float32.")
    return DTYPES[name]

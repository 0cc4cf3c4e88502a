"""From an exception to one line on the error stream and an exit status; used by every command.

    if __name__ == "__main__":
        sys.exit(run_reporting(main))

Statuses: 0 done, 2 the user's mistake, 1 ours or the machine's, 130 interrupted. Loads nothing heavy.
"""

import os
import sys
import traceback
from collections.abc import Callable

from core.errors import CoreError, DeviceMemoryError, disk_full_error, is_disk_full, is_memory_error, memory_cause

DEBUG_VARIABLE = "S2MESH_DEBUG"  # any value but "" and "0": print the traceback too
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_reporting(run: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status, whatever it raises; ``SystemExit`` passes through.

    ``run`` may return None for 0. With ``S2MESH_DEBUG`` set, the traceback comes before the line.
    """
    try:
        return run() or 0
    except KeyboardInterrupt:
        return _report("interrupted; nothing half-written is left", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            traceback.print_exc()
        message, status = describe(error)
        return _report(message, status)


def describe(error: Exception) -> tuple[str, int]:
    """The line and the exit status for an exception."""
    if is_memory_error(error) and not isinstance(error, CoreError):
        error = memory_error(error)
    if isinstance(error, OSError) and is_disk_full(error):
        error = disk_full_error(error.filename or "the output", error)
    if isinstance(error, CoreError):
        return str(error), error.exit_status
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in ("core", "server"):
        return (
            f"the package '{error.name}' is not installed. Run the command through `python packaging/run.py`, "
            "which installs everything, or install s2mesh with the extra it belongs to, such as s2mesh[cpu].",
            1,
        )
    return (
        f"unexpected {type(error).__name__}: {error}. This is a bug in S2 Mesh; "
        f"run again with --debug (or {DEBUG_VARIABLE}=1) for the traceback and report it.",
        1,
    )


def memory_error(error: BaseException) -> DeviceMemoryError:
    """The user's version of an out-of-memory error: the first sentence of the cause, and the remedies."""
    cause = memory_cause(error)
    return DeviceMemoryError(
        f"out of memory{f' ({cause})' if cause else ''}. Close other programs, choose a smaller preset "
        "or resolution, or use another --device (cpu uses the machine's own memory)."
    )


def _report(message: str, status: int) -> int:
    one_line = " ".join(message.split())
    print(f"s2mesh: error: {one_line}" if status != INTERRUPTED else f"s2mesh: {one_line}", file=sys.stderr)
    return status

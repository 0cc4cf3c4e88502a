"""Runs pip quietly with one progress line, explains its failures, and keeps two runs from installing at once."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from environment import SetupError, say

# Words in pip's output, and what they mean for the user. The first that is found is told.
EXPLANATIONS = (
    (
        ("No space left on device", "[Errno 28]", "WinError 112", "not enough space on the disk"),
        "the disk is full. Free some space, or name a folder on another disk in the variable S2MESH_VENV",
    ),
    (
        ("NewConnectionError", "name resolution", "getaddrinfo failed", "ConnectTimeout", "ReadTimeout", "ProxyError")
        + ("Network is unreachable", "Connection refused", "Connection reset", "connection broken", "Max retries"),
        "the package index cannot be reached. Check the network (and a proxy in HTTPS_PROXY), then run again; "
        "what is downloaded already is kept",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError"),
        "the connection to the package index is not trusted. If your network inspects traffic, give pip its "
        "certificate in the variable PIP_CERT",
    ),
    (
        ("No matching distribution found",),
        "a package has no build for this system. S2 Mesh runs on Linux (x86-64 or arm64, glibc), Windows (x86-64) "
        "and macOS 14 or newer (Apple silicon)",
    ),
    (("Permission denied", "[Errno 13]"), "the folder cannot be written. Name another one in the variable S2MESH_VENV"),
)


def run_pip(
    python: Path, what: str, arguments: tuple[str, ...], log: Path, verbose: bool, held: BinaryIO | None = None
) -> None:
    """One call of pip in the environment; its output goes to ``log``, and to the terminal if ``verbose``.

    ``held`` is the file of ``lock``: pip keeps it locked too, should we be killed before pip is done.
    Raises SetupError with the likely cause when pip fails.
    """
    command = [str(python), "-m", "pip", *arguments]
    settings = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PYTHONHOME"):  # would install elsewhere
        settings.pop(name, None)
    started = time.monotonic()
    say(f"{what} ...")
    with log.open("a", encoding="utf-8", errors="replace") as record:
        record.write(f"$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            env=settings,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(held.fileno(),) if held and os.name == "posix" else (),
        )
        tail = []
        try:
            for line in process.stdout:
                record.write(line)
                tail = [*tail[-199:], line.rstrip()]
                if verbose:
                    print(line, end="", file=sys.stderr)
                else:
                    show_activity(line)
        except BaseException:  # Ctrl+C: pip gets it too; do not leave before it has
            process.wait()
            raise
        finally:
            process.stdout.close()
        status = process.wait()
    clear_activity()
    if status:
        raise SetupError(explain(what, tail, log))
    say(f"{what}: done in {time.monotonic() - started:.0f} s")


def explain(what: str, output: list[str], log: Path) -> str:
    """One line for pip's failure, from its last lines."""
    text = "\n".join(output)
    for words, meaning in EXPLANATIONS:
        if any(word in text for word in words):
            return f"{what} failed: {meaning}. Details: {log}"
    last = next((line for line in reversed(output) if line.startswith("ERROR")), output[-1] if output else "no output")
    return f"{what} failed: {last.removeprefix('ERROR: ')}. Details: {log}"


def show_activity(line: str) -> None:
    """On a terminal, the package that pip is busy with and its size, in place."""
    if sys.stderr.isatty() and line.lstrip().startswith(("Downloading ", "Installing ", "Using cached ")):
        print(f"\r\x1b[K  {line.strip()[:76]}", end="", file=sys.stderr, flush=True)


def clear_activity() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def lock(path: Path, on_wait: Callable[[], None]) -> Iterator[BinaryIO]:
    """Held by one process at a time. The system frees it when its holder ends, however that happens, so a
    file that an interrupted run left behind blocks nobody.
    """
    with path.open("a+b") as file:
        waited = False
        while not try_lock(file):
            if not waited:
                on_wait()
                waited = True
            time.sleep(0.3)
        yield file


def try_lock(file: BinaryIO) -> bool:
    """Takes the lock and returns True, or returns False while another process holds it."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks: two installs at once are then the user's affair
        return True
    return True

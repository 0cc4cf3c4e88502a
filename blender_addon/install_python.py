# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds a Python that can run the server: 3.10 to 3.13, 64 bits, able to make environments.

Blender's own is the last resort: the server's environment would break with the next update of Blender.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .client_errors import InstallFailed
from .server_process import clean_environment, detached

OLDEST, NEWEST = (3, 10), (3, 13)
_ORDER = ("3.12", "3.11", "3.13", "3.10")  # the best tried first
_PROBE = """
import json, sys
lacks = []
for name in ("venv", "ensurepip"):
    try:
        __import__(name)
    except ImportError:
        lacks.append(name)
print(json.dumps([list(sys.version_info[:2]), sys.maxsize > 2**32, lacks]))
"""


@dataclass(frozen=True, kw_only=True)
class FoundPython:
    """One interpreter."""

    command: tuple[str, ...]  # that starts it
    version: tuple[int, int] | None  # None: it does not run
    problem: str = ""  # why it cannot be used; empty where it can


def candidates(chosen: str = "") -> list[tuple[str, ...]]:
    """Commands to try, the best first; ``chosen`` is the artist's and stands alone."""
    if chosen:
        return [(chosen,)]
    named = [(f"python{version}",) for version in _ORDER] + [("python3",)]
    if sys.platform == "win32":
        named = [*(("py", f"-{version}") for version in _ORDER), ("python",), *named]
    elif sys.platform == "darwin":  # programs started from the Finder see a short PATH
        folders = ("/opt/homebrew/bin", "/usr/local/bin")
        named += [(f"{folder}/python{version}",) for folder in folders for version in _ORDER]
    return [*named, (sys.executable,)] if sys.executable else named


def probe(command: tuple[str, ...]) -> FoundPython:
    """Asks an interpreter what it is."""
    try:
        answer = subprocess.run(
            [*command, "-c", _PROBE],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=20,
            env=clean_environment(),
            **detached(),
        )
        version, bits, lacks = json.loads(answer.stdout)
        version = (int(version[0]), int(version[1]))
    except (OSError, ValueError, TypeError, IndexError, subprocess.SubprocessError):
        return FoundPython(command=command, version=None, problem="does not run")
    name = f"is Python {version[0]}.{version[1]}"
    if not OLDEST <= version <= NEWEST:
        return FoundPython(command=command, version=version, problem=name)
    if not bits:
        return FoundPython(command=command, version=version, problem=f"{name} of 32 bits")
    if lacks:
        return FoundPython(command=command, version=version, problem=f"{name} without {' and '.join(lacks)}")
    return FoundPython(command=command, version=version)


def find_python(chosen: str = "") -> FoundPython:
    """The first that fits.

    Raises:
        InstallFailed: with what was found instead.
    """
    if chosen and not Path(chosen).is_file():
        raise InstallFailed(f"There is no program {chosen}", "Choose a Python 3.12 in the preferences, or clear it.")
    seen = []
    for command in candidates(chosen):
        found = probe(command)
        if not found.problem:
            return found
        if found.version is not None:
            seen.append(f"{' '.join(command)} {found.problem}")
    others = f" ({'; '.join(dict.fromkeys(seen))})" if seen else ""
    raise InstallFailed(
        f"There is no 64-bit Python 3.10 to 3.13 that can make environments{others}",
        f"{_remedy()} Then press it again.",
    )


def _remedy() -> str:
    if sys.platform == "win32":
        return "Install Python 3.12 from python.org."
    if sys.platform == "darwin":
        return "Install Python 3.12 from python.org, or with `brew install python@3.12`."
    return "Install one, on Debian and Ubuntu with `sudo apt install python3-venv`, or choose it in the preferences."

"""The Blenders that the extension is tested in: bpy from the package index, one environment for each version.

A version is a file `packaging/constraints/bpy-X.Y.txt`. Its environment is `.venv.bpy-X.Y` of the clone, or the folder
in the variable S2MESH_BPY_X_Y; one that holds this bpy already is taken as it is. bpy of these versions exists for
Python 3.11 alone, whatever Python the rest runs with. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from environment import CONSTRAINTS, ROOT, SetupError, python_of, read_state, say, write_state
from installing import require_room
from pip_runner import lock, run_pip

BPY_PYTHON = (3, 11)
ROOM_GB = 1.5  # of one version, the download included
LIBRARIES = "libegl1 libgl1 libgomp1 libice6 libsm6 libx11-6 libxfixes3 libxi6 libxkbcommon0 libxrender1 libxxf86vm1"


def known_versions() -> list[str]:
    """The versions that have pins, the oldest first."""
    names = [path.stem.removeprefix("bpy-") for path in CONSTRAINTS.glob("bpy-*.txt")]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def variable_of(version: str) -> str:
    return "S2MESH_BPY_" + version.replace(".", "_")


def folder_of(version: str) -> Path:
    return Path(os.environ.get(variable_of(version)) or ROOT / f".venv.bpy-{version}").absolute()


def bpy_folder(python: Path, version: str | None = None) -> Path | None:
    """Where an interpreter has Blender's files (`.../bpy/X.Y`); None without bpy, or with another version's.

    Asks without importing bpy, which would cost a second.
    """
    probe = "import importlib.util as u; s = u.find_spec('bpy'); print(s.origin if s and s.origin else '')"
    try:
        answer = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode or not answer.stdout.strip():
        return None
    for scripts in sorted(Path(answer.stdout.strip()).parent.glob("*.*/scripts")):
        if version in (None, scripts.parent.name):
            return scripts.parent
    return None


def existing(version: str) -> Path | None:
    """The interpreter of a version that is there already, or None. Installs nothing."""
    folder = folder_of(version)
    python = python_of(folder)
    state = read_state(folder)
    if not python.exists() or state.get("busy") or state.get("pins", pins(version)) != pins(version):
        return None
    return python if bpy_folder(python, version) else None


def pins(version: str) -> str:
    return (CONSTRAINTS / f"bpy-{version}.txt").read_text(encoding="utf-8")


def ensure(version: str, verbose: bool = False) -> Path:
    """The interpreter of a version, installed first where it is not there. Safe to interrupt and to run twice at once.

    Raises:
        SetupError: no Python 3.11, no room, no network, or a folder that holds something else.
    """
    if python := existing(version):
        return python
    folder, where = folder_of(version), variable_of(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(folder.name + ".lock"), lambda: say("another run is installing; waiting")) as held:
        if python := existing(version):  # the other run did it
            return python
        if folder.exists() and any(folder.iterdir()):
            if not read_state(folder).get("ours"):
                raise SetupError(
                    f"{folder} is there but has no bpy {version}. Move it away, or name another folder in {where}."
                )
            shutil.rmtree(folder)  # cut off, or made from other pins: a venv of bpy is quicker made than mended
        source = find_python()
        require_room(folder.parent, ROOM_GB)
        say(f"making {folder} for Blender {version}; this happens once")
        folder.mkdir(exist_ok=True)
        write_state(folder, {"ours": True, "busy": True})
        made = subprocess.run([source, "-m", "venv", folder], capture_output=True, text=True, env=clean_environment())
        if made.returncode:
            raise SetupError(f"{source} could not make {folder}: {(made.stderr or made.stdout).strip()[-300:]}")
        arguments = ("install", "--only-binary=:all:", "-r", str(CONSTRAINTS / f"bpy-{version}.txt"))
        try:
            run_pip(
                python_of(folder),
                f"installing Blender {version} as a Python module (about 400 MB to fetch)",
                arguments,
                folder / "install.log",
                verbose,
                held,
            )
        except SetupError as error:  # pip's failures are told with the variable of the main environment
            raise SetupError(str(error).replace("S2MESH_VENV", where)) from None
        require_start(python_of(folder), version)
        write_state(folder, {"ours": True, "pins": pins(version)})
    return python_of(folder)


def require_start(python: Path, version: str) -> None:
    """Blender is linked with libraries of a desktop, which a server or a container may lack."""
    started = subprocess.run([python, "-c", "import bpy"], capture_output=True, text=True, env=clean_environment())
    if started.returncode:
        raise SetupError(
            f"Blender {version} does not start: {(started.stderr.strip().splitlines() or ['no output'])[-1]}. "
            f"On Debian or Ubuntu: apt install {LIBRARIES}"
        )


def find_python() -> str:
    """A Python 3.11 of this machine.

    Raises:
        SetupError: where there is none, with where to get it.
    """
    wanted = "{}.{}".format(*BPY_PYTHON)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    # pyenv's shim `python3.11` fails where another version is chosen; its installations are looked at as well.
    candidates = [sys.executable, shutil.which(f"python{wanted}"), *sorted(pyenv.glob(f"{wanted}.*/bin/python"))]
    candidates += ["/opt/homebrew/bin/python" + wanted, "/usr/local/bin/python" + wanted]
    if launcher := shutil.which("py"):
        found = subprocess.run([launcher, f"-{wanted}", "-c", "import sys; print(sys.executable)"], capture_output=True)
        candidates.append(found.stdout.decode(errors="replace").strip())
    for candidate in filter(None, candidates):
        if is_python(str(candidate)):
            return str(candidate)
    raise SetupError(
        f"Blender as a Python module needs Python {wanted}, and none was found. Install it (Debian or Ubuntu: "
        f"python{wanted}-venv; Windows: `winget install Python.Python.{wanted}`; macOS: "
        f"`brew install python@{wanted}`; or `pyenv install {wanted}`), or name an environment that has bpy in "
        f"{variable_of(known_versions()[-1])}."
    )


def is_python(candidate: str) -> bool:
    """True for a 64-bit interpreter of the right version that can make environments."""
    probe = (
        "import ensurepip, sys, venv; "
        f"sys.exit(sys.version_info[:2] != {BPY_PYTHON} or sys.maxsize < 2**32 or sys.implementation.name != 'cpython')"
    )
    try:
        return not subprocess.run([candidate, "-c", probe], capture_output=True, env=clean_environment()).returncode
    except OSError:
        return False


def clean_environment() -> dict[str, str]:
    """Ours without what would lead another interpreter astray."""
    astray = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in astray}

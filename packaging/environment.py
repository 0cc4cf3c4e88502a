"""The virtual environment of a clone: made and filled when a verb first needs it, then started in no time.

What is installed is the pinned sets of packaging/constraints, and the project itself in place. What was
completed is written in the environment's `s2mesh.json`, last, so that an interrupted install is taken up at
the next run. Standard library only; modules that cost time are imported where they are needed.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "packaging" / "constraints"
STATE = "s2mesh.json"  # in the environment; see installing.py for what it says
FILES = {"runtime": ("common.txt", "torch.txt"), "dev": ("dev.txt",)}  # set name: its files of pins

PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")  # `test -n 0` takes one after the other

USAGE = """usage: python3 packaging/run.py [--cpu | --cuda] [-v] VERB ...

Installs what is missing into .venv of this clone (or the folder S2MESH_VENV), then runs the verb.

verbs:
  setup     install only; with --runtime without the tools that only the tests need
  test      run the tests, a file on each core; what follows goes to pytest (paths from the repository's root)
  test-blender [VERSION...]  run the tests of the extension in real Blenders (4.2, 4.5, 5.0), fetched first: 1 GB each
  generate, doctor and every other verb of s2mesh: `python3 packaging/run.py help` lists them

options:
  --cpu, --cuda  which build of PyTorch (default: CUDA where there is an NVIDIA GPU)
  -v             show what pip prints
  --help         print this
"""


class SetupError(Exception):
    """The environment cannot be made; the message says what to do. Exit status 1."""


def main(arguments: list[str]) -> int:
    """Brings the environment up to date and hands over to the verb."""
    build, verbose, bare = None, False, False
    arguments = list(arguments)
    while arguments and arguments[0].startswith("-") or "setup" in arguments[:1] and len(arguments) > 1:
        option = arguments.pop(0 if arguments[0].startswith("-") else 1)
        if option in ("--cpu", "--cuda"):
            build = option[2:]
        elif option in ("-v", "--verbose"):
            verbose = True
        elif option == "--runtime" and "setup" in arguments[:1]:
            bare = True
        elif option in ("-h", "--help"):
            print(USAGE, end="")
            return 0
        else:
            return fail(f"there is no option '{option}' here. See `python3 packaging/run.py --help`.", 2)
    if not arguments:
        print(USAGE, end="", file=sys.stderr)
        return 2
    verb, rest = arguments[0], arguments[1:]
    folder = Path(os.environ.get("S2MESH_VENV") or ROOT / ".venv").absolute()
    sets = ("runtime", "dev") if verb in ("test", "setup") and not bare else ("runtime",)
    try:
        if not is_current(folder, sets, build):
            from installing import install  # beside this file; most runs do not need it

            install(folder, sets, build, verbose)
    except SetupError as error:
        return fail(str(error), 1)
    except OSError as error:  # a folder that cannot be made or written, a disk that is full
        return fail(f"{error}. Name a folder that can be written in the variable S2MESH_VENV, or free some space.", 1)
    except KeyboardInterrupt:
        return fail("interrupted; the next run goes on from here", 130)
    python = str(python_of(folder))
    if verb == "setup":
        print(f"s2mesh: ready in {folder}")
        return 0
    if verb == "test":
        os.chdir(ROOT)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores go to several test files at once
        return hand_over([python, "-m", "pytest", *PARALLEL, *rest])
    if verb == "test-blender":
        return hand_over([python, str(ROOT / "packaging" / "test_blender.py"), *rest])
    script = python_of(folder).with_name("s2mesh.exe" if os.name == "nt" else "s2mesh")
    # Not `-m server.cli`, which would first look for a folder `server` where the user stands.
    return hand_over([*([] if os.name == "nt" else [python]), str(script), verb, *rest])


def fail(message: str, status: int) -> int:
    print(f"s2mesh: error: {message}", file=sys.stderr)
    return status


def say(message: str) -> None:
    print(f"s2mesh: {message}", file=sys.stderr, flush=True)


def hand_over(command: list[str]) -> int:
    """Becomes the command; on Windows, where a process cannot, waits for it and returns its status."""
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "1000")):  # server/settings.py says why
        os.environ.setdefault(name, value)
    for name in ("PYTHONHOME", "__PYVENV_LAUNCHER__"):  # would lead the environment's Python astray
        os.environ.pop(name, None)
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    import signal
    import subprocess

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the child as well; its answer counts
    return subprocess.call(command)


# What is there --------------------------------------------------------------------------------------------


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def digest(name: str, python: tuple[int, int]) -> str:
    """Changes with everything that a set of packages was installed from."""
    import hashlib

    content = hashlib.sha256(f"{name} {python} {ROOT}".encode())
    for path in [ROOT / "pyproject.toml", *(CONSTRAINTS / file for file in FILES[name])]:
        content.update(path.read_bytes())
    return content.hexdigest()


def read_state(folder: Path) -> dict:
    try:
        return json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}


def write_state(folder: Path, state: dict) -> None:
    partial = folder / (STATE + ".partial")
    partial.write_text(json.dumps(state))
    os.replace(partial, folder / STATE)


def is_current(folder: Path, sets: tuple[str, ...], build: str | None) -> bool:
    """True when nothing is left to do: the only check that an ordinary run makes."""
    state, python = read_state(folder), sys.version_info[:2]
    return (
        build in (None, state.get("build"))
        and all(state.get("done", {}).get(name) == digest(name, python) for name in sets)
        and python_of(folder).exists()
    )

"""Makes the environment and fills it: the slow path that most runs never enter."""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from environment import SetupError, digest, is_current, python_of, read_state, say, write_state
from install_plan import PYTORCH_INDEX, choose_build, detect_machine, plan, torch_index
from pip_runner import lock, run_pip

ROOM_GB = {"cpu": 3, "cuda": 10}  # free disk that a fresh install needs, downloads included


def install(folder: Path, sets: tuple[str, ...], build: str | None, verbose: bool) -> None:
    """Makes the environment hold the sets. Safe to interrupt, to repeat and to run twice at once.

    The state file says: ``ours``, the folder was made here and may be made anew; ``build``, the build of
    PyTorch asked for; ``torch``, the one in place (or "unknown"); ``busy``, an install is going on (or was
    cut off); ``done``, the digest of each completed set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(folder.name + ".lock"), lambda: say("another run is installing; waiting")) as held:
        if is_current(folder, sets, build):  # the other run did it
            return
        machine, python = detect_machine(), sys.version_info[:2]
        state = make_environment(folder)
        chosen, warning = choose_build(machine, build or state.get("build"))  # an earlier choice stands
        if warning:
            say(warning)
        in_place = state.get("torch")  # None: no torch yet
        done = {name: value for name, value in state["done"].items() if name != "runtime" or in_place == chosen}
        missing = tuple(name for name in sets if done.get(name) != digest(name, python))
        index = None
        if "runtime" in missing:
            index = torch_index(machine, chosen)
            if in_place is None:
                require_room(folder, ROOM_GB[chosen])
            if index == "cpu" and not reachable(PYTORCH_INDEX + "cpu/torch/"):
                say("PyTorch's own index does not answer; pip's index may bring the CUDA build (3 GB) in its place")
                index = None
        say(f"installing into {folder}, with the {chosen.upper()} build of PyTorch; this happens once")
        torch_now = "unknown" if "runtime" in missing else in_place
        state.update(build=chosen, torch=torch_now, busy=True, done=done)
        write_state(folder, state)
        try:
            for step in plan(missing, chosen, index, replace_torch=in_place not in (None, chosen)):
                run_pip(python_of(folder), step.what, step.arguments, folder / "install.log", verbose, held)
        except (SetupError, KeyboardInterrupt):  # pip has undone its unfinished step; what is there is whole
            write_state(folder, {**state, "busy": False})
            raise
        done.update({name: digest(name, python) for name in missing})
        write_state(folder, {**state, "torch": chosen, "busy": False, "done": done})


def make_environment(folder: Path) -> dict:
    """Creates the virtual environment, or takes the one that is there; returns its state."""
    state, python = read_state(folder), list(sys.version_info[:2])
    cut_off = state.get("ours") and state.get("busy")  # killed in the midst of a package: do not trust it
    if not cut_off and (folder / "pyvenv.cfg").exists() and is_usable(python_of(folder), python):
        return {"ours": False, "done": {}, **state}
    if Path(sys.prefix).resolve() == folder.resolve():
        raise SetupError(f"{folder} has to be made anew; start this with a Python that does not live in it.")
    if folder.exists() and any(folder.iterdir()):
        if not state.get("ours"):
            raise SetupError(
                f"{folder} is there but is no environment of this Python ({python[0]}.{python[1]}). Move it away, "
                "or name another folder in the variable S2MESH_VENV."
            )
        why = "an earlier install was cut off" if cut_off else f"for Python {python[0]}.{python[1]}"
        say(f"making {folder} anew: {why}")
        shutil.rmtree(folder)
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        raise SetupError(
            "this Python lacks the modules venv and ensurepip. "
            f"On Debian or Ubuntu: sudo apt install python{python[0]}.{python[1]}-venv"
        ) from None
    state = {"ours": True, "done": {}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_state(folder, state)  # first, so that a half-made folder is known to be ours
        venv.EnvBuilder(with_pip=True, symlinks=os.name == "posix").create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"the environment could not be made in {folder}: {error}") from None
    return state


def is_usable(python: Path, version: list[int]) -> bool:
    """True for an interpreter of this version that has pip."""
    probe = f"import pip, sys; sys.exit(list(sys.version_info[:2]) != {version})"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def require_room(folder: Path, needed_gb: float) -> None:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(
            f"{folder} needs about {needed_gb} GB and the disk has {free_gb:.1f} GB free. "
            "Free some, or name a folder on another disk in the variable S2MESH_VENV."
        )


def reachable(address: str) -> bool:
    """True when a web address answers within about three seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=3):
            return True
    except (OSError, ValueError):
        return False

"""A small S2 Mesh in an archive, whose packaging/run.py is a real script that does what `plan.txt` says."""

import zipfile
from pathlib import Path
from typing import Any

RUN = """
import json, os, pathlib, sys, time
root = pathlib.Path(__file__).resolve().parents[1]
print("arguments", *sys.argv[1:], flush=True)
print("PYTHONHOME" in os.environ, file=sys.stderr, flush=True)
plan = (root / "plan.txt").read_text()
if plan == "fails":
    print("s2mesh: error: the disk is full. Free some space", flush=True)
    print("trailing words")
    sys.exit(1)
if plan == "waits":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (root / "child").write_text(str(child.pid))
    print("waiting", flush=True)
    time.sleep(600)
if plan == "floods":
    for number in range(3000):
        print("x" * 5000, number, end="\\n" if number % 2 else "")
folder = root / ".venv"
(folder / "bin").mkdir(parents=True, exist_ok=True)
for name in ("python", "s2mesh"):
    (folder / "bin" / name).write_text("")
if plan != "lies":
    (folder / "s2mesh.json").write_text(json.dumps({"done": {"runtime": "abc"}, "busy": False}))
"""


def never():
    return False


def no_words(_):
    pass


def archive(path, files, top="s2mesh-1.0/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name if isinstance(name, zipfile.ZipInfo) else top + name, content)
    return path


def small_archive(
    folder: Path, plan: str = "works", top: str = "s2mesh-1.0/", version: str = "1.0", **more: Any
) -> Path:
    """Written into ``folder``; ``more`` are further files."""
    files = {"packaging/run.py": RUN, "plan.txt": plan, "core/__init__.py": f'__version__ = "{version}"\n'}
    return archive(folder / "s2mesh.zip", {**files, **more}, top)

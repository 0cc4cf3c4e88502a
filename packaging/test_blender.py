"""`python3 packaging/run.py test-blender`: the built extension in real Blenders. Run by the main environment's Python.

Makes the Blenders (packaging/bpy_environments.py), builds the zip and hands over to tests/in_blender/run.py.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bpy_environments import ensure, known_versions, variable_of
from build_extension import build, extension_tool
from environment import ROOT, SetupError, fail

RUNNER = ROOT / "tests" / "in_blender" / "run.py"


def main(arguments: list[str]) -> int:
    versions = known_versions()
    parser = argparse.ArgumentParser(
        prog="run.py test-blender",
        description="Run tests/in_blender in Blenders from the package index (bpy), with the extension installed from "
        f"its built zip. A Blender takes 1 GB in .venv.bpy-X.Y, or in the folder that {variable_of('X.Y')} names; it "
        "needs Python 3.11, which is looked for.",
        usage="run.py test-blender [-h] [--keep] [-v] [--zip ZIP] [VERSION ...] [-- FILTER ...]",
        epilog="After --: check_file or check_file::test_name, or -k WORD. Without it, all run.",
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"{', '.join(versions)} (default: all)")
    parser.add_argument("--zip", type=Path, help="test this zip instead of building one")
    parser.add_argument("--keep", action="store_true", help="keep logs, folders of Blender and server data")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what pip prints")
    own, filters = split(arguments)
    given = parser.parse_args(own)
    if unknown := [version for version in given.versions if version not in versions]:
        return fail(f"there are no pins for Blender {', '.join(unknown)}; there are for {', '.join(versions)}.", 2)
    if given.zip and not given.zip.is_file():
        return fail(f"there is no file {given.zip}.", 2)
    try:
        pythons = {version: ensure(version, given.verbose) for version in given.versions or versions}
        with tempfile.TemporaryDirectory(prefix="s2mesh-zip-") as folder:
            # The oldest builds: what it takes, the others take.
            tool = extension_tool(bpy_python=str(next(iter(pythons.values()))))
            archive = given.zip or build(Path(folder), tool)
            command = [sys.executable, str(RUNNER), "--zip", str(archive), *(["--keep"] if given.keep else [])]
            for version, python in pythons.items():
                command += ["--blender", f"{version}={python}"]
            return subprocess.call([*command, *filters])
    except SetupError as error:
        return fail(str(error), 1)
    except OSError as error:
        return fail(f"{error}. Free some space, or name folders that can be written ({variable_of('X.Y')}).", 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Ours, and those after `--`."""
    where = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:where], arguments[where + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Builds the Blender extension: `python3 packaging/build_extension.py [--output DIR] [--repository DIR]`.

Blender's own program builds the zip and validates it, from a `blender` or from bpy of the package index. The same
sources give the same bytes, here and elsewhere. Standard library only.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bpy_environments import bpy_folder, existing, known_versions, variable_of  # noqa: E402 (beside this file)
from environment import ROOT, SetupError, fail  # noqa: E402

SOURCE = ROOT / "blender_addon"
FOR_DEVELOPERS = (Path("README.md"),)  # in the folder, not in the zip
SHIPPED = ("blender_manifest.toml", "LICENSE", "*.py", "operators/*.py", "presets/**/*.py", "examples/*.py")
OLDEST_BLENDER = (4, 2)
# Blender unpacks without times, so an update still has newer files than what it replaces.
TIME = (1980, 1, 1, 0, 0, 0)


def shipped_files(source: Path) -> list[Path]:
    """The files of the extension, relative, in order. What matches no pattern is left out."""
    found = {path.relative_to(source) for pattern in SHIPPED for path in source.glob(pattern) if path.is_file()}
    return sorted((path for path in found if not is_left_out(path)), key=lambda path: path.as_posix())


def stray_files(source: Path) -> list[Path]:
    """What lies in the folder and would not be shipped, caches aside."""
    shipped = set(shipped_files(source))
    files = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    known = shipped | set(FOR_DEVELOPERS)
    return sorted(path for path in files if path not in known and "__pycache__" not in path.parts)


def is_left_out(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)


# Blender's program ----------------------------------------------------------------------------------------


def extension_tool(blender: str | None = None, bpy_python: str | None = None) -> list[str]:
    """The command to which `build`, `validate` and `server-generate` are given.

    Raises:
        SetupError: what was named is no Blender that knows extensions, or nothing was named and none is found.
    """
    if blender:
        if not (program := shutil.which(blender)):
            raise SetupError(f"there is no program {blender}")
        version = blender_version(program)
        if version < OLDEST_BLENDER:
            raise SetupError(f"{blender} is no Blender 4.2 or newer; extensions came with that version")
        return [program, "--factory-startup", "--command", "extension"]
    if bpy_python:
        if not (tool := tool_of(bpy_python)):
            raise SetupError(f"{bpy_python} has no bpy 4.2 or newer; `{bpy_python} -m pip install bpy==5.0.1` gets it")
        return tool
    for version in reversed(known_versions()):
        if (python := existing(version)) and (tool := tool_of(str(python))):
            return tool
    if tool := tool_of(sys.executable):
        return tool
    if (program := shutil.which("blender")) and blender_version(program) >= OLDEST_BLENDER:
        return [program, "--factory-startup", "--command", "extension"]
    raise SetupError(
        "no Blender was found, and Blender's own program builds extensions. Name one with --blender PATH (4.2 or "
        "newer); or, in a Python 3.11 environment, `pip install bpy==5.0.1` and name that Python with --bpy-python; "
        f"or `python3 packaging/run.py test-blender 5.0`, which makes one ({variable_of('5.0')} names another folder)."
    )


def tool_of(python: str) -> list[str] | None:
    """Blender's program in an environment that has bpy, run by that environment's Python."""
    folder = bpy_folder(Path(python))
    program = folder / "scripts/addons_core/bl_pkg/cli/blender_ext.py" if folder else None
    return [python, "-B", str(program)] if program and program.exists() else None


def known_tags(tool: list[str]) -> list[str]:
    """The option that holds the manifest's tags against Blender's list. A `blender` does so by itself."""
    tags = Path(tool[-1]).parents[3] / "modules/_bpy_internal/extensions/tags.py" if tool[-1].endswith(".py") else None
    return ["--valid-tags", str(tags)] if tags and tags.exists() else []


def blender_version(program: str) -> tuple[int, ...]:
    """(4, 2) from `Blender 4.2.3 LTS`; (0,) for anything else."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120).stdout
        return tuple(int(part) for part in answer.split("Blender ", 1)[1].split()[0].split(".")[:2])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return (0,)


def run_tool(tool: list[str], *arguments: str) -> None:
    result = subprocess.run([*tool, *arguments], capture_output=True, text=True, errors="replace")
    if result.returncode:
        said = (result.stdout + result.stderr).strip()
        raise SetupError(f"Blender's `extension {arguments[0]}` refused:\n{said}")


# The zip --------------------------------------------------------------------------------------------------


def build(output: Path, tool: list[str], source: Path = SOURCE) -> Path:
    """Builds and validates the zip in the folder ``output``; returns its path."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="s2mesh-extension-") as scratch:
        copy, built = Path(scratch, "source"), Path(scratch, "built")
        built.mkdir()
        for file in shipped_files(source):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            (copy / file).write_bytes((source / file).read_bytes())
        if not (copy / "blender_manifest.toml").exists():
            raise SetupError(f"{source} has no blender_manifest.toml")
        run_tool(tool, "build", "--source-dir", str(copy), "--output-dir", str(built), *known_tags(tool))
        (archive,) = built.glob("*.zip")  # the name is Blender's: id-version.zip
        run_tool(tool, "validate", str(archive), *known_tags(tool))
        fixed = Path(scratch, archive.name)
        rewrite(archive, fixed)
        run_tool(tool, "validate", str(fixed), *known_tags(tool))
        target, partial = output / archive.name, output / (archive.name + ".partial")
        shutil.copyfile(fixed, partial)
        os.replace(partial, target)
    return target


def rewrite(archive: Path, fixed: Path) -> None:
    """The same content with fixed order, times and rights; stored, since zlib's bytes differ between machines."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(fixed, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            if name.endswith("/"):
                continue
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on Unix, wherever it is built
            new.writestr(entry, old.read(name))


def make_repository(folder: Path, archive: Path, tool: list[str]) -> Path:
    """Puts the zip into a folder that a web server can offer to Blender; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.parent.resolve() != folder.resolve():
        shutil.copyfile(archive, folder / archive.name)
    run_tool(tool, "server-generate", "--repo-dir", str(folder))
    return folder / "index.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Build the Blender extension as a zip, with Blender's own program, and validate it.",
        epilog="Without --blender or --bpy-python one is looked for: the environments of `run.py test-blender`, this "
        "Python's bpy, then `blender`.",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist of the clone")
    tool = parser.add_mutually_exclusive_group()
    tool.add_argument("--blender", metavar="PATH", help="a Blender, 4.2 or newer")
    tool.add_argument("--bpy-python", metavar="PATH", help="a Python that has bpy")
    parser.add_argument(
        "--repository",
        type=Path,
        metavar="DIR",
        help="also put the zip into DIR with an index.json, to be offered by any web server as a repository of Blender",
    )
    given = parser.parse_args(arguments)
    try:
        command = extension_tool(given.blender, given.bpy_python)
        for path in stray_files(SOURCE):
            print(f"s2mesh: not shipped: blender_addon/{path.as_posix()}", file=sys.stderr)
        archive = build(given.output.absolute(), command)
        index = make_repository(given.repository.absolute(), archive, command) if given.repository else None
    except SetupError as error:
        return fail(str(error), 1)
    except OSError as error:
        return fail(f"{error}. Name a folder that can be written with --output and --repository.", 1)
    content = archive.read_bytes()
    print(f"{archive}\n{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    if index:
        print(f"{index}\nOffer the folder over HTTPS; its address and /index.json are what Blender's users add under")
        print("Preferences, Get Extensions, Repositories, Add Remote Repository.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

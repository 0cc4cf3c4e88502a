#!/usr/bin/env python3
"""Is this tree fit to be released? `python3 packaging/check_release.py [--zip ZIP]`: a line for each thing that is not.

Versions agree (manifest, `core.__version__`, pyproject, git tag), the manifest keeps Blender's rules, the licences are
in place, and the extension's folder and zip hold what is meant to be shipped and nothing else. Standard library of
Python 3.11 (for tomllib).
"""

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_extension import SOURCE, shipped_files, stray_files  # noqa: E402 (beside this file)
from environment import ROOT, fail  # noqa: E402

TEXT_LIMIT = 64  # characters of the tagline and of each permission
PERMISSIONS = {"network", "files", "clipboard"}  # what the extension does; Blender knows camera and microphone too
LICENCES = {"LICENSE": "MIT License", "blender_addon/LICENSE": "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007"}


def problems(root: Path = ROOT, archive: Path | None = None) -> list[str]:
    """A sentence for each thing that must be mended before a release."""
    manifest = read_toml(root / "blender_addon" / "blender_manifest.toml")
    found = [*version_problems(root, manifest), *manifest_problems(manifest), *licence_problems(root)]
    folder = root / SOURCE.name
    found += [f"blender_addon/{path.as_posix()} is no part of the extension" for path in stray_files(folder)]
    if archive:
        found += zip_problems(folder, archive, manifest)
    return found


def read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # 3.11; the other scripts of this folder run on 3.10 too

    return tomllib.loads(path.read_text(encoding="utf-8"))


# Versions -------------------------------------------------------------------------------------------------


def version_problems(root: Path, manifest: dict[str, Any]) -> list[str]:
    found = []
    stated = re.search(r'^__version__ = "([^"]+)"$', (root / "core" / "__init__.py").read_text("utf-8"), re.M)
    version = stated[1] if stated else "nothing"
    if manifest.get("version") != version:
        found.append(f"the manifest has version {manifest.get('version')}, core.__version__ is {version}")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"core.__version__ is {version}; it has three numbers, as Blender and the tags want it")
    project = read_toml(root / "pyproject.toml")
    dynamic = project.get("tool", {}).get("setuptools", {}).get("dynamic", {}).get("version", {}).get("attr")
    if "version" in project["project"] or dynamic != "core.__version__":
        found.append("pyproject.toml does not take its version from core.__version__")
    if (newest := tag_of_head(root)) and newest != version:
        found.append(f"this commit is tagged v{newest}, core.__version__ is {version}")
    return found


def tag_of_head(root: Path) -> str | None:
    """The newest version among the tags vX.Y.Z of this commit; None without one, or outside of git."""
    try:
        answer = subprocess.run(["git", "-C", root, "tag", "--points-at", "HEAD"], capture_output=True, text=True)
    except OSError:
        return None
    versions = [line[1:] for line in answer.stdout.split() if re.fullmatch(r"v\d+\.\d+\.\d+", line)]
    return max(versions, key=lambda text: [int(part) for part in text.split(".")], default=None)


# The manifest ---------------------------------------------------------------------------------------------


def manifest_problems(manifest: dict[str, Any]) -> list[str]:
    """Against Blender's rules for texts, and against what this project has promised."""
    agreed = {
        "schema_version": "1.0.0",
        "id": "s2mesh",
        "name": "S2 Mesh",
        "type": "add-on",
        "blender_version_min": "4.2.0",
        "license": ["SPDX:GPL-3.0-or-later"],
    }
    found = [
        f"the manifest's {key} is {manifest.get(key)!r} and not {value!r}"
        for key, value in agreed.items()
        if manifest.get(key) != value
    ]
    permissions = manifest.get("permissions", {})
    if set(permissions) != PERMISSIONS:
        found.append(f"the manifest asks for {sorted(permissions)}; the extension needs {sorted(PERMISSIONS)}")
    for name, text in {"tagline": manifest.get("tagline", ""), **permissions}.items():
        found += [f"the manifest's text for {name} {why}: {text!r}" for why in text_problems(text)]
    for entry in manifest.get("copyright", []):
        if not re.fullmatch(r"\d{4}(-\d{4})? \S.*", entry):
            found.append(f"the manifest's copyright is not `YEAR NAME`: {entry!r}")
    found += [f"the manifest has {key}, but one zip serves all" for key in ("wheels", "platforms") if key in manifest]
    return found


def text_problems(text: str) -> list[str]:
    """Why Blender refuses a tagline or the reason of a permission."""
    found = []
    if not 0 < len(text) <= TEXT_LIMIT:
        found.append(f"has {len(text)} characters, 1 to {TEXT_LIMIT} are allowed")
    if text != text.strip():
        found.append("begins or ends with a space")
    if text and not (text[-1].isalnum() or text[-1] in ")]}"):
        found.append("ends with neither a letter, a digit nor a closing bracket")
    if any(ord(character) < 32 for character in text):
        found.append("has a control character")
    return found


# Licences and the zip -------------------------------------------------------------------------------------


def licence_problems(root: Path) -> list[str]:
    found = []
    for name, title in LICENCES.items():
        path = root / name
        text = re.sub(r"[ \t]+", " ", path.read_text("utf-8").lstrip()) if path.exists() else ""
        if not text.startswith(title):
            found.append(f"{name} is not the text of: {title.splitlines()[0]}")
    if read_toml(root / "pyproject.toml")["project"].get("license") != "MIT":
        found.append("pyproject.toml does not say that core and server are under the MIT licence")
    return found


def zip_problems(folder: Path, archive: Path, manifest: dict[str, Any]) -> list[str]:
    """The zip is that of this tree."""
    found = []
    if archive.name != f"{manifest.get('id')}-{manifest.get('version')}.zip":
        found.append(f"{archive.name} does not bear the manifest's id and version")
    with zipfile.ZipFile(archive) as content:
        packed = set(content.namelist())
        wanted = {path.as_posix() for path in shipped_files(folder)}
        found += [f"{archive.name} lacks {name}" for name in sorted(wanted - packed)]
        found += [f"{archive.name} has {name}, which is no part of the extension" for name in sorted(packed - wanted)]
        for name in sorted(wanted & packed):
            if content.read(name) != (folder / name).read_bytes():
                found.append(f"{name} in {archive.name} is not the file of this tree")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Say what keeps this tree from being released.")
    parser.add_argument("--zip", type=Path, metavar="ZIP", help="the built extension, held against this tree")
    given = parser.parse_args(arguments)
    if sys.version_info < (3, 11):
        return fail("check_release.py needs Python 3.11 or newer.", 2)
    if given.zip and not zipfile.is_zipfile(given.zip):
        return fail(f"{given.zip} is no zip file.", 2)
    found = problems(archive=given.zip)
    for problem in found:
        print(f"s2mesh: not fit for a release: {problem}", file=sys.stderr)
    if not found:
        print("s2mesh: versions, manifest, licences and files agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

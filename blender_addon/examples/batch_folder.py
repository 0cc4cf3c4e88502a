# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh for every picture in a folder, in one .blend file, without a window:

    blender -b --python batch_folder.py -- FOLDER OUT.blend [--preset NAME] [--seed N] [--size UNITS] [--faces N]

The S2 Mesh extension must be enabled and its server running (`s2mesh serve`), or be started from here with --start.
Run it again after an interruption: pictures whose object is in OUT.blend already are passed over. Objects bear the
pictures' names and stand in a row. The exit status is 1 if any picture failed.
"""

import argparse
import importlib
import sys
from pathlib import Path

import addon_utils
import bpy

KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def find_api():
    """The extension's `api`, from whichever repository of extensions it was installed."""
    for module in addon_utils.modules():
        name = module.__name__
        if name.rpartition(".")[2] == "s2mesh" and addon_utils.check(name)[1]:
            return importlib.import_module(f"{name}.api")
    raise SystemExit("The S2 Mesh extension is not enabled. Enable it in Preferences > Add-ons.")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="batch_folder.py", description="A mesh for every picture in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="the .blend file; it is gone on with if it is there")
    parser.add_argument("--preset")
    parser.add_argument("--seed", type=int, default=0, help="0 by default, so that a second run gives the same")
    parser.add_argument("--size", type=float, default=1.0, help="longest side, in scene units (default: 1)")
    parser.add_argument("--faces", type=int, help="triangles at most")
    parser.add_argument("--start", action="store_true", help="start this machine's server if none runs")
    given = parser.parse_args(arguments)
    pictures = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in KINDS)
    if not pictures:
        print(f"There are no pictures in {given.folder}.")
        return 1
    if given.out.exists():
        bpy.ops.wm.open_mainfile(filepath=str(given.out))
    else:
        bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    api = find_api()
    try:
        if given.start:
            api.start_server()
    except api.S2MeshError as error:
        print(error)
        return 1
    failed = 0
    for index, path in enumerate(pictures):
        if any(made.get("batch_picture") == path.name for made in bpy.data.objects):
            print(f"{path.name}: there already")
            continue
        try:
            made = api.generate(
                path,
                preset=given.preset,
                seed=given.seed,
                size=given.size,
                faces=given.faces,
                location=(index * given.size * 1.25, 0.0, 0.0),
            )
        except api.S2MeshError as error:
            failed += 1
            print(f"{path.name}: {error}")
            continue
        made["batch_picture"] = path.name
        bpy.ops.wm.save_as_mainfile(filepath=str(given.out.absolute()))  # after each: an interruption loses one
        print(f"{path.name}: {made.name}, {len(made.data.polygons)} faces")
    print(f"{len(pictures) - failed} of {len(pictures)} pictures are in {given.out}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []))

"""What a check file uses: `import harness`. Runs in Blender.

A check file is `check_<subject>.py` with functions `test_*`, called in the order of the file. Each finds the
extension enabled, with its preferences at their defaults, in a factory scene (cube, camera, light). Jobs of earlier
tests stay on the server, and what the extension remembers stays with it. Constants of the file, which is read without
running it:

    SERVER = "tiny"      the server beside it: "tiny" (tiny networks, seconds), "starter" (the real model) or None
    FRESH = True         a server of its own; for checks that kill it, or count jobs or memory
    SETTINGS = {...}     of the tiny server (see tests/support/tiny_server.py); implies FRESH
    LIMIT_S = 300        after which the whole file counts as hanging

The server is found by the extension's own discovery. The process must end by itself with status 0 after the
extension was disabled, and must leave no process behind.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import addon_utils
import bpy
from servers import PATIENCE_S, Server, wait_for

__all__ = ["PACKAGE", "PATIENCE_S", "Server", "wait_for", "ROOT", "PICTURES"]

PACKAGE = "bl_ext.user_default.s2mesh"
ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "packaging" / "examples"  # mug.png and others

server: Server | None = None  # the server beside the check
zip_path = Path()  # the extension as it was installed
work = Path()  # a folder for the check's files, empty at its start


class Skipped(Exception):
    """The test does not apply here."""


def skip(reason: str) -> NoReturn:
    raise Skipped(reason)


def install() -> None:
    """Installs and enables the zip, as Preferences, Get Extensions, Install from Disk does."""
    result = bpy.ops.extensions.package_install_files(
        filepath=str(zip_path), repo="user_default", enable_on_install=True
    )
    assert result == {"FINISHED"}, result
    assert is_enabled(), "the extension was installed but could not be enabled; the log says why"


def is_enabled() -> bool:
    """True when it is switched on in the Preferences, and its module says so too."""
    return addon_utils.check(PACKAGE) == (True, True) and PACKAGE in bpy.context.preferences.addons


def enable() -> None:
    """Switches it on, as the tick in the Preferences does."""
    bpy.ops.preferences.addon_enable(module=PACKAGE)
    assert is_enabled(), "the extension cannot be enabled; the log says why"


def disable() -> None:
    """Switches it off, as the tick in the Preferences does."""
    bpy.ops.preferences.addon_disable(module=PACKAGE)
    assert addon_utils.check(PACKAGE) == (False, False)


def module(name: str = "") -> ModuleType:
    """A module of the installed extension, such as `importer`; the package itself without a name."""
    return importlib.import_module(f"{PACKAGE}.{name}" if name else PACKAGE)


def our_modules() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(PACKAGE + ".")]


def preferences() -> bpy.types.AddonPreferences | None:
    return bpy.context.preferences.addons[PACKAGE].preferences


def reset() -> None:
    """A factory scene, the extension on, its preferences at their defaults."""
    bpy.ops.wm.read_homefile(use_factory_startup=True)  # leaves extensions as they are, in 4.2, 4.5 and 5.0
    if not is_enabled():
        enable()
    if (ours := preferences()) is not None:
        for name in ours.bl_rna.properties.keys():  # noqa: SIM118 (without it, properties in place of names)
            if name not in ("rna_type", "bl_idname"):
                ours.property_unset(name)
    bpy.context.preferences.system.use_online_access = False

"""The extension as a whole: it goes on and off without a trace, says what all is for, and ships what it should."""

from __future__ import annotations

import gc
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import addon_utils
import bpy
import bpy.utils.previews
import harness
import tomllib

SERVER = None

OWNERS = ("Scene", "WindowManager", "Object", "Mesh", "Image", "Collection", "World", "WorkSpace", "Preferences")
# Not ours: what Blender's own helper classes (ImportHelper, PropertyGroup) bring along.
BLENDER_S = {"rna_type", "name", "bl_idname", "filepath", "directory", "files", "filename", "relative_path"}
OF_THE_FILE_BROWSER = ("filter_", "show_", "sort_", "display_", "check_", "hide_")


def traces() -> dict[str, object]:
    """Everything in which an extension can stay behind, as it is now."""
    return {
        "classes": {name for name in dir(bpy.types) if name.lower().startswith("s2mesh")},
        "all classes": set(dir(bpy.types)),
        "properties": {owner: set(getattr(bpy.types, owner).bl_rna.properties.keys()) for owner in OWNERS},
        "operators": set(dir(bpy.ops.s2mesh)),
        "handlers": sorted(handlers()),
        "drawn into menus": set(drawn_by_others()),
        "threads": {thread.name for thread in threading.enumerate()},
        "previews": {id(entry) for entry in gc.get_objects() if is_previews(entry)},
        "keymaps": [len(keys.keymaps) for keys in bpy.context.window_manager.keyconfigs],
        "add-ons": set(bpy.context.preferences.addons.keys()),
    }


def is_previews(entry: object) -> bool:
    return type(entry) is bpy.utils.previews.ImagePreviewCollection


def handlers() -> Iterator[str]:
    """Functions that Blender calls when something happens."""
    for name in dir(bpy.app.handlers):
        if isinstance(functions := getattr(bpy.app.handlers, name), list):
            yield from (f"{name}: {function.__module__}.{function.__qualname__}" for function in functions)


def drawn_by_others() -> Iterator[str]:
    """Functions that were appended to Blender's menus and headers."""
    for name in dir(bpy.types):
        draw = getattr(getattr(bpy.types, name), "draw", None)
        for function in getattr(draw, "_draw_funcs", ()):
            yield f"{name}: {function.__module__}.{function.__qualname__}"


def our_timers() -> list[str]:
    """Functions of our modules that Blender calls; it offers no list of them."""
    found = []
    for name in harness.our_modules():
        for value in vars(harness.module(name.removeprefix(harness.PACKAGE).lstrip("."))).values():
            if callable(value) and not isinstance(value, type) and bpy.app.timers.is_registered(value):
                found.append(f"{name}.{value.__name__}")
    return found


def our_operators() -> list[bpy.types.Struct]:
    return [getattr(bpy.ops.s2mesh, name).get_rna_type() for name in dir(bpy.ops.s2mesh)]


def test_nothing_stays_when_it_is_switched_off():
    harness.disable()
    gc.collect()
    before = traces()
    assert not before["classes"] and not before["operators"]  # it was on already, and could have left some then
    assert not [owner for owner, names in before["properties"].items() if "s2mesh" in names]
    assert not [entry for key in ("handlers", "drawn into menus") for entry in before[key] if harness.PACKAGE in entry]
    assert before["threads"] == {threading.main_thread().name}
    for _ in range(3):
        harness.enable()
        enabled = traces()
        assert enabled["classes"] and enabled["operators"] and "s2mesh" in enabled["properties"]["Scene"]
        assert "s2mesh" in enabled["properties"]["WindowManager"]
        timers = our_timers()
        harness.disable()
        gc.collect()
        after = traces()
        for subject, was in before.items():
            assert after[subject] == was, f"{subject}: {was} before, {after[subject]} after"
        assert timers and not our_timers(), (timers, our_timers())
    if bpy.app.build_options.international:  # the Blenders of the package index are built without
        bpy.app.translations.register(harness.PACKAGE, {})  # an error where our texts are still in
        bpy.app.translations.unregister(harness.PACKAGE)


def test_on_twice_and_off_twice_is_no_error():
    package = harness.module()
    package.register()
    package.unregister()
    package.unregister()
    assert "s2mesh" not in bpy.types.Scene.bl_rna.properties
    package.register()
    assert "s2mesh" in bpy.types.Scene.bl_rna.properties


def test_it_goes_off_with_blender_s_factory_settings_and_comes_back():
    bpy.ops.wm.read_factory_settings()
    assert addon_utils.check(harness.PACKAGE) == (False, False)
    assert not [name for name in dir(bpy.types) if name.lower().startswith("s2mesh")]
    harness.enable()
    assert dir(bpy.ops.s2mesh)


def test_it_bears_the_name_that_blender_gave_it():
    package = harness.module()
    assert package.__name__ == "bl_ext.user_default.s2mesh"
    assert Path(package.__file__).parent == Path(bpy.utils.user_resource("EXTENSIONS"), "user_default", "s2mesh")
    preferences = harness.preferences()
    assert preferences is not None and type(preferences).__module__.startswith(harness.PACKAGE)


def test_an_update_has_newer_files():
    """Blender loads a module again only if its file's time differs, and the zip's own times are all the same."""
    assert Path(harness.module().__file__).stat().st_mtime > 1_500_000_000


def test_every_operator_says_what_it_does():
    for operator in our_operators():
        assert operator.identifier.startswith("S2MESH_OT_"), operator.identifier
        assert operator.name, operator.identifier
        assert_sentence(operator.description, operator.identifier)
        for name, prop in operator.properties.items():
            if name not in BLENDER_S and not name.startswith(OF_THE_FILE_BROWSER):
                assert_described(prop, f"{operator.identifier}.{name}")


def test_every_setting_says_what_it_is():
    window_manager, scene = bpy.context.window_manager, bpy.context.scene
    for group in (scene.s2mesh, window_manager.s2mesh, harness.preferences()):
        kind = group.bl_rna
        own = [(name, prop) for name, prop in kind.properties.items() if name not in BLENDER_S]
        assert own, kind.identifier
        for name, prop in own:
            assert_described(prop, f"{kind.identifier}.{name}")


def assert_described(prop: bpy.types.Property, where: str) -> None:
    assert prop.name, f"{where} has no name"
    if not prop.is_hidden:
        assert_sentence(prop.description, where)
    for item in getattr(prop, "enum_items_static", ()) if prop.type == "ENUM" else ():
        assert item.name, f"{where}: {item.identifier} has no name"


def assert_sentence(text: str, where: str) -> None:
    """Blender's rule: more than a word, and no full stop, which Blender adds."""
    assert len(text.split()) > 1, f"{where}: {text!r} explains nothing"
    assert not text.rstrip().endswith("."), f"{where}: {text!r} ends with a full stop"


def test_every_panel_is_ours_by_name():
    panels = [name for name in dir(bpy.types) if name.startswith("S2MESH_PT_")]
    assert panels
    top = [getattr(bpy.types, name) for name in panels if not getattr(getattr(bpy.types, name), "bl_parent_id", "")]
    assert {panel.bl_category for panel in top if panel.bl_region_type == "UI"} == {"S2 Mesh"}


def test_the_manifest_says_what_was_agreed():
    manifest = tomllib.loads(Path(harness.module().__file__).with_name("blender_manifest.toml").read_text("utf-8"))
    assert (manifest["id"], manifest["name"], manifest["type"]) == ("s2mesh", "S2 Mesh", "add-on")
    assert manifest["blender_version_min"] == "4.2.0" and "blender_version_max" not in manifest
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert set(manifest["permissions"]) == {"network", "files", "clipboard"}
    assert "wheels" not in manifest and "platforms" not in manifest  # pure Python: one zip for all


def test_the_zip_has_the_licence_and_nothing_that_does_not_belong():
    with zipfile.ZipFile(harness.zip_path) as archive:
        paths = [PurePosixPath(name) for name in archive.namelist()]
        assert "GNU GENERAL PUBLIC LICENSE" in archive.read("LICENSE").decode()[:200]
    assert {path.suffix for path in paths} == {".py", ".toml", ""}
    assert [str(path) for path in paths if not path.suffix] == ["LICENSE"]
    assert [str(path) for path in paths if path.suffix == ".toml"] == ["blender_manifest.toml"]
    foreign = {"tests", "test", "__pycache__", "core", "server", ".git"}
    assert not [path for path in paths if foreign & set(path.parts) or path.name.startswith(("test_", "check_", "."))]


def test_the_part_without_blender_loads_no_blender():
    """These run in the worker thread, where bpy must not be touched."""
    folder = Path(harness.module().__file__).parent
    for name in ("wire", "glb", "discovery", "client", "client_errors", "session", "poller", "server_process"):
        lines = (folder / f"{name}.py").read_text("utf-8").splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import bpy", "from bpy"))], name

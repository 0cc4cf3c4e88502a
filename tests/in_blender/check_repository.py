"""A repository that anybody can host: Blender installs the extension from it and brings it up to date.

There it bears another name, `bl_ext.<repository>.s2mesh`, so this also tells that no name is written into it.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import addon_utils
import bpy
import harness

SERVER = None


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """Offers the folder as any web server would."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.json"
        finally:
            server.shutdown()
            thread.join()


def publish(folder: Path, archive: Path) -> None:
    sys.path.insert(0, str(harness.ROOT / "packaging"))
    from build_extension import make_repository, tool_of

    make_repository(folder, archive, tool_of(sys.executable))


def newer(archive: Path, folder: Path) -> Path:
    """The same extension as version 99.0.0, with a line more."""
    target = folder / "s2mesh-99.0.0.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "blender_manifest.toml":
                content = re.sub(rb'\nversion = "[^"]+"', b'\nversion = "99.0.0"', content)
            if entry.filename == "__init__.py":
                content += b"\nNEWER = True\n"
            new.writestr(entry, content)
    return target


@contextlib.contextmanager
def added(url: str) -> Iterator[int]:
    """The repository among Blender's, by its index; taken out again at the end."""
    repositories = bpy.context.preferences.extensions.repos
    bpy.ops.preferences.extension_repo_add(name="Ours", remote_url=url, type="REMOTE")
    index = next(number for number, repository in enumerate(repositories) if repository.remote_url == url)
    try:
        yield index
    finally:
        bpy.ops.preferences.extension_repo_remove(index=index, remove_files=True)


def test_installed_from_a_repository_and_updated():
    harness.disable()
    bpy.context.preferences.system.use_online_access = True  # Blender asks for it, whatever the address
    folder = harness.work / "repository"
    publish(folder, harness.zip_path)
    with hosted(folder) as url, added(url) as index:
        package = f"bl_ext.{bpy.context.preferences.extensions.repos[index].module}.s2mesh"
        assert package != harness.PACKAGE
        bpy.ops.extensions.repo_sync(repo_index=index)
        bpy.ops.extensions.package_install(repo_index=index, pkg_id="s2mesh", enable_on_install=True)
        try:
            assert addon_utils.check(package) == (True, True)
            assert dir(bpy.ops.s2mesh) and hasattr(bpy.context.scene, "s2mesh")
            assert type(bpy.context.preferences.addons[package].preferences).__module__.startswith(package)
            assert not hasattr(sys.modules[package], "NEWER")

            for old in folder.glob("*.zip"):
                old.unlink()
            publish(folder, newer(harness.zip_path, harness.work))
            bpy.ops.extensions.repo_sync(repo_index=index)
            bpy.ops.extensions.package_upgrade_all()
            assert addon_utils.check(package) == (True, True)
            assert sys.modules[package].NEWER  # loaded anew, in the same Blender
        finally:
            bpy.ops.preferences.addon_disable(module=package)
    assert not dir(bpy.ops.s2mesh)

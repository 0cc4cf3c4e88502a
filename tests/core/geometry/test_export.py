"""Mesh files read back: axes, normals, extras, size, and nothing left behind on errors."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from core.errors import ConfigError, DiskFullError, InputError
from core.geometry.export import mesh_bytes, read_extras, to_z_up, write_mesh
from core.geometry.mesh import Mesh

# a wedge whose three sides differ, so that a swap of axes shows
WEDGE = Mesh(
    np.array([[0, 0, 0], [0.5, 0, 0], [0, 1.5, 0], [0, 0, -1]]), np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
)


def read_back(path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, process=False)
    return loaded if isinstance(loaded, trimesh.Trimesh) else next(iter(loaded.geometry.values()))


@pytest.mark.parametrize("file_format", ["glb", "obj", "ply"])
def test_y_up_formats_keep_the_frame(tmp_path, file_format):
    path = write_mesh(WEDGE, tmp_path / f"wedge.{file_format}")
    mesh = read_back(path)
    np.testing.assert_allclose(mesh.bounds, WEDGE.bounds, atol=1e-6)
    assert mesh.volume == pytest.approx(WEDGE.volume)
    assert len(mesh.vertices) == 4 and len(mesh.faces) == 4
    assert os.listdir(tmp_path) == [path.name]


def test_stl_is_z_up(tmp_path):
    mesh = read_back(write_mesh(WEDGE, tmp_path / "wedge.STL"))
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [0.5, 1, 1.5]], atol=1e-6)
    assert mesh.volume == pytest.approx(WEDGE.volume)  # a turn, not a mirror
    np.testing.assert_array_equal(to_z_up(np.array([[0, 1, 0], [0, 0, 1]])), [[0, 0, 1], [0, -1, 0]])  # up, front


def test_glb_has_smooth_unit_normals(tmp_path):
    mesh = read_back(write_mesh(WEDGE, tmp_path / "wedge.glb"))
    normals = np.asarray(mesh.vertex_normals)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    outward = np.einsum("vi,vi->v", normals, WEDGE.vertices - WEDGE.vertices.mean(0))
    assert (outward > 0).all()


def test_extras_come_back(tmp_path):
    extras = {"seed": 7, "options": {"preset": "starter", "guidance": 3.5}, "note": "größer"}
    assert read_extras(write_mesh(WEDGE, tmp_path / "a.glb", extras=extras)) == extras
    assert read_extras(write_mesh(WEDGE, tmp_path / "b.glb")) == {}
    for name in ("c.glb", "d.glb"):
        (tmp_path / name).write_bytes(b"not a mesh" * (4 if name == "c.glb" else 1))
        with pytest.raises(InputError, match="not a GLB"):
            read_extras(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        read_extras(tmp_path / "missing.glb")


def test_scale_in_metres(tmp_path):
    mesh = read_back(write_mesh(WEDGE, tmp_path / "wedge.ply", scale_m=0.3))
    assert mesh.extents.max() == pytest.approx(0.3)
    with pytest.raises(ConfigError):
        mesh_bytes(WEDGE, "ply", scale_m=0.0)


def test_refusals_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="glb, obj, ply, stl"):
        write_mesh(WEDGE, tmp_path / "wedge.fbx")
    with pytest.raises(InputError, match="Create it first"):
        write_mesh(WEDGE, tmp_path / "missing" / "wedge.glb")
    with pytest.raises(InputError, match="is a folder"):
        write_mesh(WEDGE, tmp_path, file_format="glb")
    with pytest.raises(InputError, match="no faces"):
        mesh_bytes(Mesh(np.zeros((0, 3)), np.zeros((0, 3))), "glb")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_mesh(WEDGE, tmp_path / "file" / "wedge.glb")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("code, kind", [
    (errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EFBIG, DiskFullError),
    (errno.EIO, InputError),
])  # fmt: skip
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, code, kind):
    path = write_mesh(WEDGE, tmp_path / "wedge.glb")
    before = path.read_bytes()

    def full(*_):
        raise OSError(code, "what the system says")

    monkeypatch.setattr("core.files.os.fsync", full)
    with pytest.raises(kind, match="wedge.glb.*what the system says"):
        write_mesh(WEDGE, path, extras={"seed": 1})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["wedge.glb"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of a process's files")
def test_a_file_beyond_what_the_system_allows(tmp_path):
    code = f"""
import resource, signal
from pathlib import Path
from core.errors import DiskFullError
from core.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_atomically(Path({str(tmp_path)!r}, "small"), bytes(1000))
try:
    write_atomically(Path({str(tmp_path)!r}, "large"), bytes(100_000))
except DiskFullError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no space left for" in done.stdout and "large" in done.stdout
    assert os.listdir(tmp_path) == ["small"]

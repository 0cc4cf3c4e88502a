"""Meshes to files: GLB, OBJ, PLY and STL, each with the axes its readers expect.

The world frame is glTF's own (Y up, front towards +Z, metres), so GLB is written as it is, and so are OBJ and
PLY, whose readers take Y up by custom. STL names no axes; printing and CAD tools read it as Z up, so STL is
turned: (x, y, z) becomes (x, -z, y), the front at -Y, as Blender shows it.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from core import __version__
from core.config.generation import MESH_FORMATS
from core.errors import ConfigError, InputError
from core.files import write_atomically
from core.geometry.mesh import Mesh

# V vertices, F faces

_GLB_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A


def mesh_bytes(
    mesh: Mesh, file_format: str, *, extras: dict[str, Any] | None = None, scale_m: float | None = None
) -> bytes:
    """The mesh as a file's content.

    Args:
        file_format: one of ``glb``, ``obj``, ``ply``, ``stl``.
        extras: what to store beside the mesh (JSON values), e.g. settings and seed. Only GLB can hold it
            (``asset.extras``, read back by ``read_extras``); the others leave it out.
        scale_m: longest side in metres; None keeps the size (the world cube is 2 m a side).

    Raises:
        ConfigError: for another format or a size that is not positive.
        InputError: for a mesh without faces.
    """
    if file_format not in MESH_FORMATS:
        raise ConfigError(f"there is no mesh format '{file_format}'. Use one of: {', '.join(MESH_FORMATS)}.")
    if not mesh.num_faces:
        raise InputError("the mesh has no faces to write.")
    if scale_m is not None:
        mesh = _scaled(mesh, scale_m)
    if file_format == "glb":
        return _glb(mesh, extras or {})
    if file_format == "stl":
        mesh = Mesh(to_z_up(mesh.vertices), mesh.faces)
    content = mesh.to_trimesh().export(file_type=file_format, **({"header": None} if file_format == "obj" else {}))
    return content.encode() if isinstance(content, str) else content


def write_mesh(
    mesh: Mesh,
    path: str | os.PathLike,
    *,
    file_format: str | None = None,
    extras: dict[str, Any] | None = None,
    scale_m: float | None = None,
) -> Path:
    """Writes a mesh file; it appears whole, by a rename, or not at all.

    Args:
        file_format: as in ``mesh_bytes``; None takes it from the file's ending.

    Raises:
        ConfigError: for an unknown format. InputError: for a path that cannot be written.
        DiskFullError: where no space is left.
    """
    path = Path(path)
    file_format = file_format or path.suffix.lower().lstrip(".")
    content = mesh_bytes(mesh, file_format, extras=extras, scale_m=scale_m)
    write_atomically(path, content)
    return path


def to_z_up(vertices: np.ndarray) -> np.ndarray:  # [V, 3] -> [V, 3]
    """Y up, front +Z to Z up, front -Y: a turn by +90 degrees about x."""
    return np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)


def read_extras(path: str | os.PathLike) -> dict[str, Any]:
    """What ``write_mesh`` stored in a GLB; empty if it has none.

    Raises:
        InputError: for a file that is no GLB or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            magic, _, _, length, kind = struct.unpack("<5I", file.read(20))
            if (magic, kind) != (_GLB_MAGIC, _JSON_CHUNK):
                raise InputError(f"{path} is not a GLB file.")
            tree = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except (struct.error, ValueError) as error:
        raise InputError(f"{path} is not a GLB file, or it is damaged.") from error
    extras = tree.get("asset", {}).get("extras", {})
    return extras if isinstance(extras, dict) else {}


def _scaled(mesh: Mesh, scale_m: float) -> Mesh:
    if not 0 < scale_m < float("inf"):
        raise ConfigError(f"the longest side is {scale_m} m; it must be positive.")
    low, high = mesh.bounds
    extent = float((high - low).max())
    if extent <= 0:
        raise InputError("the mesh is a single point; it has no side to scale.")
    return Mesh(mesh.vertices * (scale_m / extent), mesh.faces)


def _glb(mesh: Mesh, extras: dict[str, Any]) -> bytes:
    import trimesh
    from trimesh.visual.material import PBRMaterial

    shape = mesh.to_trimesh()
    shape.vertex_normals = vertex_normals(mesh)
    clay = PBRMaterial(name="clay", baseColorFactor=[204, 204, 204, 255], metallicFactor=0.0, roughnessFactor=0.6)
    shape.visual = trimesh.visual.TextureVisuals(material=clay)

    def describe(tree: dict) -> None:
        tree["asset"]["generator"] = f"s2mesh {__version__}"
        if extras:
            tree["asset"]["extras"] = json.loads(json.dumps(extras))

    scene = trimesh.Scene()
    scene.add_geometry(shape, node_name="s2mesh", geom_name="s2mesh")
    return trimesh.exchange.gltf.export_glb(scene, include_normals=True, tree_postprocessor=describe)


def vertex_normals(mesh: Mesh) -> np.ndarray:  # [V, 3] float32
    """Unit normals, faces weighted by area; (0, 1, 0) at vertices without any."""
    face = mesh.face_normals()
    normals = np.stack(
        [
            np.bincount(mesh.faces.reshape(-1), weights=np.repeat(face[:, axis], 3), minlength=mesh.num_vertices)
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-30, normals / np.maximum(length, 1e-30), (0.0, 1.0, 0.0)).astype(np.float32)

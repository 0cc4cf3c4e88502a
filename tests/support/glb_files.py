"""GLB files made by hand, so that tests can make them wrong."""

import copy
import json
import struct
from typing import Any

import numpy as np

POSITIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 5]], np.float32)
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]], np.uint32)


def document(normals: bool = False) -> dict[str, Any]:
    """The description of the tetrahedron of `binary`."""
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": 48}, {"buffer": 0, "byteOffset": 48, "byteLength": 48}]
    accessors = [
        {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 4},
        {"bufferView": 1, "componentType": 5125, "type": "SCALAR", "count": 12},
    ]
    attributes = {"POSITION": 0}
    if normals:
        attributes["NORMAL"] = 0
    return copy.deepcopy(
        {
            "asset": {"version": "2.0", "extras": {"seed": 7}},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": 96}],
        }
    )


def binary() -> bytes:
    return POSITIONS.tobytes() + TRIANGLES.tobytes()


def glb(described: Any, content: bytes | None = None) -> bytes:
    """The file; ``described`` may be text, for what `json` would not write."""
    text = (described if isinstance(described, str) else json.dumps(described)).encode()
    text += b" " * (-len(text) % 4)
    content = binary() if content is None else content
    content += b"\0" * (-len(content) % 4)
    chunk = struct.pack("<2I", len(content), 0x004E4942) + content if content else b""
    length = 20 + len(text) + len(chunk)
    return struct.pack("<5I", 0x46546C67, 2, length, len(text), 0x4E4F534A) + text + chunk


def check(data) -> None:
    """What every mesh that is handed on must hold, whatever file it came from."""
    assert data.positions.dtype == np.float32 and data.positions.shape[1:] == (3,)
    assert data.triangles.dtype == np.int32 and data.triangles.shape[1:] == (3,) and len(data.triangles)
    assert np.isfinite(data.positions).all()
    assert data.triangles.min() >= 0 and data.triangles.max() < len(data.positions)
    a, b, c = data.triangles.T
    assert not ((a == b) | (b == c) | (c == a)).any()
    if data.normals is not None:
        assert data.normals.shape == data.positions.shape and np.isfinite(data.normals).all()
    assert isinstance(data.extras, dict)
    assert data.positions.flags.c_contiguous and data.triangles.flags.c_contiguous

# SPDX-License-Identifier: GPL-3.0-or-later
"""The container of a GLB file: its chunks, its JSON, and arrays out of its binary chunk, each checked before use."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from .client_errors import Damaged

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_MAX_JSON_BYTES = 16 << 20
_MAX_NUMBER = 1 << 40  # of any count or offset
_FLOAT = 5126
_INDEX_TYPES = {5121: np.dtype("u1"), 5123: np.dtype("<u2"), 5125: np.dtype("<u4")}
_KNOWN_EXTENSIONS = ("KHR_materials_", "KHR_texture_", "KHR_lights_")  # which change no shape


def is_whole(value: Any) -> bool:
    """Whether it is an integer from 0 up; true and false are no integers."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER


@dataclass(frozen=True, kw_only=True)
class Accessor:
    """How an array lies in the binary chunk; everything inside it, but for the values."""

    start: int  # in the binary chunk
    stride: int  # bytes from one element to the next
    count: int
    component: int  # glTF's number of the type


class GlbFile:
    """The parts of one file.

    Raises:
        Damaged: here and in all methods, with what is wrong.
    """

    def __init__(self, content: bytes, max_bytes: int) -> None:
        if len(content) > max_bytes:
            raise Damaged(f"The file is larger than {max_bytes >> 20} MB", "Generate it again with a face budget.")
        text, self._binary = _chunks(content)
        self.document = _parsed(text)
        asset = self.document.get("asset")
        self.asset: dict[str, Any] = asset if isinstance(asset, dict) else {}
        version = self.asset.get("version")
        if not isinstance(version, str) or version.partition(".")[0] != "2":
            raise Damaged("The file is no glTF of version 2")
        needed = self.document.get("extensionsRequired", [])
        if not isinstance(needed, list) or not all(isinstance(name, str) for name in needed):
            raise Damaged("The file's list of extensions is no list of names")
        for name in needed:
            if not name.startswith(_KNOWN_EXTENSIONS):
                what = "is compressed" if "draco" in name or "meshopt" in name else "needs an extension of glTF"
                raise Damaged(
                    f"The file {what} ({name[:60]}), which is not read here",
                    "Import it with Blender's own glTF importer, if you trust it.",
                )

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """One object of a list of the document, such as ``meshes``."""
        known = self.document.get(kind, [])
        if not isinstance(known, list) or not is_whole(index) or index >= len(known):
            raise Damaged(f"The file names one of its {kind} that it does not have")
        if not isinstance(known[index], dict):
            raise Damaged(f"The file's {kind} are no objects")
        return known[index]

    def accessor(self, index: Any) -> Accessor:
        """Checked to lie in the binary chunk as a whole."""
        described = self.item("accessors", index)
        if "sparse" in described:
            raise Damaged("The file has sparse accessors, which are not read here")
        component, shape, count = described.get("componentType"), described.get("type"), described.get("count")
        if not is_whole(count) or not is_whole(component):
            raise Damaged("The file has an accessor without a count or a type")
        if shape == "VEC3" and component == _FLOAT:
            size = 12
        elif shape == "SCALAR" and component in _INDEX_TYPES:
            size = _INDEX_TYPES[component].itemsize
        else:
            raise Damaged(f"The file has numbers of a kind that is not read here ({str(shape)[:20]}, {component})")
        view = self.item("bufferViews", described.get("bufferView"))
        if self.item("buffers", view.get("buffer")).get("uri") is not None or view.get("buffer") != 0:
            raise Damaged("The file keeps its numbers in another file, which is not read")
        given = (described.get("byteOffset", 0), view.get("byteOffset", 0), view.get("byteLength"))
        stride = view.get("byteStride", size)
        if not all(is_whole(value) for value in (*given, stride)) or not size <= stride <= 252 or count < 1:
            raise Damaged("The file has an offset, a length or a count that cannot be right")
        inside, start, length = given
        if start + length > len(self._binary) or inside + (count - 1) * stride + size > length:
            raise Damaged("The file is cut short, or says that it is longer than it is")
        return Accessor(start=start + inside, stride=stride, count=count, component=component)

    def vectors(self, index: Any) -> np.ndarray:  # [N, 3] float32, not to be written to
        accessor = self.accessor(index)
        if accessor.component != _FLOAT:
            raise Damaged("The file has positions or normals that are no numbers with a point")
        return np.ndarray(
            (accessor.count, 3), np.dtype("<f4"), self._binary, accessor.start, strides=(accessor.stride, 4)
        )

    def indices(self, index: Any, vertices: int) -> np.ndarray:  # [N] int32
        accessor = self.accessor(index)
        if accessor.component not in _INDEX_TYPES:
            raise Damaged("The file has triangles whose corners are no whole numbers")
        kind = _INDEX_TYPES[accessor.component]
        found = np.ndarray((accessor.count,), kind, self._binary, accessor.start, strides=(accessor.stride,))
        if int(found.max()) >= vertices:
            raise Damaged("The file has a triangle with a corner that is no vertex")
        return found.astype(np.int32)


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """The JSON and the binary chunk; the second may be empty."""
    if len(content) < 20 or content[:4] != struct.pack("<I", _MAGIC):
        raise Damaged("The file is no GLB", "Import the job again.")
    _, version, length, json_length, kind = struct.unpack_from("<5I", content)
    if version != 2:
        raise Damaged(f"The file is a GLB of version {version}; 2 is read")
    if length != len(content):
        raise Damaged(f"The file has {len(content)} bytes and says that it has {length}", "Import the job again.")
    if kind != _JSON or json_length > min(len(content) - 20, _MAX_JSON_BYTES):
        raise Damaged("The file does not begin with a description that can be read")
    text, position = content[20 : 20 + json_length], 20 + json_length
    while position + 8 <= len(content):
        size, kind = struct.unpack_from("<2I", content, position)
        position += 8
        if size > len(content) - position:
            raise Damaged("The file is cut short", "Import the job again.")
        if kind == _BINARY:
            return text, memoryview(content)[position : position + size]
        position += size  # a chunk of another kind may be passed over
    return text, b""


def _parsed(text: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        document = json.loads(text.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Damaged("The file's description is no JSON that can be read") from None
    if not isinstance(document, dict):
        raise Damaged("The file's description is no JSON object")
    return document

# SPDX-License-Identifier: GPL-3.0-or-later
"""Which meshes of a GLB file stand in its scene, and where: its nodes, followed without trust in their being a tree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .client_errors import Damaged
from .glb_file import GlbFile

_MAX_NODES = 10_000


def placed_meshes(file: GlbFile) -> Iterator[tuple[int, np.ndarray | None]]:
    """Index of each mesh in the scene and its matrix [4, 4] float64; None where it stands as it is."""
    roots = _roots(file)
    if roots is None:  # no nodes at all: every mesh, as it is
        meshes = file.document.get("meshes", [])
        yield from ((index, None) for index in range(len(meshes) if isinstance(meshes, list) else 0))
        return
    waiting: list[tuple[Any, np.ndarray | None]] = [(root, None) for root in reversed(roots)]
    seen: set[int] = set()
    while waiting:
        index, above = waiting.pop()
        node = file.item("nodes", index)
        if index in seen or len(seen) >= _MAX_NODES:
            raise Damaged("The file's nodes are no tree, or too many")
        seen.add(index)
        own = _matrix(node)
        with np.errstate(all="ignore"):
            whole = own if above is None else above if own is None else above @ own
        if "mesh" in node:
            yield node["mesh"], whole
        children = node.get("children", [])
        if not isinstance(children, list):
            raise Damaged("The file has a node whose children are no list")
        waiting += [(child, whole) for child in reversed(children)]


def _roots(file: GlbFile) -> list[Any] | None:
    document = file.document
    if not document.get("nodes"):
        return None
    if not document.get("scenes"):
        nodes = document["nodes"]
        if not isinstance(nodes, list) or len(nodes) > _MAX_NODES:
            raise Damaged("The file's nodes are no list, or too many")
        children = {
            child
            for node in nodes
            if isinstance(node, dict) and isinstance(node.get("children"), list)
            for child in node["children"]
            if isinstance(child, int)
        }
        return [index for index in range(len(nodes)) if index not in children]
    roots = file.item("scenes", document.get("scene", 0)).get("nodes", [])
    if not isinstance(roots, list):
        raise Damaged("The file's scene has no list of nodes")
    return roots


def _matrix(node: dict[str, Any]) -> np.ndarray | None:
    """Of one node; None for none."""
    if "matrix" in node:
        matrix = np.array(_numbers(node["matrix"], 16)).reshape(4, 4).T  # written column by column
        return None if np.array_equal(matrix, np.eye(4)) else matrix
    if not node.keys() & {"translation", "rotation", "scale"}:
        return None
    x, y, z, w = _numbers(node.get("rotation", [0, 0, 0, 1]), 4)
    length = math.hypot(x, y, z, w)
    if not 0 < length < math.inf:
        raise Damaged("The file has a node with a rotation that is none")
    x, y, z, w = x / length, y / length, z / length, w / length
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    with np.errstate(all="ignore"):
        matrix[:3, :3] = turn * np.array(_numbers(node.get("scale", [1, 1, 1]), 3))
    matrix[:3, 3] = _numbers(node.get("translation", [0, 0, 0]), 3)
    return matrix


def _numbers(values: Any, count: int) -> list[float]:
    try:
        right = (
            isinstance(values, list)
            and len(values) == count
            and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        )
        numbers = [float(value) for value in values] if right else []
    except OverflowError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(value) for value in numbers):
        raise Damaged("The file has a node that stands nowhere")
    return numbers

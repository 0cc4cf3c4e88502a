"""Edges found for Blender, against a slow and plain search."""

import numpy as np
import pytest

from blender_addon.mesh_edges import find_edges


def random_triangles(count: int, vertices: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, vertices, (4 * count, 3))
    a, b, c = drawn.T
    return drawn[(a != b) & (b != c) & (c != a)][:count].astype(np.int32)


@pytest.mark.parametrize(
    "triangles",
    [
        np.array([[0, 1, 2]], np.int32),
        np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32),
        np.array([[0, 1, 2], [0, 1, 2], [2, 1, 0]], np.int32),  # one face three times
        np.array([[0, 1, 14_999_999], [1, 0, 14_999_999]], np.int32),  # the highest number that the reader lets pass
        random_triangles(500, 40, seed=1),
        random_triangles(500, 4000, seed=2),
    ],
)
def test_every_edge_once_and_every_corner_at_its_own(triangles):
    found = find_edges(triangles)
    pairs = [tuple(sorted((int(face[i]), int(face[(i + 1) % 3])))) for face in triangles for i in range(3)]
    assert found.vertices.dtype == found.of_corners.dtype == np.int32
    assert [tuple(edge) for edge in found.vertices.tolist()] == sorted(set(pairs))
    assert [tuple(found.vertices[edge].tolist()) for edge in found.of_corners] == pairs

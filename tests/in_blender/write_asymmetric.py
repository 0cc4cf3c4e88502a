"""Writes a closed shape without any symmetry as a GLB, with the real exporter. Run by the main environment's Python.

    python write_asymmetric.py FILE.glb

In the file's axes (Y up, front +Z): a nose at +Z, a hat at +Y, an ear at +X, each of another length; 1.8 m tall.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402 (the path first)

from core.geometry.export import write_mesh  # noqa: E402
from core.geometry.mesh import Mesh  # noqa: E402

CORNERS = {
    "ear": (0.7, 0.0, 0.0),
    "other ear": (-0.2, 0.0, 0.0),
    "hat": (0.0, 1.3, 0.0),
    "foot": (0.0, -0.5, 0.0),
    "nose": (0.0, 0.0, 0.9),
    "back": (0.0, 0.0, -0.3),
}


def shape() -> Mesh:
    right, left, up, down, front, back = range(6)
    faces = []
    for x, y, z in ((x, y, z) for x in (right, left) for y in (up, down) for z in (front, back)):
        inwards = (x == left) ^ (y == down) ^ (z == back)
        faces.append((x, z, y) if inwards else (x, y, z))
    return Mesh(np.array(list(CORNERS.values()), np.float32), np.array(faces, np.int32))


if __name__ == "__main__":
    extras = {
        "seed": 2**62 + 1,
        "settings": {"preset": "tiny", "sparse_steps": [4, 4], "versions": {"s2mesh": "0.1.0"}},
        "job_id": "ab" * 16,
        "image_sha256": "cd" * 32,
    }
    write_mesh(shape(), sys.argv[1], extras=extras)

"""Decimation to a face budget by quadric edge collapse (the kept library is fast-simplification)."""

from collections.abc import Callable

import numpy as np

from core.errors import ConfigError
from core.geometry.mesh import Mesh

_AGGRESSIVENESS = (5.0, 7.0, 10.0)  # the library's own scale; higher ends nearer to the budget, with worse triangles


def simplify(mesh: Mesh, max_faces: int, on_message: Callable[[str], None] | None = None) -> Mesh:
    """At most ``max_faces`` faces, where edges can be collapsed that far.

    A mesh within the budget comes back as it is. Closed parts stay closed as far as the library keeps them so.
    Tiny parts may vanish. Should the library stop above the budget, the message says so and ``num_faces`` tells.

    Raises:
        ConfigError: for a budget below 4 faces.
    """
    if max_faces < 4:
        raise ConfigError(f"the face budget is {max_faces}; it must be at least 4.")
    if mesh.num_faces <= max_faces:
        return mesh
    import fast_simplification

    say = on_message or (lambda message: None)
    say(f"simplifying {mesh.num_faces} faces to {max_faces}")
    best = mesh
    for aggressiveness in _AGGRESSIVENESS:
        vertices, faces = fast_simplification.simplify(
            best.vertices, best.faces, target_count=max_faces, agg=aggressiveness
        )
        best = _without_degenerate(vertices, faces)
        if best.num_faces <= max_faces:
            break
    else:
        say(f"{best.num_faces} faces is as far as the mesh can be simplified")
    return best


def _without_degenerate(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return Mesh(vertices, faces).with_faces(faces[distinct].astype(np.int32))

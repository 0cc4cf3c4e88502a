"""Connected parts of a mesh: floaters and enclosed interior removed, orientation made outward."""

import numpy as np

from core.geometry.distance import SurfaceDistance
from core.geometry.mesh import Mesh

# V vertices, F faces, K components

_PROBES = 16  # vertices of a part that are asked whether they lie inside another


def face_components(mesh: Mesh) -> tuple[int, np.ndarray]:
    """Number of parts K that share no vertex, and the part of each face [F] int32."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not mesh.num_faces:
        return 0, np.zeros(0, dtype=np.int32)
    start, end = mesh.faces[:, [0, 1]].T.reshape(-1), mesh.faces[:, [1, 2]].T.reshape(-1)
    ones = np.ones(len(start), dtype=np.int8)
    graph = coo_matrix((ones, (start, end)), shape=(mesh.num_vertices,) * 2)
    _, of_vertex = connected_components(graph, directed=False)
    used, of_face = np.unique(of_vertex[mesh.faces[:, 0]], return_inverse=True)
    return len(used), of_face.astype(np.int32)


def remove_floaters(mesh: Mesh, min_fraction: float = 0.02) -> Mesh:
    """Without parts whose area is below ``min_fraction`` of the largest part's area."""
    num, part = face_components(mesh)
    if num < 2:
        return mesh
    area = np.bincount(part, weights=mesh.face_areas(), minlength=num)
    return _keep(mesh, part, area >= min_fraction * area.max())


def remove_enclosed(mesh: Mesh) -> Mesh:
    """Without parts that lie wholly inside another part: cavities, and whatever is in them.

    A part is inside another if the winding number of the other says so at all probed vertices; which way
    either is oriented does not matter. An open part encloses only what it surrounds by more than half.
    """
    num, part = face_components(mesh)
    if num < 2:
        return mesh
    order = np.argsort(part, kind="stable")
    pieces = [mesh.with_faces(mesh.faces[rows]) for rows in np.split(order, np.cumsum(np.bincount(part))[:-1])]
    bounds = np.stack([piece.bounds for piece in pieces])  # [K, 2, 3]
    outer_first = np.argsort(-np.prod(np.maximum(bounds[:, 1] - bounds[:, 0], 1e-12), axis=1), kind="stable")
    keep = np.ones(num, dtype=bool)
    for place, outer in enumerate(outer_first):
        inside = (bounds[:, 0] >= bounds[outer, 0]).all(1) & (bounds[:, 1] <= bounds[outer, 1]).all(1)
        candidates = [k for k in outer_first[place + 1 :] if inside[k] and keep[k]]
        if not keep[outer] or not candidates:
            continue
        probes = [pieces[k].vertices[:: max(1, pieces[k].num_vertices // _PROBES)][:_PROBES] for k in candidates]
        winding = np.abs(SurfaceDistance(pieces[outer]).winding(np.concatenate(probes)))
        ends = np.cumsum([len(probe) for probe in probes])
        for k, values in zip(candidates, np.split(winding, ends[:-1]), strict=True):
            keep[k] = not (values > 0.5).all()
    return _keep(mesh, part, keep)


def orient_outward(mesh: Mesh) -> Mesh:
    """Turns each part with negative volume inside out. Cavities count as parts: remove them first."""
    num, part = face_components(mesh)
    volume = np.zeros(num)
    if num:
        center = mesh.bounds.mean(0)  # volumes of open parts depend on the origin: take a fair one
        moved = Mesh(mesh.vertices - center, mesh.faces)
        volume = np.bincount(part, weights=moved.face_volumes(), minlength=num)
    inverted = volume[part] < 0
    if not inverted.any():
        return mesh
    return Mesh(mesh.vertices, np.where(inverted[:, None], mesh.faces[:, ::-1], mesh.faces))


def _keep(mesh: Mesh, part: np.ndarray, keep: np.ndarray) -> Mesh:  # part [F], keep [K] bool
    return mesh if keep.all() else mesh.with_faces(mesh.faces[keep[part]])

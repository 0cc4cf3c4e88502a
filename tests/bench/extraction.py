"""Surfaces, the flood and the hand-over of sparse fields against their dense definitions.

    python -m tests.bench.extraction [--resolution 1024] [--case surface] [--quick] [--json] [--device cuda]

The field is a ball of radius 0.8 of the half side in a band of ``--band`` voxels to each side, in whole cells of 8
voxels for the flood, as a decoder gives it. ``surface``: the band's surface, and scikit-image's of the whole grid.
``far``: the same with a far field of half the resolution, as the sign refiner leaves it. ``flood``: what is inside, and
labels of the whole grid. ``hand-over``: a surface to latent cells of an eighth of the resolution, and the distance of
every voxel to it; ``hand-over-full``: ours alone, from the surface of half the resolution to the whole resolution.
``decimate``: the surface of a quarter of the resolution to 5 %, in rounds, and in one step.
"""

import argparse
import sys

import numpy as np

from tests.bench.parts import apart

# R grid side, N voxels in the band

RADIUS, CELL = 0.8, 8


def side_of(options: argparse.Namespace) -> int:
    return 128 if options.quick else options.resolution


def slabs(resolution: int, band: float):
    """Yields, for each x, signed distance [R, R] float32 over the band: clipped to [-1, 1], outside positive."""
    center, radius = (resolution - 1) / 2, RADIUS * resolution / 2
    axis = ((np.arange(resolution) - center) ** 2).astype(np.float32)
    plane = axis[:, None] + axis[None, :]
    for x in range(resolution):
        yield np.clip((np.sqrt(plane + axis[x]) - np.float32(radius)) / np.float32(band), -1, 1)


def sparse_field(resolution: int, band: float) -> tuple[np.ndarray, np.ndarray]:
    """coords [N, 3] int32 and values [N] float32, in x, y, z order, made into arrays of their final size."""
    num = sum(int((np.abs(slab) < 1).sum()) for slab in slabs(resolution, band))
    coords, values, end = np.empty((num, 3), np.int32), np.empty(num, np.float32), 0
    for x, slab in enumerate(slabs(resolution, band)):
        y, z = np.nonzero(np.abs(slab) < 1)
        rows = slice(end, end + len(y))
        coords[rows, 0], coords[rows, 1], coords[rows, 2], values[rows] = x, y, z, slab[y, z]
        end += len(y)
    return coords, values


def dense_field(resolution: int, band: float) -> np.ndarray:  # [R, R, R] float32
    volume = np.empty((resolution,) * 3, dtype=np.float32)
    for x, slab in enumerate(slabs(resolution, band)):
        volume[x] = slab
    return volume


def cell_field(resolution: int, band: float):
    """The band in whole cells, as tensors: coords [N, 3] int32 and values [N] float32."""
    import torch

    held = np.zeros((resolution // CELL,) * 3, bool)
    for x, slab in enumerate(slabs(resolution, band)):
        near = (np.abs(slab) < 1).reshape(resolution // CELL, CELL, resolution // CELL, CELL)
        held[x // CELL] |= near.any((1, 3))
    inside = np.argwhere(np.ones((CELL,) * 3)).astype(np.int32)
    coords = (np.argwhere(held).astype(np.int32)[:, None] * CELL + inside).reshape(-1, 3)
    center, values = (resolution - 1) / 2, np.empty(len(coords), np.float32)
    for start in range(0, len(coords), 1 << 20):
        part = coords[start : start + (1 << 20)] - center
        values[start : start + (1 << 20)] = (np.linalg.norm(part, axis=1) - RADIUS * resolution / 2) / band
    return torch.from_numpy(coords), torch.from_numpy(values).clamp_(-1, 1)


def scikit(volume: np.ndarray) -> int:
    from skimage.measure import marching_cubes

    return len(marching_cubes(volume, 0.0, method="lewiner")[1])


def far_outside(resolution: int) -> np.ndarray:  # [R / 2, R / 2, R / 2] bool
    cells = np.empty((resolution // 2,) * 3, bool)
    for x, slab in enumerate(slabs(resolution // 2, 1.0)):
        cells[x] = slab > 0
    return cells


def surface_ours(options):
    import torch

    from core.geometry.isosurface import extract_surface

    def prepare():
        field = [torch.from_numpy(x).to(options.device) for x in sparse_field(side_of(options), options.band)]
        return lambda: extract_surface(*field, side_of(options)).num_faces

    return prepare


def surface_dense(options):
    import skimage.measure  # noqa: F401, loaded before memory is measured

    def prepare():
        volume = dense_field(side_of(options), options.band)
        return lambda: scikit(volume)

    return prepare


def far_ours(options):
    import torch

    from core.geometry.isosurface import extract_field
    from core.sparse.refined_field import FarField, RefinedField

    def prepare():
        resolution = side_of(options)
        coords, values = (torch.from_numpy(x).to(options.device) for x in sparse_field(resolution, options.band))
        outside = torch.from_numpy(far_outside(resolution)).to(options.device)
        return lambda: extract_field(RefinedField(coords, values, resolution, FarField(outside, 2))).num_faces

    return prepare


def far_dense(options):
    import skimage.measure  # noqa: F401

    def prepare():
        resolution = side_of(options)
        band = sparse_field(resolution, options.band)
        outside = far_outside(resolution)

        def work():
            volume = np.empty((resolution,) * 3, np.float32)
            for x in range(resolution):
                volume[x] = np.where(outside[x // 2], 1.0, -1.0).repeat(2, 0).repeat(2, 1)
            volume[tuple(band[0].T)] = band[1]
            return scikit(volume)

        return work

    return prepare


def flood_ours(options):
    import scipy.ndimage  # noqa: F401

    from core.geometry.interior import flood_outside

    def prepare():
        coords, values = (x.to(options.device) for x in cell_field(side_of(options), options.band))
        return lambda: float((~flood_outside(coords, values, side_of(options), CELL).far.outside).sum())

    return prepare


def flood_dense(options):
    from scipy.ndimage import label

    def prepare():
        coords, values = (x.numpy() for x in cell_field(side_of(options), options.band))

        def work():
            passable = np.ones((side_of(options) + 2,) * 3, bool)
            passable[tuple(coords.T + 1)] = values > 0
            labels = label(passable)[0]
            reached = (labels == labels[0, 0, 0])[1:-1, 1:-1, 1:-1]
            cells = side_of(options) // CELL
            return float((~reached.reshape(cells, CELL, cells, CELL, cells, CELL).any((1, 3, 5))).sum())

        return work

    return prepare


def ball_mesh(resolution: int, band: float):
    from core.geometry.isosurface import extract_surface

    return extract_surface(*sparse_field(resolution, band), resolution).normalised(1.9)


def hand_over_ours(options, divisor=8):
    from core.geometry.voxelize import latent_coords

    def prepare():
        size = side_of(options) // divisor
        mesh = ball_mesh(max(size // 2, 16), options.band)
        return lambda: len(latent_coords(mesh, size, CELL, device=options.device))

    return prepare


def hand_over_dense(options):
    from core.geometry.distance import SurfaceDistance
    from core.geometry.mesh import Mesh

    def prepare():
        size = side_of(options) // 8
        mesh = ball_mesh(max(size // 2, 16), options.band)

        def work():
            axis = np.arange(size) / (size - 1) - 0.5
            point = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
            distance = SurfaceDistance(Mesh(mesh.vertices / 2, mesh.faces)).unsigned(point)
            near = np.argwhere((distance < 4 / size).reshape((size,) * 3))
            return len(np.unique(near // CELL, axis=0))

        return work

    return prepare


def decimate(options, in_rounds: bool):
    import fast_simplification

    from core.geometry.simplify import simplify

    def prepare():
        mesh = ball_mesh(max(side_of(options) // 4, 32), options.band)
        target = mesh.num_faces // 20
        if in_rounds:
            return lambda: simplify(mesh, target).num_faces
        return lambda: len(fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=target, agg=5.0)[1])

    return prepare


CASES: apart.Cases = {
    "surface": {"sparse": surface_ours, "dense": surface_dense},
    "far": {"sparse": far_ours, "dense": far_dense},
    "flood": {"sparse": flood_ours, "dense": flood_dense},
    "hand-over": {"sparse": hand_over_ours, "dense": hand_over_dense},
    "hand-over-full": {"sparse": lambda options: hand_over_ours(options, 1)},
    "decimate": {
        "rounds": lambda options: decimate(options, True),
        "one step": lambda options: decimate(options, False),
    },
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--band", type=float, default=4.0, help="voxels on each side of the surface")
    return apart.main("tests.bench.extraction", CASES, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

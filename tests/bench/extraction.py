"""Sparse against dense surface extraction: time and peak memory of each, in a process of its own.

    python tests/bench/extraction.py [--resolution 1024] [--band 4] [--json]

The field is a sphere of radius 0.8 of the half side. The sparse side gets the voxels nearer than ``band`` steps to it,
as the decoder gives them; the dense side gets the whole grid and scikit-image's marching cubes. Time is
the extraction alone. Memory is the peak of the whole process, input and interpreter included, on both sides.
Prints both and the ratios sparse / dense; the goal is a tenth of the memory and no more time.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# R grid side, N voxels in the band

RADIUS = 0.8


def slabs(resolution: int, band: float):
    """Yields, for each x, signed distance [R, R] float32 over the band: clipped to [-1, 1], outside positive."""
    center, radius = (resolution - 1) / 2, RADIUS * resolution / 2
    axis = ((np.arange(resolution) - center) ** 2).astype(np.float32)
    plane = axis[:, None] + axis[None, :]
    for x in range(resolution):
        yield np.clip((np.sqrt(plane + axis[x]) - np.float32(radius)) / np.float32(band), -1, 1)


def sparse_field(resolution: int, band: float, index_type: str, value_type: str) -> tuple[np.ndarray, np.ndarray]:
    """coords [N, 3] and values [N], in x, y, z order, made slab by slab into arrays of their final size."""
    num = sum(int((np.abs(slab) < 1).sum()) for slab in slabs(resolution, band))
    coords, values, end = np.empty((num, 3), index_type), np.empty(num, value_type), 0
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


def measure_here(side: str, options: argparse.Namespace) -> dict:
    """Runs one side in this process; meant for a fresh one."""
    import resource

    if side == "sparse":
        from core.geometry.isosurface import extract_surface

        field = sparse_field(options.resolution, options.band, options.index_type, options.value_type)
        start = time.perf_counter()
        mesh = extract_surface(*field, options.resolution)
        seconds, vertices, faces = time.perf_counter() - start, mesh.num_vertices, mesh.num_faces
    else:
        from skimage.measure import marching_cubes

        volume = dense_field(options.resolution, options.band)
        start = time.perf_counter()
        found = marching_cubes(volume, 0.0, method="lewiner")
        seconds, vertices, faces = time.perf_counter() - start, len(found[0]), len(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "peak_bytes": peak, "vertices": vertices, "faces": faces}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--band", type=float, default=4.0, help="voxels on each side of the surface")
    parser.add_argument("--index-type", default="int32", help="of the voxel coordinates")
    parser.add_argument("--value-type", default="float32", help="of the distances")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=("sparse", "dense"), help="measure one side in this process")
    options = parser.parse_args(argv)
    if options.side:
        print(json.dumps(measure_here(options.side, options)))
        return 0
    result = {"resolution": options.resolution, "band": options.band}
    passed_on = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in _PASSED]
    for side in ("sparse", "dense"):
        command = [sys.executable, str(Path(__file__)), "--side", side, *passed_on]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT)
        result[side] = json.loads(done.stdout)
    result["time_ratio"] = result["sparse"]["seconds"] / result["dense"]["seconds"]
    result["memory_ratio"] = result["sparse"]["peak_bytes"] / result["dense"]["peak_bytes"]
    if options.json:
        print(json.dumps(result))
        return 0
    for side in ("sparse", "dense"):
        row = result[side]
        print(f"{side:7} {row['seconds']:7.2f} s {row['peak_bytes'] / 1e6:8.0f} MB {row['faces']:9d} faces")
    print(f"ratio   {result['time_ratio']:7.2f}   {result['memory_ratio']:8.3f}")
    return 0


_PASSED = ("resolution", "band", "index-type", "value-type")
_ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))
    sys.exit(main())

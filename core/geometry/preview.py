"""Pictures of meshes without a graphics library: a z-buffer in numpy, for previews, sheets and thumbnails.

Letters: V vertices, F faces, S pixels per side of a picture, T pixels of a tile of work, P candidate pixels.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.geometry.export import vertex_normals
from core.geometry.mesh import Mesh
from core.geometry.simplify import simplify

if TYPE_CHECKING:
    from PIL import Image

TURN_FRAMES = 24
TURN_SECONDS = 3.0  # that a turntable takes for one turn
_TURNTABLE_FACES = 100_000  # more do not show at this size, and each frame draws them anew
CLAY = (0.80, 0.78, 0.74)
_SUPERSAMPLING = 2
_DISTANCE = 4.0  # of the eye from the middle, in radii of the mesh
_MARGIN = 0.92  # share of the picture that the mesh's sphere fills
_CANDIDATES = 1 << 19  # pairs of face and pixel looked at together: about 100 MB
_NOTHING = np.iinfo(np.int64).max
# Directions towards the lights, in the eye's frame (x right, y up, z towards the eye), and their strengths.
_LIGHTS = (((-0.5, 0.8, 0.7), 0.75), ((0.9, 0.1, 0.5), 0.25), ((0.0, -0.7, 0.6), 0.12))
_AMBIENT = 0.10


def render_mesh(
    mesh: Mesh,
    size: int = 512,
    *,
    yaw: float = 30.0,
    pitch: float = 20.0,
    color: tuple[float, float, float] = CLAY,
    cull: bool = False,
) -> np.ndarray:
    """A smoothly shaded picture of the mesh, fitted to the frame.

    Args:
        mesh: any; its box is centred and scaled.
        size: side S in pixels.
        yaw: degrees that the eye is moved around the mesh from its front (+Z) towards its own +X side.
        pitch: degrees that the eye is raised.
        color: of the surface, linear 0..1.
        cull: leave out faces that look away; else both sides are drawn, the back darker.

    Returns:
        [S, S, 4] uint8, straight alpha: 0 where there is nothing.
    """
    side = size * _SUPERSAMPLING
    picture = np.zeros((side, side, 4), dtype=np.float32)
    if mesh.num_faces:
        view = _rotation(yaw, pitch)
        points, depth = _projected(mesh, view, side)  # [V, 2], [V]
        face, weights = _nearest_faces(points, depth, mesh.faces, side, cull)  # [S', S'], [S', S', 3]
        hit = face >= 0
        corners = mesh.faces[face[hit]]  # [P, 3]
        normal = np.einsum("pc,pcd->pd", weights[hit], vertex_normals(mesh)[corners] @ view.T)
        picture[hit, :3] = _shaded(normal, _towards_eye(points, mesh.faces)[face[hit]], color)
        picture[hit, 3] = 1.0
    small = picture.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)  # to straight alpha
    small[..., :3] = np.clip(small[..., :3], 0, 1) ** (1 / 2.2)
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)


def mesh_png(mesh: Mesh, size: int = 512) -> bytes:
    """The mesh as a PNG file of ``size`` pixels a side, on a transparent background."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(render_mesh(mesh, size)).save(content, format="PNG")
    return content.getvalue()


def turntable_webp(
    mesh: Mesh, size: int = 256, frames: int = TURN_FRAMES, *, on_frame: Callable[[int], None] | None = None
) -> bytes:
    """An animated WebP file on a transparent background: the eye goes once around the mesh, again and again.

    ``on_frame`` is called with the number of frames drawn, after each.
    """
    from PIL import Image

    mesh = simplify(mesh, _TURNTABLE_FACES)
    first, *rest = (Image.fromarray(_frame(mesh, size, i, frames, on_frame)) for i in range(frames))
    content = io.BytesIO()
    # Lossy: this is for a look. The background is what Pillow clears each frame with.
    first.save(
        content, format="WEBP", save_all=True, append_images=rest, duration=round(1000 * TURN_SECONDS / frames),
        loop=0, quality=80, method=4, background=(0, 0, 0, 0),
    )  # fmt: skip
    return content.getvalue()


def _frame(
    mesh: Mesh, size: int, number: int, frames: int, on_frame: Callable[[int], None] | None
) -> np.ndarray:  # [S, S, 4] uint8
    pixels = render_mesh(mesh, size, yaw=30.0 + 360.0 * number / frames)
    if on_frame is not None:
        on_frame(number + 1)
    return pixels


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    cell: int = 256,
    gap: int = 8,
    background: tuple[int, int, int] = (255, 255, 255),
) -> "Image.Image":
    """Pictures (uint8 [h, w, 3 or 4]) in rows, each fitted into a square of ``cell`` pixels."""
    from PIL import Image

    columns = max((len(row) for row in rows), default=0)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, len(rows) * (cell + gap) + gap), background)
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            picture = Image.fromarray(pixels).convert("RGBA")
            scale = cell / max(picture.size)
            width, height = (max(1, round(length * scale)) for length in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            corner = (gap + x * (cell + gap) + (cell - width) // 2, gap + y * (cell + gap) + (cell - height) // 2)
            sheet.paste(picture, corner, picture)
    return sheet


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    """World to eye: [3, 3], rows right, up and towards the eye."""
    a, b = np.radians([yaw, pitch])
    towards = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(towards, right), towards])


def _projected(mesh: Mesh, view: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions [V, 2] (x right, y down) and depth [V], nearer is smaller; in perspective."""
    low, high = mesh.bounds.astype(np.float64)
    centered = mesh.vertices - (low + high) / 2
    eye = centered / max(float(np.linalg.norm(centered, axis=1).max()), 1e-9) @ view.T  # [V, 3], in the unit sphere
    depth = _DISTANCE - eye[:, 2]
    fill = _MARGIN * np.sqrt(_DISTANCE**2 - 1)  # the sphere's outline touches the margin
    x, y = eye[:, 0] / depth * fill, eye[:, 1] / depth * fill
    points = np.stack([(x + 1) * side / 2, (1 - y) * side / 2], axis=1)
    return points, depth


def _nearest_faces(
    points: np.ndarray, depth: np.ndarray, faces: np.ndarray, side: int, cull: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest face at each pixel [side, side] (-1: none) and the weights of its corners [side, side, 3]."""
    nearest = np.full(side * side, _NOTHING)  # bits of the depth, then the face: the smaller is the nearer
    corners = points[faces]  # [F, 3, 2]
    area = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # [F]; negative looks at the eye
    inverse_depth = (1 / depth)[faces]  # [F, 3]: linear on the screen
    low = np.clip(np.ceil(corners.min(1) - 0.5), 0, side).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) - 0.5) + 1, 0, side).astype(np.int64)  # exclusive
    extent = np.maximum(high - low, 0)
    drawn = np.flatnonzero((extent.prod(1) > 0) & ((area < 0) if cull else (area != 0)))
    ends = np.cumsum(extent[drawn].prod(1))
    start = 0
    while start < len(drawn):  # batches of faces with about so many candidate pixels
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CANDIDATES, side="right")))
        rows = drawn[start:stop]
        number = extent[rows].prod(1)
        face = np.repeat(rows, number)  # [P]
        step = np.arange(len(face)) - np.repeat(np.cumsum(number) - number, number)
        width = extent[face, 0]
        row = step // width
        x, y = low[face, 0] + step - row * width, low[face, 1] + row
        weight = _barycentric(np.stack([x, y], axis=1) + 0.5, corners[face], area[face])
        inside = np.flatnonzero((weight >= 0).all(1))
        face = face[inside]
        z = (1 / (weight[inside] * inverse_depth[face]).sum(1)).astype(np.float32)
        np.minimum.at(nearest, y[inside] * side + x[inside], z.view(np.int32).astype(np.int64) << 32 | face)
        start = stop
    owner = np.where(nearest == _NOTHING, -1, nearest & 0xFFFFFFFF)
    weights = np.zeros((side * side, 3))
    hit = np.flatnonzero(owner >= 0)
    center = np.stack([hit % side, hit // side], axis=1) + 0.5
    screen = _barycentric(center, corners[owner[hit]], area[owner[hit]]) * inverse_depth[owner[hit]]
    weights[hit] = screen / screen.sum(1, keepdims=True)
    return owner.reshape(side, side), weights.reshape(side, side, 3)


def _barycentric(at: np.ndarray, corners: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Screen weights [P, 3] of points ``at`` [P, 2] in triangles ``corners`` [P, 3, 2] of doubled area [P]."""
    a, b, c = corners[:, 0] - at, corners[:, 1] - at, corners[:, 2] - at
    return np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1) / area[:, None]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _towards_eye(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[F] bool: whether a face shows its outer side (counter-clockwise; the y axis of pixels points down)."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    return _cross(b - a, c - a) < 0


def _shaded(normal: np.ndarray, outer: np.ndarray, color: tuple[float, float, float]) -> np.ndarray:
    """Linear colours [P, 3] of points with eye-space normals [P, 3]; where not ``outer`` [P], the back is seen."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal = np.where(outer[:, None], normal, -normal)
    light = np.full(len(normal), _AMBIENT)
    for direction, strength in _LIGHTS:
        unit = np.array(direction) / np.linalg.norm(direction)
        light += strength * np.maximum(normal @ unit, 0)
    light = np.where(outer, light, 0.5 * light)
    return light[:, None] * np.array(color)

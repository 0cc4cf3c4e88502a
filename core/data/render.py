"""Batched pictures of packed solids: sphere tracing, random cameras and lights, smooth silhouettes.

The frame is cut as the pipeline cuts a user's picture: tight around the object, padded to a square, with
the margin of ``core.imaging.preprocess``. Runs on any device; finished rays leave the batch every few steps.

Letters: B views, S pixels per side, K rays of a view, M rays of a view still in flight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.parts import Parts, bounds, distance, join_part

_ROUNDS, _STEPS_PER_ROUND = 9, 6
_PREPASS = 40  # pixels per side of the pass that finds the frame
_STEP = 0.92  # of the distance: the bound is not exact beside slanted walls
MARGIN = 16 / 518  # border of the preprocessed picture, as a fraction of the object's side


@dataclass
class Views:
    """Random cameras, lights and surfaces of B views."""

    eye: Tensor  # [B, 3]
    axes: Tensor  # [B, 3, 3] rows: right, up, forward
    tan_half: Tensor  # [B] tangent of half the field of view that holds the bounding sphere
    light: Tensor  # [B, 3] towards the key light
    ambient: Tensor  # [B]
    shine: Tensor  # [B] strength of the highlight
    texture: Tensor  # [B, 4]: strength, and a wave vector
    jitter: Tensor  # [B, 3] relative change of the frame: size, x, y

    def to(self, device) -> "Views":
        return Views(**{name: value.to(device) for name, value in vars(self).items()})


def random_views(
    batch: int, generator: torch.Generator, *, max_yaw: float = 75.0, pitch: tuple[float, float] = (-5.0, 42.0),
    jitter: float = 0.03, textured: float = 0.5,
) -> Views:  # fmt: skip
    """Cameras around the front (+Z), mostly a little above. Angles in degrees. Made on the CPU."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    yaw = torch.deg2rad(uniform(-max_yaw, max_yaw))
    lift = torch.deg2rad(uniform(*pitch))
    tan_half = torch.tan(torch.deg2rad(uniform(7.0, 26.0)))
    back = torch.stack([yaw.sin() * lift.cos(), lift.sin(), yaw.cos() * lift.cos()], 1)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(batch, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=1)
    axes = torch.stack([right, torch.linalg.cross(back, right), -back], 1)
    reach = 1.7 / torch.sin(torch.atan(tan_half))
    light = axes[:, 0] * uniform(-1, 1, 1) + axes[:, 1] * uniform(0.2, 1.2, 1) - axes[:, 2] * uniform(0.3, 1.2, 1)
    strength = uniform(0.0, 0.35) * (uniform(0, 1) < textured)
    waves = torch.randn(batch, 3, generator=generator) * 9
    frame = torch.randn(batch, 3, generator=generator) * jitter
    return Views(
        eye=back * reach[:, None],
        axes=axes,
        tan_half=tan_half,
        light=torch.nn.functional.normalize(light, dim=1),
        ambient=uniform(0.25, 0.6),
        shine=uniform(0.0, 0.5),
        texture=torch.cat([strength[:, None], waves], 1),
        jitter=frame,
    )


@torch.no_grad()
def render(parts: Parts, views: Views, size: int, *, join: Callable = join_part) -> Tensor:
    """Pictures of the shapes, [B, 4, size, size] float in 0..1: straight colour and alpha.

    The object fills the frame as after preprocessing; ``views.jitter`` moves and scales that frame.
    """
    parts = parts.trimmed()
    batch, device = len(parts), parts.center.device
    low, high = bounds(parts.to("cpu"))  # of sharp unions: smooth ones bulge a little beyond
    box = (low - 0.04).to(device), (high + 0.04).to(device)
    full = torch.tensor([0.0, 0.0, 1.0], device=device).expand(batch, 3) * views.tan_half[:, None]
    seen, _ = _trace(parts, views, box, full, _PREPASS, join)
    frame = _tight_frame(seen, full, views.jitter)
    alpha, points = _trace(parts, views, box, frame, size, join)
    color = _shade(parts, views, points, alpha, join)
    return torch.cat([color, alpha.unsqueeze(1)], 1)


def _rays(views: Views, frame: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Unit directions [B, S * S, 3] and the angle [B] of a pixel, for a frame (centre x, y, half side)."""
    steps = (torch.arange(size, device=frame.device) + 0.5) / size * 2 - 1
    u = frame[:, 0, None] + steps * frame[:, 2, None]  # [B, S]
    v = frame[:, 1, None] - steps * frame[:, 2, None]
    plane = views.axes[:, 2][:, None, None]
    plane = plane + u[:, None, :, None] * views.axes[:, 0][:, None, None]
    plane = plane + v[:, :, None, None] * views.axes[:, 1][:, None, None]
    return torch.nn.functional.normalize(plane.flatten(1, 2), dim=-1), 2 * frame[:, 2] / size


def _trace(parts: Parts, views: Views, box, frame: Tensor, size: int, join: Callable) -> tuple[Tensor, Tensor]:
    """Coverage [B, S, S] and nearest points [B, S * S, 3]."""
    directions, pixel = _rays(views, frame, size)
    origin = views.eye[:, None]
    inverse = 1 / torch.where(directions.abs() < 1e-6, torch.full_like(directions, 1e-6), directions)
    t0, t1 = (box[0][:, None] - origin) * inverse, (box[1][:, None] - origin) * inverse
    near = torch.minimum(t0, t1).amax(-1)
    far = torch.maximum(t0, t1).amin(-1)
    depth, best, best_depth = near.clone(), torch.full_like(near, 1e3), near.clone()
    active = far > near
    for _ in range(_ROUNDS):
        flying = int(active.sum(1).max())
        if flying == 0:
            break
        order = active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :flying]  # [B, M]
        t, b, bt = (x.gather(1, order) for x in (depth, best, best_depth))
        d = directions.gather(1, order[..., None].expand(-1, -1, 3))
        end = far.gather(1, order)
        for _ in range(_STEPS_PER_ROUND):
            gap = distance(origin + d * t[..., None], parts, join=join)
            miss = gap / (pixel[:, None] * t)  # in pixels
            better = miss < b
            b, bt = torch.where(better, miss, b), torch.where(better, t, bt)
            t = t + torch.where(b > 0.1, gap * _STEP, torch.zeros_like(gap))
        depth.scatter_(1, order, t)
        best.scatter_(1, order, b)
        best_depth.scatter_(1, order, bt)
        active.scatter_(1, order, (b > 0.1) & (t < end) & active.gather(1, order))
    alpha = torch.where(best <= 0.1, 1.0, (0.5 - best).clamp(0, 0.5))
    points = origin + directions * best_depth[..., None]
    return alpha.view(len(parts), size, size), points


def _tight_frame(seen: Tensor, full: Tensor, jitter: Tensor) -> Tensor:
    """Square frame (centre x, y, half side) around what a coarse pass saw."""
    size = seen.shape[-1]
    edges = []
    for axis in (1, 2):  # columns (x), then rows (y)
        any_hit = (seen > 0).any(axis)
        index = torch.arange(size, device=seen.device)
        low = torch.where(any_hit, index, size).amin(1).clamp_max(size - 1)
        high = torch.where(any_hit, index, -1).amax(1).clamp_min(0)
        edges.append((low.float() + 0.25, high.float() + 0.75))
    (left, right), (top, bottom) = edges
    side = torch.maximum(right - left, bottom - top).clamp_min(2.0)
    scale = full[:, 2] * 2 / size
    half = side * scale / 2 * (1 + 2 * MARGIN) * (1 + jitter[:, 0].clamp(-0.04, 0.08))
    x = ((left + right) / 2 * scale - full[:, 2]) + half * jitter[:, 1].clamp(-0.06, 0.06)
    y = -((top + bottom) / 2 * scale - full[:, 2]) + half * jitter[:, 2].clamp(-0.06, 0.06)
    return torch.stack([x, y, half], 1)


def _shade(parts: Parts, views: Views, points: Tensor, alpha: Tensor, join: Callable) -> Tensor:
    """Colour [B, 3, S, S] at the traced points; only covered pixels are evaluated."""
    batch, size = alpha.shape[0], alpha.shape[-1]
    covered = (alpha > 0).flatten(1)
    count = max(int(covered.sum(1).max()), 1)
    order = covered.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    p = points.gather(1, order[..., None].expand(-1, -1, 3))  # [B, M, 3]
    step = 0.004
    corners = torch.tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=p.dtype, device=p.device)
    normal = sum(c * distance(p + step * c, parts, join=join)[..., None] for c in corners)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    _, nearest = distance(p, parts, with_part=True, join=join)
    albedo = parts.color.gather(1, nearest[..., None].expand(-1, -1, 3))
    pattern = torch.sin(torch.einsum("bmi,bi->bm", p, views.texture[:, 1:]))
    pattern = pattern * torch.sin(torch.einsum("bmi,bi->bm", p.roll(1, -1), views.texture[:, 1:]) * 0.7)
    albedo = albedo * (1 + views.texture[:, :1] * pattern)[..., None]
    openness = (distance(p + 0.12 * normal, parts, join=join) / 0.12).clamp(0, 1)[..., None]
    ambient = views.ambient[:, None, None] * (0.75 + 0.25 * normal[..., 1:2]) * (0.45 + 0.55 * openness)
    facing = torch.einsum("bmi,bi->bm", normal, views.light)[..., None]
    to_eye = torch.nn.functional.normalize(views.eye[:, None] - p, dim=-1)
    halfway = torch.nn.functional.normalize(to_eye + views.light[:, None], dim=-1)
    highlight = (normal * halfway).sum(-1, keepdim=True).clamp_min(0) ** 32 * views.shine[:, None, None]
    key = (facing * 0.9 + 0.1).clamp_min(0) * (0.5 + 0.5 * openness)
    lit = albedo * (ambient + (1.15 - views.ambient[:, None, None]) * key) + 0.6 * highlight * (facing > 0)
    image = torch.zeros(batch, size * size, 3, dtype=p.dtype, device=p.device)
    image.scatter_(1, order[..., None].expand(-1, -1, 3), lit.clamp(0, 1) ** (1 / 1.6))
    return image.transpose(1, 2).reshape(batch, 3, size, size)


def on_white(rgba: Tensor) -> Tensor:
    """[B, 4, S, S] straight colour and alpha to [B, 3, S, S] on white."""
    alpha = rgba[:, 3:]
    return rgba[:, :3] * alpha + (1 - alpha)

"""The parametric part against textbook distances; joining, bounds and normalisation.

Letters: B shapes, M points.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.builder import Builder, turn
from core.data.parts import SKIP, SUBTRACT, bounds, distance, normalized, pack, part

EXACT = {"rtol": 0, "atol": 2e-6}  # a handful of float32 roundings at lengths around 1


def points(count: int = 4000, reach: float = 1.2) -> Tensor:
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1) * reach


def of(shape: list[dict], p: Tensor) -> Tensor:
    """Distances [M] of one shape at p [M, 3]."""
    return distance(p[None], pack([shape]))[0]


def built(draw) -> list[dict]:
    builder = Builder(np.random.default_rng(0))
    draw(builder)
    return builder.parts


def capped(side: Tensor, cap: Tensor) -> Tensor:
    """Distance to the meeting of two orthogonal walls."""
    return torch.hypot(side.clamp_min(0), cap.clamp_min(0)) + torch.maximum(side, cap).clamp_max(0)


def test_sphere_box_cylinder_and_ring_are_exact():
    p = points()
    radius = torch.hypot(p[:, 0], p[:, 2])
    torch.testing.assert_close(of(built(lambda b: b.ball((0, 0, 0), 0.6)), p), p.norm(dim=1) - 0.6, **EXACT)
    q = p.abs() - torch.tensor([0.5, 0.3, 0.8])
    box = q.clamp_min(0).norm(dim=1) + q.amax(1).clamp_max(0)
    torch.testing.assert_close(of([part(half=(0.5, 0.3, 0.8))], p), box, **EXACT)
    cylinder = capped(radius - 0.4, p[:, 1].abs() - 0.7)
    torch.testing.assert_close(of(built(lambda b: b.rod((0, 0, 0), 0.4, 0.7)), p), cylinder, **EXACT)
    torus = torch.hypot(radius - 0.7, p[:, 1]) - 0.2
    torch.testing.assert_close(of(built(lambda b: b.ring((0, 0, 0), 0.7, 0.2)), p), torus, **EXACT)


def test_a_tube_is_hollow():
    tube = of([part(half=(0.6, 0.5, 0.6), round_section=True, wall=0.1)], torch.tensor([[0.0, 0, 0], [0.5, 0, 0]]))
    torch.testing.assert_close(tube, torch.tensor([0.4, -0.1]), **EXACT)


def test_cone_has_the_right_surface_and_sign():
    """Radius 0.8 at the bottom, 0.2 at the top; beside a slanted wall the distance is exact."""
    cone = [part(half=(0.8, 0.5, 0.8), round_section=True, taper=0.6)]
    height = torch.linspace(-0.49, 0.49, 50)
    outline = 0.8 - 0.6 * (height + 0.5)
    angle = torch.linspace(0, 6, 50)
    wall = torch.stack([outline * angle.cos(), height, outline * angle.sin()], 1)
    torch.testing.assert_close(of(cone, wall), torch.zeros(50), **EXACT)
    p = points()
    inside = (torch.hypot(p[:, 0], p[:, 2]) < 0.8 - 0.6 * (p[:, 1] + 0.5)) & (p[:, 1].abs() < 0.5)
    assert torch.equal(of(cone, p) < 0, inside)
    across = torch.tensor([[0.5, 0.0, 0.0]]) + 0.1 * torch.nn.functional.normalize(torch.tensor([[1.0, 0.6, 0.0]]))
    torch.testing.assert_close(of(cone, across), torch.tensor([0.1]), **EXACT)


def test_rotation_and_centre_move_the_solid():
    rotation = turn("z", 30) @ turn("x", 50)
    settings = {"half": (0.5, 0.3, 0.2), "taper": 0.1, "edge": 0.05}
    p, center = points(), torch.tensor([0.1, -0.2, 0.3])
    moved = of([part(center.tolist(), rotation=rotation, **settings)], p)
    torch.testing.assert_close(moved, of([part(**settings)], (p - center) @ torch.from_numpy(rotation).T), **EXACT)


def test_stretching_scales_the_surface_and_underestimates_the_distance():
    stretch = torch.tensor([1.0, 0.5, 1.5])
    ellipsoid = built(lambda b: b.ball((0, 0, 0), 0.5, stretch=stretch.tolist()))
    on = torch.nn.functional.normalize(points(), dim=1) * 0.5 * stretch
    torch.testing.assert_close(of(ellipsoid, on), torch.zeros(len(on)), **EXACT)
    p = points(500)
    nearest = torch.cdist(p, on).amin(1)
    assert (of(ellipsoid, p).abs() <= nearest + 1e-5).all()


def test_sharp_and_smooth_joins():
    p = points()
    first, second = part(half=(0.5, 0.5, 0.5)), part((0.4, 0.2, 0), (0.4, 0.4, 0.4))
    a, b = of([first], p), of([second], p)
    torch.testing.assert_close(of([first, second], p), torch.minimum(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(of([first, second | {"op": SUBTRACT}], p), torch.maximum(a, -b), rtol=0, atol=1e-6)
    smooth = of([first, second | {"blend": 0.2}], p)
    assert (smooth <= torch.minimum(a, b) + 1e-6).all()
    apart = (a - b).abs() > 0.2
    torch.testing.assert_close(smooth[apart], torch.minimum(a, b)[apart], rtol=0, atol=1e-6)
    twice = of([first, first | {"blend": 0.2}], p)  # where both are equally near, a quarter of the width
    torch.testing.assert_close(twice, a - 0.05, **EXACT)


def test_padding_changes_nothing_and_the_nearest_part_is_named():
    first, second = part((-0.5, 0, 0), (0.2, 0.2, 0.2)), part((0.5, 0, 0), (0.2, 0.2, 0.2))
    p = points()
    padded = pack([[first, second]], 6)
    assert padded.op.shape == (1, 6) and (padded.op[0, 2:] == SKIP).all()
    assert padded.trimmed().op.shape == (1, 2)
    value, nearest = distance(p[None], padded, with_part=True)
    torch.testing.assert_close(value[0], of([first, second], p), **EXACT)
    assert torch.equal(nearest[0], (p[:, 0] > 0).long())


def awkward() -> list[list[dict]]:
    """One shape for each setting that moves the outermost point."""
    slanted = turn("z", 35) @ turn("x", 25)
    return [
        [part((0.2, 0.1, 0), (0.5, 0.3, 0.2), rotation=slanted)],
        [part(half=(0.4, 0.5, 0.4), round_section=True, taper=0.3, rotation=slanted)],
        [part(half=(0.4, 0.5, 0.4), round_section=True, taper=-0.2, edge=0.1, rotation=slanted)],
        [part(half=(0.3, 0.3, 0.3), round_section=True, edge=0.3, stretch=(0.5, 1.5, 1.0), rotation=slanted)],
        [part(half=(0.5, 0.3, 0.4), corner=0.2, edge=0.1, rotation=slanted)],
        [part((-0.4, 0, 0), (0.3, 0.2, 0.2)), part((0.5, 0.5, 0), (0.9, 0.1, 0.1), op=SUBTRACT)],
    ]


def test_bounds_hold_the_shape_tightly():
    shapes = pack(awkward())
    axis = torch.linspace(-1, 1, 81)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    low, high = bounds(shapes)
    for index, values in enumerate(distance(grid.expand(len(shapes), -1, -1), shapes)):
        near = grid[values < 0.0]
        # A rounded rim beside a slanted wall sticks out by a little: (1 / cos(slant) - 1) * edge, here 0.005.
        assert (near >= low[index] - 0.006).all() and (near <= high[index] + 0.006).all()
        touching = grid[values <= 0.025]  # one grid step outside: some of these reach the sides
        assert (touching.amin(0) <= low[index] + 0.01).all() and (touching.amax(0) >= high[index] - 0.01).all()


def test_normalisation_centres_and_scales_without_changing_the_shape():
    shapes = pack(awkward())
    scaled = normalized(shapes)
    low, high = bounds(scaled)
    torch.testing.assert_close((high - low).amax(1), torch.full((len(shapes),), 1.9), rtol=0, atol=1e-5)
    torch.testing.assert_close(low + high, torch.zeros(len(shapes), 3), rtol=0, atol=1e-5)
    before = bounds(shapes)
    scale = 1.9 / (before[1] - before[0]).amax(1)
    p = points().expand(len(shapes), -1, -1)
    back = p / scale[:, None, None] + ((before[0] + before[1]) / 2)[:, None]
    torch.testing.assert_close(distance(p, scaled), distance(back, shapes) * scale[:, None], rtol=0, atol=1e-5)


def test_a_shape_without_parts_or_with_too_many_is_our_mistake():
    for shape, most in (([], 2), ([part()] * 3, 2)):
        with pytest.raises(AssertionError, match="no parts or more than 2"):
            pack([shape], most)


def test_beams_run_from_end_to_end():
    start, end = (-0.5, 0.2, 0.1), (0.4, -0.3, 0.6)
    beam = built(lambda b: b.beam(start, end, 0.1))
    ends = torch.tensor([start, end])
    length = math.dist(start, end)
    torch.testing.assert_close(of(beam, ends), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(of(beam, ends.mean(0, keepdim=True)), torch.tensor([-0.1]), rtol=0, atol=1e-5)
    assert length > 0.2

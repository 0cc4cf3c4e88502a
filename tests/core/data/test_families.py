"""Every family, trained or left out: its members are solids inside the world with a usable distance."""

import numpy as np
import torch

from core.data.families import LEFT_OUT, TRAINED, make_shape
from core.data.parts import Parts, distance, normalized, pack
from core.data.pool import MAX_PARTS, cell_centers, draw_shapes

MEMBERS = 3  # of each family
STEEPEST = 1.35  # the renderer steps 0.92 of the distance and survives this much
NAMES = [*TRAINED, *LEFT_OUT]


def members() -> Parts:
    rng = np.random.default_rng(11)
    return normalized(pack([make_shape(name, rng) for name in NAMES for _ in range(MEMBERS)], MAX_PARTS)).trimmed()


def failing(bad: torch.Tensor) -> set[str]:
    """Names of the families of the members where ``bad [B]`` holds."""
    return {NAMES[index // MEMBERS] for index in bad.nonzero()[:, 0].tolist()}


def test_trained_and_left_out_families_share_nothing():
    assert not set(TRAINED) & set(LEFT_OUT)
    assert not set(TRAINED.values()) & set(LEFT_OUT.values())
    assert len(TRAINED) >= 40 and len(LEFT_OUT) >= 4


def test_members_are_solids_inside_the_world():
    shapes = members()
    centers = cell_centers(24)
    inside = (distance(centers.expand(len(shapes), -1, -1), shapes) < 0).sum(1)
    assert not failing(inside < 8)
    on_faces = cell_centers(12)
    on_faces = torch.cat([on_faces.index_fill(1, torch.tensor(axis), side) for axis in range(3) for side in (-1, 1)])
    outside = distance(on_faces.expand(len(shapes), -1, -1), shapes)
    assert not failing((outside <= 0).any(1))


def test_the_distance_is_not_too_steep():
    shapes, generator = members(), torch.Generator().manual_seed(0)
    start = torch.rand(len(shapes), 1500, 3, generator=generator) * 2 - 1
    step = torch.nn.functional.normalize(torch.randn(start.shape, generator=generator), dim=-1) * 0.03
    slope = (distance(start + step, shapes) - distance(start, shapes)).abs() / 0.03
    assert not failing(slope.amax(1) > STEEPEST)


def test_members_of_a_family_differ_and_a_seed_repeats_them():
    first, family = draw_shapes(3 * len(TRAINED), 5)
    again, _ = draw_shapes(3 * len(TRAINED), 5)
    other, _ = draw_shapes(3 * len(TRAINED), 6)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert not torch.equal(first.center, other.center)
    assert torch.equal(family.bincount(), torch.full((len(TRAINED),), 3))
    rows = (family == 0).nonzero()[:, 0]
    assert not torch.equal(first.half[rows[0]], first.half[rows[1]])


def test_left_out_shapes_are_drawn_on_request():
    shapes, family = draw_shapes(8, 0, left_out=True)
    assert len(shapes) == 8 and set(family.tolist()) == set(range(len(LEFT_OUT)))


def test_shapes_stand_upright():
    """A castle's towers are at its top, in +Y; a chair's back is behind its seat, in -Z."""
    rng = np.random.default_rng(0)
    castle, chair = (normalized(pack([make_shape(name, rng)])) for name in ("castle", "chair"))
    p = cell_centers(24)
    solid = p[distance(p[None], castle)[0] < 0]
    assert (solid[:, 1] < 0).sum() > 1.5 * (solid[:, 1] > 0).sum()
    solid = p[distance(p[None], chair)[0] < 0]
    assert solid[solid[:, 1] > 0.3][:, 2].mean() < 0

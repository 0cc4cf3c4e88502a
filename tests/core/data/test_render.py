"""Pictures against masks made another way: by projecting the points of the solids.

Letters: B views, S pixels per side.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.data.parts import SUBTRACT, Parts, distance, normalized, pack, part
from core.data.render import MARGIN, Views, on_white, random_views, render
from core.imaging.preprocess import RELEASE_MARGIN, RELEASE_SIZE

S = 64
PREPASS = 3.0  # pixels of S: the frame is found on 40 pixels, of which a shape takes at least 20


def shapes() -> Parts:
    red = (0.9, 0.1, 0.1)
    return normalized(
        pack(
            [
                [part(half=(0.5, 0.9, 0.3), color=red)],
                [part(half=(0.6, 0.6, 0.6), round_section=True, edge=0.6, color=red)],
                [
                    part((0, -0.4, 0), (0.7, 0.3, 0.4), color=red),
                    part((0.4, 0.4, 0), (0.2, 0.6, 0.2), round_section=True, taper=0.1, color=red),
                    part((-0.3, -0.4, 0), (0.2, 0.15, 1.0), op=SUBTRACT),
                ],
            ]
        )
    )


def views(batch: int = 3, seed: int = 2) -> Views:
    """Frames without jitter, surfaces without texture."""
    return random_views(batch, torch.Generator().manual_seed(seed), jitter=0.0, textured=0.0)


def projected_masks(parts: Parts, seen: Views, size: int) -> Tensor:
    """Which pixels the solids' points fall on, in a frame cut as the pipeline cuts pictures: [B, S, S] bool."""
    axis = torch.linspace(-0.97, 0.97, 110)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    masks = torch.zeros(len(parts), size, size, dtype=torch.bool)
    for b, values in enumerate(distance(grid.expand(len(parts), -1, -1), parts)):
        local = (grid[values < 0] - seen.eye[b]) @ seen.axes[b].T
        plane = local[:, :2] / local[:, 2:] * torch.tensor([1.0, -1.0])  # right, down
        low, high = plane.amin(0), plane.amax(0)
        half = (high - low).amax() / 2 * (1 + 2 * MARGIN)
        pixel = (((plane - (low + high) / 2) / half + 1) / 2 * size).long().clamp(0, size - 1)
        masks[b, pixel[:, 1], pixel[:, 0]] = True
    return masks


def box_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """First and last covered (row, column) of mask [S, S]."""
    rows, columns = mask.nonzero().unbind(1)
    return torch.stack([rows.amin(), columns.amin()]), torch.stack([rows.amax(), columns.amax()])


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return render(shapes(), views(), S)


def test_alpha_covers_the_projected_solid(pictures):
    masks = projected_masks(shapes(), views(), S)
    covered = pictures[:, 3] > 0.5
    iou = (masks & covered).sum((1, 2)) / (masks | covered).sum((1, 2))
    # A frame that is one prepass pixel too large scales the picture by 3 / 64, its area by 9 %.
    assert (iou > 0.85).all(), iou
    inner = torch.nn.functional.avg_pool2d(masks.float()[:, None], 7, 1, 3)[:, 0] == 1  # 3 pixels from the outline
    assert (pictures[:, 3][inner] == 1).float().mean() > 0.99


def test_the_object_fills_the_frame_but_for_the_margin_of_preprocessing(pictures):
    assert pytest.approx(RELEASE_MARGIN / RELEASE_SIZE) == MARGIN
    for alpha in pictures[:, 3]:
        low, high = box_of(alpha > 0)
        assert (high - low + 1).amax() == pytest.approx(S / (1 + 2 * MARGIN), abs=PREPASS + 1)
        assert ((low + high + 1) / 2 - S / 2).abs().amax() <= PREPASS / 2 + 0.5


def test_colours_are_straight_and_in_range(pictures):
    assert pictures.amin() >= 0 and pictures.amax() <= 1
    red, edge = pictures[:, 0], (pictures[:, 3] > 0) & (pictures[:, 3] < 1)
    assert edge.any()
    assert red[edge].mean() > 0.7 * red[pictures[:, 3] == 1].mean()  # not darkened by their alpha
    solid = pictures[:, :, :][:, :3].movedim(1, -1)[pictures[:, 3] == 1]
    assert (solid[:, 0] > solid[:, 1]).float().mean() > 0.95


def test_on_white():
    rgba = torch.tensor([0.2, 0.4, 0.6, 0.25]).view(1, 4, 1, 1)
    torch.testing.assert_close(on_white(rgba).flatten(), torch.tensor([0.8, 0.85, 0.9]))


def test_a_seed_repeats_pictures(pictures):
    assert torch.equal(render(shapes(), views(), S), pictures)
    assert not torch.equal(render(shapes(), views(seed=3), S), pictures)


def test_a_mirrored_scene_gives_the_mirrored_picture(pictures):
    """The training tasks mirror pictures and fields instead of drawing mirrored shapes."""
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    parts, seen = shapes(), views()
    flipped = replace(parts, center=parts.center * mirror, rotation=parts.rotation * mirror)
    axes = seen.axes * mirror * torch.tensor([-1.0, 1.0, 1.0])[:, None]  # right stays right in the picture
    across = replace(seen, eye=seen.eye * mirror, axes=axes, light=seen.light * mirror)
    mirrored = render(flipped, across, S).flip(3)
    assert (mirrored - pictures)[:, 3].abs().mean() < 1e-3
    # Normals come from a tetrahedron, which is no mirror image of itself: colours differ along sharp edges.
    assert (mirrored - pictures).abs().mean() < 5e-3
    assert (pictures.flip(3) - pictures).abs().mean() > 5e-2


def test_cameras_look_at_the_front_from_a_little_above():
    seen = random_views(300, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen.axes @ seen.axes.mT, torch.eye(3).expand(300, 3, 3), rtol=0, atol=1e-5)
    assert (seen.axes[:, 1, 1] > 0).all() and (seen.eye[:, 2] > 0).all()
    toward = torch.nn.functional.normalize(-seen.eye, dim=1)
    torch.testing.assert_close(toward, seen.axes[:, 2], rtol=0, atol=1e-5)
    assert (seen.eye[:, 1] > 0).float().mean() > 0.7


def test_jitter_moves_the_frame():
    still = views()
    moved = replace(still, jitter=torch.tensor([[0.0, 0.05, 0.0]]).expand(3, 3))
    low, high = box_of(render(shapes(), still, S)[0, 3] > 0.5)
    low_moved, high_moved = box_of(render(shapes(), moved, S)[0, 3] > 0.5)
    shift = ((low_moved + high_moved) - (low + high)).float() / 2
    assert shift[1] == pytest.approx(-0.05 * S / 2, abs=1.01) and abs(shift[0]) <= 1

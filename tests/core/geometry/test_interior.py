"""What the flood reaches: equal to a flood of the dense grid, through narrow mouths, not into closed rooms."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from core.geometry.components import face_components
from core.geometry.interior import flood_outside
from core.geometry.isosurface import extract_field, extract_surface
from tests.support.solids import grid_positions, sphere


def cells_of_band(field: np.ndarray, cell: int, half_width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """All voxels of the cells that have one nearer than half_width, as a decoder gives them, values in -1..1."""
    near = np.abs(field) < half_width
    cells = np.unique(np.argwhere(near) // cell, axis=0)
    inside = np.argwhere(np.ones((cell,) * 3))
    coords = (cells[:, None] * cell + inside).reshape(-1, 3)
    values = np.clip(field[tuple(coords.T)] / half_width, -1, 1)
    return torch.from_numpy(coords).int(), torch.from_numpy(values).float()


def dense_flood(coords: torch.Tensor, values: torch.Tensor, resolution: int, level: float) -> np.ndarray:
    """The definition: outside is what hangs together with the border of the grid."""
    grid = np.full((resolution,) * 3, np.nan)
    grid[tuple(coords.numpy().T)] = values
    missing = ~np.isfinite(grid)
    passable = np.pad(missing | (grid > level), 1, constant_values=True)
    reached = (label(passable)[0] == label(passable)[0][0, 0, 0])[1:-1, 1:-1, 1:-1]
    filled = np.where(missing, np.where(reached, 1.0, -1.0), grid)
    return np.where(~missing & (grid > level) & ~reached, -1.0, filled).astype(np.float32)


@pytest.mark.parametrize("resolution, cell, share", [(32, 4, 0.4), (48, 8, 0.3), (16, 2, 0.6)])
def test_equal_to_the_flood_of_the_dense_grid(resolution, cell, share):
    """Cells at random with smooth noise in them: mazes of rooms and doors; some voxels are missing or not finite."""
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 9, 9, 9), (resolution,) * 3, mode="trilinear")[0, 0]
    held = torch.rand((resolution // cell,) * 3) < share
    for axis in range(3):
        held = held.repeat_interleave(cell, axis)
    held &= torch.rand(held.shape) < 0.98
    coords = held.nonzero().int()
    values = smooth[held] - 0.3
    values[::50] = float("nan")
    field = flood_outside(coords, values, resolution, cell, 0.1)
    expected = dense_flood(coords, values, resolution, 0.1)
    assert (expected == -1).any() and (expected == 1).any()
    np.testing.assert_array_equal(field.dense().numpy(), expected)


def test_a_ball_has_one_surface_and_keeps_it():
    field = sphere(grid_positions(64))
    coords, values = cells_of_band(field, 8, 0.1)
    kept, flooded = (
        extract_surface(coords, values, 64, outside=1.0),
        extract_field(flood_outside(coords, values, 64, 8)),
    )
    assert face_components(kept)[0] > face_components(flooded)[0] == 1
    assert flooded.is_watertight() and flooded.volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)


def bottle(position: np.ndarray, mouth: float) -> np.ndarray:
    """About the distance to a shell around a room, with a hole of this radius at the top."""
    shell = np.abs(sphere(position, 0.6)) - 0.1
    return np.maximum(shell, np.where(position[..., 1] > 0, mouth - np.hypot(position[..., 0], position[..., 2]), -1))


def test_a_room_with_a_mouth_narrower_than_the_band_is_outside():
    coords, values = cells_of_band(bottle(grid_positions(96), 0.12), 8, 0.08)
    empty = np.ones((12,) * 3, bool)
    empty[tuple((coords.numpy() // 8).T)] = False
    assert label(np.pad(empty, 1, constant_values=True))[1] > 1  # the room and the outside hang together by voxels
    mesh = extract_field(flood_outside(coords, values, 96, 8))
    middle = np.linalg.norm(mesh.vertices, axis=1)
    assert (middle < 0.52).any() and mesh.is_watertight()
    wall = 4 / 3 * np.pi * (0.7**3 - 0.5**3)
    assert mesh.volume == pytest.approx(wall, rel=0.06)  # but for the mouth


def test_a_closed_room_is_filled():
    coords, values = cells_of_band(bottle(grid_positions(64), 0.0), 8, 0.08)
    mesh = extract_field(flood_outside(coords, values, 64, 8))
    assert face_components(mesh)[0] == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.02)

"""What passes between stages: thresholds, grids, blocks, dense fields, meshes."""

import numpy as np
import pytest
import torch

from core.errors import ConfigError, NoSurfaceError
from core.geometry.components import face_components
from core.geometry.isosurface import extract_field, extract_surface
from core.pipeline.hand_over import Structure, in_blocks, mesh_to_cells, occupied_cells, on_grid, unrefined_field
from core.sparse.refined_field import crossing_voxels
from core.sparse.tensor import SparseTensor
from tests.support.tiny_presets import TINY_REFINED, TINY_TWO


def ball(resolution: int, radius: float) -> torch.Tensor:
    """Signed distance of a ball in the middle, [R, R, R], in voxels."""
    axis = torch.arange(resolution) - (resolution - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) - radius


def test_occupied_cells_are_those_at_the_threshold_or_above():
    probability = torch.zeros(2, 4, 4, 4)
    probability[0, 1, 2, 3] = 0.5
    probability[1, 3, 0, 0] = 0.9
    probability[1, 3, 0, 1] = 0.49
    coords, threshold = occupied_cells(probability, 0.5)
    assert coords.tolist() == [[0, 1, 2, 3], [1, 3, 0, 0]]
    assert coords.dtype == torch.int32 and threshold == 0.5


def test_a_faint_structure_lowers_the_threshold_step_by_step():
    probability = torch.full((1, 2, 2, 2), 0.01)
    probability[0, 1, 1, 1] = 0.2
    coords, threshold = occupied_cells(probability, 0.5)
    assert coords.tolist() == [[0, 1, 1, 1]]
    assert threshold == pytest.approx(0.125)


def test_an_empty_structure_says_what_to_do():
    with pytest.raises(NoSurfaceError, match="another seed"):
        occupied_cells(torch.full((1, 2, 2, 2), 0.01), 0.5)


def test_grids_that_differ_by_a_factor():
    coords = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 3, 3, 3]], dtype=torch.int32)
    assert on_grid(coords, 4, 4) is coords
    assert on_grid(coords, 4, 2).tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    finer = on_grid(coords, 4, 8)
    assert len(finer) == 3 * 8
    assert torch.equal(torch.unique(finer // 2, dim=0), coords)
    with pytest.raises(ConfigError, match="multiple"):
        on_grid(coords, 4, 6)


def test_too_many_tokens_are_refused_with_the_number():
    stage = TINY_TWO.sparse[0]
    coords = torch.nn.functional.pad(torch.cartesian_prod(*[torch.arange(5)] * 3), (1, 0)).int()
    assert len(in_blocks(coords, stage, 125)) == 125
    with pytest.raises(ConfigError, match=r"125 tokens.*at most 124"):
        in_blocks(coords, stage, 124)


@pytest.mark.parametrize("resolution, radius", [(20, 6.3), (70, 29.0)])  # one slab, several
def test_a_dense_field_gives_the_surface_of_the_whole_grid(resolution, radius):
    field = ball(resolution, radius)
    coords, values = crossing_voxels(field, 0.25)
    assert len(coords) < 0.5 * field.numel()
    everywhere = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    some = extract_surface(coords, values, resolution, 0.25)
    full = extract_surface(everywhere, field.reshape(-1), resolution, 0.25)
    assert some.is_watertight()
    np.testing.assert_array_equal(some.vertices, full.vertices)
    np.testing.assert_array_equal(some.faces, full.faces)


def test_the_structure_as_a_mesh_is_closed_and_has_the_volume_of_its_cells():
    coords = torch.nonzero(ball(8, 3.2) < 0).numpy().astype(np.int32)
    mesh = Structure(coords, 8).mesh()
    assert mesh.is_watertight()
    assert mesh.volume == pytest.approx(len(coords) / 4**3)  # a cell is 2 / 8 wide
    center = (coords.mean(0) + 0.5) / 8 * 2 - 1
    np.testing.assert_allclose(mesh.bounds.mean(0), center, atol=1e-6)


def test_a_mesh_becomes_cells_of_the_next_stage_whatever_its_size():
    stage = TINY_TWO.sparse[1]
    coords = torch.cartesian_prod(*[torch.arange(32)] * 3)
    mesh = extract_surface(coords, ball(32, 8.0).reshape(-1), 32)
    cells = mesh_to_cells(mesh, stage, torch.device("cpu"))
    assert cells.shape[1] == 4 and cells.dtype == torch.int32 and not cells[:, 0].any()
    assert cells[:, 1:].amin() == 0 and cells[:, 1:].amax() == 15  # 0.95 of 16 cells
    twice = type(mesh)(mesh.vertices * 0.4 + 0.3, mesh.faces)
    assert torch.equal(mesh_to_cells(twice, stage, torch.device("cpu")), cells)
    distance = ((cells[:, 1:] + 0.5) / 16 * 2 - 1).norm(dim=1)
    assert bool(((distance - 0.95).abs() < 0.16).all())  # half a diagonal of a cell and the band


def shell_of_voxels(stage) -> SparseTensor:
    """The band of a ball as the decoder gives it: whole latent cells, values in -1..1, no voxels elsewhere."""
    cell = stage.vae.upsampling
    field = ball(stage.resolution, 0.35 * stage.resolution) / cell
    cells = (field.abs() < 1).nonzero().div(cell, rounding_mode="floor").unique(dim=0)
    coords = (cells[:, None] * cell + torch.cartesian_prod(*[torch.arange(cell)] * 3)).reshape(-1, 3)
    values = field[tuple(coords.unbind(1))].clamp(-1, 1)
    return SparseTensor(values[:, None], torch.nn.functional.pad(coords, (1, 0)).int())


@pytest.mark.parametrize("interior, parts", [("sign", 1), ("flood", 1), ("keep", 2)])
@pytest.mark.parametrize("preset", [TINY_TWO, TINY_REFINED])
def test_the_inside_of_a_band(preset, interior, parts):
    stage = preset.sparse[1]
    sdf = shell_of_voxels(stage)
    mesh = extract_field(unrefined_field(sdf, stage, 0.1, interior), 0.1)
    assert mesh.is_watertight() and mesh.volume > 0
    assert (face_components(mesh)[0] > 1) == (parts > 1)
    if interior == "keep":  # as the release: everything missing is 1
        expected = extract_surface(sdf.coords[:, 1:], sdf.feats, stage.resolution, 0.1, outside=1.0)
        np.testing.assert_array_equal(mesh.vertices, expected.vertices)


def test_the_flood_fills_in_where_a_gap_would_let_it_in():
    """A missing cell of a band without a refiner is closed before the flood comes."""
    stage = TINY_TWO.sparse[1]
    sdf = shell_of_voxels(stage)
    cells = sdf.coords[:, 1:] // stage.vae.upsampling
    kept = ~(cells == cells[len(cells) // 2]).all(1)
    pierced = SparseTensor(sdf.feats[kept], sdf.coords[kept])
    mesh = extract_field(unrefined_field(pierced, stage, 0.0, "flood"), 0.0)
    assert face_components(mesh)[0] == 1 and mesh.is_watertight()
    whole = extract_field(unrefined_field(sdf, stage, 0.0, "flood"), 0.0)
    assert mesh.volume == pytest.approx(whole.volume, rel=0.02)

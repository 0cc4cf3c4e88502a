"""Surfaces, hand-over and refiners on a GPU give what they give on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.config.models import RefinerConfig
from core.geometry.interior import flood_outside
from core.geometry.isosurface import extract_field, extract_surface
from core.geometry.voxelize import latent_coords
from core.models.refiner import SDFRefiner, SignRefiner
from core.sparse.refined_field import FarField, RefinedField
from core.sparse.tensor import SparseTensor
from tests.support.solids import band, grid_positions, torus

pytestmark = pytest.mark.gpu

SMALL = {"block_channels": (4, 4, 8), "layers_per_block": 1, "layers_mid_block": 1}
SDF = RefinerConfig(kind="sdf", resolution=20, patch_size=12, patch_stride=8, feature_channels=6, **SMALL)


def assert_same(mesh, expected):
    np.testing.assert_array_equal(mesh.faces, expected.faces)
    np.testing.assert_allclose(mesh.vertices, expected.vertices, atol=1e-6)


def test_the_surface_of_noise_and_of_a_far_field():
    coords, values = torch.cartesian_prod(*[torch.arange(35)] * 3), torch.randn(35**3)
    assert_same(extract_surface(coords.cuda(), values.cuda(), 35, 0.1), extract_surface(coords, values, 35, 0.1))
    far = FarField(torch.rand(24, 24, 24) > 0.5, 2)
    field = RefinedField((torch.rand(48, 48, 48) < 0.02).nonzero().int(), torch.randn(0), 48, far)
    field = replace(field, values=torch.rand(len(field.coords)) * 2 - 1)
    moved = RefinedField(field.coords.cuda(), field.values.cuda(), 48, far.to("cuda"))
    assert_same(extract_field(moved), extract_field(field))


def test_hand_over_and_flood():
    coords, values = band(torus(grid_positions(64)), 0.2)
    mesh = extract_surface(coords, values, 64)
    np.testing.assert_array_equal(latent_coords(mesh, 256, device="cuda"), latent_coords(mesh, 256))
    tensors = torch.from_numpy(coords), torch.from_numpy(values)
    host = flood_outside(*tensors, 64, 8)
    device = flood_outside(*(x.cuda() for x in tensors), 64, 8)
    assert torch.equal(device.far.outside.cpu(), host.far.outside)
    assert_same(extract_field(device), extract_field(host))


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-3), (torch.float16, 3e-2)])
def test_refiners(dtype, limit):
    coords = torch.nn.functional.pad((torch.rand(20, 20, 20) < 0.1).nonzero(), (1, 0)).int()
    sdf = SparseTensor(torch.rand(len(coords), 1) * 2 - 1, coords)
    feats = sdf.replace(torch.randn(len(coords), 6))
    model = SDFRefiner(SDF)
    expected = model.refine(sdf, feats, memory_budget=0)
    model.to("cuda", dtype)
    out = model.refine(sdf.to("cuda"), feats.to("cuda"), memory_budget=0).cpu()
    assert (out - expected).norm() < limit * expected.norm() + 1e-3
    sign = SignRefiner(replace(SDF, kind="sign")).cuda()
    field = sign.refine_at(0.0, sdf.to("cuda"))[0]
    assert field.far.outside.is_cuda and torch.equal(field.values.cpu(), sdf.feats[:, 0])

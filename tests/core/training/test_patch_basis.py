"""The dense latent space: principal components of patches, cell by cell."""

import torch

from core.training.patch_basis import PatchBasis
from tests.support.training import tiny_pool


def test_all_components_keep_all_of_the_field():
    pool = tiny_pool()
    basis = PatchBasis.fit(pool, 8, 2)
    latent = basis.encode(pool.field)
    assert latent.shape == (len(pool), 8, 4, 4, 4)
    scale = basis.rows.norm(dim=1)[0]
    patches = latent.permute(0, 2, 3, 4, 1) @ (basis.rows / scale**2) + basis.mean
    cell = patches[1, 2, 0, 3].view(2, 2, 2)
    torch.testing.assert_close(cell, pool.field[1, 4:6, 0:2, 6:8].float() / 127, rtol=0, atol=1e-4)


def test_components_are_orthogonal_of_falling_weight_and_of_unit_size_on_average():
    pool = tiny_pool()
    basis = PatchBasis.fit(pool, 3, 2)
    gram = basis.rows @ basis.rows.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(3), rtol=0, atol=1e-4)
    spread = basis.encode(pool.field).var((0, 2, 3, 4), correction=0)
    assert (spread.diff() <= 1e-4).all()
    torch.testing.assert_close(spread.mean(), torch.tensor(1.0), rtol=0, atol=1e-3)


def test_a_mean_of_latents_is_the_latent_of_the_mean():
    basis = PatchBasis.fit(tiny_pool(), 2, 2)
    fields = torch.randint(-63, 64, (2, 8, 8, 8), dtype=torch.int8)
    middle = fields.float().mean(0, keepdim=True)
    torch.testing.assert_close(basis.encode(middle), basis.encode(fields).mean(0, keepdim=True), rtol=0, atol=1e-4)


def test_saving_and_loading(tmp_path):
    basis = PatchBasis.fit(tiny_pool(), 2, 2)
    basis.save(tmp_path / "basis.safetensors")
    loaded = PatchBasis.load(tmp_path / "basis.safetensors", "cpu")
    assert loaded.factor == 2
    assert torch.equal(loaded.mean, basis.mean) and torch.equal(loaded.rows, basis.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["basis.safetensors"]

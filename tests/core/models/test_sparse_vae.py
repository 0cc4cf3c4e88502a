"""Sparse SDF VAE: the authors' values, chunks that change nothing, dtypes, gradients, and inputs at the edges."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.cli.parity_cases import run_file
from core.config.models import SparseVAEConfig
from core.config.presets import V1_1
from core.errors import ConfigError, GenerationCancelled, InputError
from core.models.posterior import DiagonalGaussian
from core.models.sparse_decoder import receptive_latents
from core.models.sparse_vae import SparseSDFVAE
from core.nn.precision import set_compute_dtype
from core.sparse.tensor import SparseTensor
from tests.support.voxels import random_tensor

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = SparseVAEConfig(
    latent_channels=4,
    resolution=32,
    encoder_width=24,
    encoder_channels=(8, 8, 16),
    encoder_blocks=2,
    encoder_heads=2,
    encoder_head_dim=8,
    decoder_width=24,
    decoder_channels=(16, 16),
    decoder_blocks=2,
    decoder_heads=2,
    decoder_head_dim=8,
    norm_groups=4,
    latent_scale=2.0,
    latent_shift=(0.1, 0.2, 0.3, 0.4),
)


@pytest.fixture
def vae():
    model = SparseSDFVAE(CONFIG).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("kernel"):  # fresh weights let little through: every convolution must show in the output
            torch.nn.init.normal_(parameter, std=(parameter.numel() / parameter.shape[-1]) ** -0.5)
    return model


def same_up_to_rounding(ours: torch.Tensor, theirs: torch.Tensor):
    """Equal to the bit where the matrix product rounds a row alike whatever the others; 1e-6 allows for the rest."""
    torch.testing.assert_close(ours, theirs, atol=1e-6 * float(theirs.abs().max()), rtol=0)


@torch.no_grad()
def test_the_authors_values():
    (path,) = GOLDEN.glob("sparse_sdf_vae_small.safetensors*")
    for comparison in run_file(path):
        assert comparison.error < 1e-5, comparison


@pytest.mark.parametrize("resolution", [512, 1024])
def test_keys_and_shapes_of_the_release(resolution):
    theirs = json.loads(gzip.decompress((GOLDEN / "keys_v1_1.json.gz").read_bytes()))[f"sparse_vae_{resolution}"]
    with torch.device("meta"):
        model = SparseSDFVAE(V1_1.networks()[f"sparse_vae_{resolution}"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == theirs


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [2, 3, 32])
def test_chunks_change_nothing(vae, chunk_size):
    z = random_tensor(300, 32, channels=4)
    whole, whole_feats = vae.decode(z, return_feats=True)
    calls = []
    sdf, feats = vae.decode(
        z, return_feats=True, chunk_size=chunk_size, on_chunk=lambda done, total: calls.append((done, total))
    )
    assert torch.equal(sdf.coords, whole.coords)
    same_up_to_rounding(sdf.feats, whole.feats)
    same_up_to_rounding(feats.feats, whole_feats.feats)
    assert len(sdf.coords.unique(dim=0)) == z.num_voxels * 64, "a voxel twice"
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))] and len(calls) > 1


@torch.no_grad()
def test_the_configured_chunks_are_the_default(vae):
    chunked = SparseSDFVAE(replace(CONFIG, chunk_size=2)).eval()
    chunked.load_state_dict(vae.state_dict())
    z, totals = random_tensor(200, 32, channels=4), []
    sdf = chunked.decode(z, on_chunk=lambda _, total: totals.append(total))
    assert len(totals) > 1
    same_up_to_rounding(sdf.feats, vae.decode(z).feats)
    vae.decode(z, on_chunk=lambda *_: totals.clear())
    assert not totals, "the unchunked decoder reports too"


def test_a_margin_below_the_reach_is_refused():
    assert receptive_latents(3) == 3  # 21 of 8 voxels each
    with pytest.raises(ConfigError, match="needs at least 3"):
        SparseSDFVAE(replace(CONFIG, chunk_padding=2))


def test_cancelling_between_chunks(vae):
    def cancel(done, total):
        raise GenerationCancelled("stopped")

    with pytest.raises(GenerationCancelled), torch.no_grad():
        vae.decode(random_tensor(50, 32, channels=4), chunk_size=2, on_chunk=cancel)


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(vae):
    z = random_tensor(200, 32, channels=4)
    both = vae.decode(z)
    for b in range(2):
        torch.testing.assert_close(vae.decode(z.sample(b)).feats, both.sample(b).feats)
    x = random_tensor(900, 128, channels=1)
    mean = vae.encode(x).mean
    for b in range(2):
        torch.testing.assert_close(vae.encode(x.sample(b)).mean.feats, mean.sample(b).feats, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_latents_are_normalised_outside_only(vae):
    plain = SparseSDFVAE(replace(CONFIG, latent_scale=1.0, latent_shift=0.0)).eval()
    plain.load_state_dict(vae.state_dict())
    z = random_tensor(50, 32, channels=4)
    torch.testing.assert_close(vae.denormalize(vae.normalize(z.feats)), z.feats)
    torch.testing.assert_close(vae.decode(z.replace(vae.normalize(z.feats))).feats, plain.decode(z).feats)


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision(vae, dtype, tolerance):
    x, z = random_tensor(500, 64, channels=1), random_tensor(100, 32, channels=4)
    mean, sdf = vae.encode(x).mean.feats, vae.decode(z).feats
    set_compute_dtype(vae, dtype)
    half_sdf, feats = vae.decode(z.to(dtype=dtype), return_feats=True)
    assert half_sdf.dtype == torch.float32 and feats.dtype == dtype and vae.encode(x).mean.dtype == torch.float32
    assert (vae.encode(x).mean.feats - mean).norm() < tolerance * mean.norm()
    assert (half_sdf.feats - sdf).norm() < tolerance * sdf.norm()


@torch.no_grad()
def test_edges(vae):
    none = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32))
    for chunk_size in (1, 2):
        sdf, feats = vae.decode(none, return_feats=True, chunk_size=chunk_size)
        assert sdf.feats.shape == (0, 1) and feats.feats.shape == (0, 16)
    with pytest.raises(InputError, match="no voxels to encode"):
        vae.encode(none.replace(torch.zeros(0, 1)))
    one = SparseTensor(torch.ones(1, 4), torch.tensor([[0, 31, 31, 31]], dtype=torch.int32))
    assert vae.decode(one, chunk_size=4).num_voxels == 64
    assert vae.encode(one.replace(torch.ones(1))).mean.coords.tolist() == [[0, 7, 7, 7]]
    outside = SparseTensor(torch.ones(1, 4), torch.tensor([[0, 32, 0, 0]], dtype=torch.int32))
    with pytest.raises(InputError, match="outside the model's grid of side 32"):
        vae.decode(outside)
    assert vae.decode(outside, position_scale=0.5).num_voxels == 64
    with pytest.raises(AssertionError, match="latents"):
        vae.decode(one.replace(torch.ones(1, 3)))


def test_every_parameter_learns(vae):
    x = random_tensor(300, 64, channels=1)
    sdf, posterior = vae.train()(x, torch.Generator().manual_seed(0))
    (sdf.feats.square().mean() + posterior.kl().mean()).backward()
    still = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_chunked_gradients_are_those_of_the_whole(vae):
    z = random_tensor(100, 32, channels=4)
    grads = []
    for chunk_size in (1, 2):
        feats = z.feats.clone().requires_grad_()
        vae.decode(z.replace(feats), chunk_size=chunk_size).feats.square().sum().backward()
        grads.append(feats.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_posterior():
    mean, logvar = torch.randn(6, 3), torch.randn(6, 3)
    posterior = DiagonalGaussian(mean, logvar)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), expected.sum(1))
    torch.testing.assert_close(posterior.kl((0, 1)), expected.sum())
    draws = [posterior.sample(torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws) and torch.equal(posterior.mode(), mean)
    extreme = DiagonalGaussian(mean, torch.full_like(mean, 1e4))
    assert extreme.logvar.max() == 20 and extreme.sample().isfinite().all()

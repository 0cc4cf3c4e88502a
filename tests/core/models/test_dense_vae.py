"""Dense VAE: shapes for several channels, pixel shuffle order, normalisation, sampling, gradients."""

from dataclasses import replace

import pytest
import torch

from core.config.models import DenseVAEConfig
from core.models.dense_vae import DenseShapeVAE, pixel_shuffle_3d
from core.nn.precision import set_compute_dtype

CONFIG = DenseVAEConfig(
    latent_channels=3,
    encoder_channels=(4, 6, 8),
    decoder_channels=(8, 6, 4),
    in_channels=2,
    out_channels=2,
    encoder_res_blocks=1,
    encoder_middle_blocks=1,
    decoder_res_blocks=1,
    decoder_middle_blocks=1,
)


def occupancy(batch: int = 2):
    return (torch.rand(batch, 2, 8, 8, 8) > 0.5).float()


def test_pixel_shuffle_channel_order():
    x = torch.arange(16.0).reshape(1, 16, 1, 1, 1)
    out = pixel_shuffle_3d(x)
    assert out.shape == (1, 2, 2, 2, 2)
    for dx, dy, dz in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)]:
        assert out[0, 1, dx, dy, dz] == 8 + 4 * dx + 2 * dy + dz


def test_round_trip_shapes():
    model = DenseShapeVAE(CONFIG)
    posterior = model.encode(occupancy())
    assert posterior.mean.shape == posterior.logvar.shape == (2, 3, 2, 2, 2)
    assert model.decode(posterior.mean).shape == (2, 2, 8, 8, 8)


def test_sampling_follows_the_generator():
    model, grid = DenseShapeVAE(CONFIG), occupancy()
    draws = [model.encode(grid, sample=True, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("scale, shift", [(2.0, 0.5), ((1.0, 2.0, 4.0), (0.0, -1.0, 3.0))])
def test_decode_takes_normalised_latents(scale, shift):
    plain = DenseShapeVAE(CONFIG)
    model = DenseShapeVAE(replace(CONFIG, latent_scale=scale, latent_shift=shift))
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.load_state_dict(plain.state_dict())
    raw = torch.randn(2, 3, 2, 2, 2)
    normalised = model.normalize(raw)
    expected = (raw - torch.tensor(shift).reshape(-1, 1, 1, 1)) * torch.tensor(scale).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(normalised, expected)
    torch.testing.assert_close(model.denormalize(normalised), raw)
    torch.testing.assert_close(model.decode(normalised), plain.decode(raw))


def test_every_parameter_learns():
    model = DenseShapeVAE(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    logits, posterior = model(occupancy())
    (logits.square().mean() + posterior.kl().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_half_precision_trunk_with_float32_ends():
    """The release keeps the first and the last layer in float32."""
    model, grid = DenseShapeVAE(CONFIG), occupancy()
    expected = model.encode(grid).mean
    set_compute_dtype(model.encoder.blocks, torch.bfloat16)
    set_compute_dtype(model.encoder.middle_block, torch.bfloat16)
    out = model.encode(grid).mean
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()

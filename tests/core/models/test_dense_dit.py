"""Dense DiT: patch order, timestep and condition matter, dtypes, gradients, checkpointing."""

from dataclasses import replace

import pytest
import torch

from core.config.models import DenseDiTConfig
from core.models.dense_dit import DenseDiT, patchify, unpatchify
from core.nn.precision import set_compute_dtype

CONFIG = DenseDiTConfig(
    resolution=4, latent_channels=3, width=24, cond_width=10, num_blocks=2, num_heads=2, patch_size=2, qk_norm=True
)


def opened(config: DenseDiTConfig) -> DenseDiT:
    """A network whose gates and last layer are not zero."""
    model = DenseDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(batch: int = 2, config: DenseDiTConfig = CONFIG):
    side = config.resolution
    x = torch.randn(batch, config.latent_channels, side, side, side)
    return x, torch.linspace(100, 900, batch), torch.randn(batch, 5, config.cond_width)


def test_patches_round_trip_and_are_row_major():
    x = torch.arange(2 * 3 * 64.0).reshape(2, 3, 4, 4, 4)
    tokens = patchify(x, 2)
    assert torch.equal(unpatchify(tokens, 2), x)
    assert torch.equal(tokens[1, 1], x[1, :, 0:2, 0:2, 2:4].flatten())  # the second patch lies along z


def test_fresh_network_predicts_zero():
    assert DenseDiT(CONFIG)(*inputs()).abs().max() == 0


@pytest.mark.parametrize("shared", [False, True])
def test_samples_of_a_batch_do_not_mix(shared):
    config = replace(CONFIG, shared_modulation=shared)
    model, (x, t, cond) = opened(config), inputs()
    together = model(x, t, cond)
    for sample in range(2):
        rows = slice(sample, sample + 1)
        torch.testing.assert_close(model(x[rows], t[rows], cond[rows]), together[rows], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(x, t + 50, cond), together)
    assert not torch.allclose(model(x, t, torch.zeros_like(cond)), together)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model, (x, t, cond) = opened(replace(CONFIG, qk_norm_cross=True)), inputs()
    expected = model(x, t, cond)
    set_compute_dtype(model, dtype)
    assert model.blocks[0].mlp.mlp[0].weight.dtype == dtype
    assert model.blocks[0].norm2.weight.dtype == model.pos_emb.dtype == torch.float32
    out = model(x.to(dtype), t, cond)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


def test_checkpointing_changes_no_gradient():
    model, (x, t, cond) = opened(CONFIG), inputs()
    gradients = []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(x, t, cond).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_other_number_of_output_channels():
    assert DenseDiT(replace(CONFIG, out_channels=5))(*inputs()).shape == (2, 5, 4, 4, 4)

"""The decoder's estimate of its memory against what it takes, and the chunks that follow from it."""

from dataclasses import replace

import pytest
import torch

from core.config.models import SparseVAEConfig
from core.errors import ConfigError
from core.models.decoder_memory import ConvolutionMemory, chunks_within
from core.models.sparse_decoder import SparseDecoder
from core.models.sparse_vae import SparseSDFVAE
from core.sparse.tensor import SparseTensor
from tests.support.live_memory import LiveMemory
from tests.support.voxels import random_tensor

CONFIG = SparseVAEConfig(
    latent_channels=4,
    resolution=32,
    encoder_width=24,
    encoder_channels=(8, 8, 16),
    encoder_blocks=1,
    encoder_heads=2,
    encoder_head_dim=8,
    decoder_width=24,
    decoder_channels=(16, 16),
    decoder_blocks=1,
    decoder_heads=2,
    decoder_head_dim=8,
    norm_groups=4,
)


def measured(decoder: SparseDecoder, latents: SparseTensor) -> int:
    with LiveMemory() as live:
        decoder._upsample(latents)
    return live.peak


@torch.no_grad()
@pytest.mark.parametrize("n, side", [(300, 16), (2000, 16), (40, 5)])
@pytest.mark.parametrize(
    "width, channels, dtype",
    [(24, (16, 16), torch.float32), (24, (16, 8), torch.float16), (8, (64,), torch.float32)],
)
def test_the_estimate_is_the_peak(n, side, width, channels, dtype):
    ladder = (8,) * (len(channels) + 1)
    config = replace(CONFIG, decoder_width=width, decoder_channels=channels, encoder_channels=ladder)
    decoder = SparseDecoder(config).to(dtype)
    latents = random_tensor(n, side, channels=width).to(dtype=dtype)
    memory = ConvolutionMemory(decoder.ladder, latents.feats.element_size(), latents.device, bricks=False)
    estimate = memory.peak(latents.num_voxels, 2 * (side + 2) ** 3)
    # 15 %: portions of gathered neighbors are rarely full; small inputs: the bookkeeping of a few kilobytes.
    assert estimate / 1.15 - 50_000 <= measured(decoder, latents) <= estimate + 50_000


@torch.no_grad()
def test_chunks_stay_within_the_budget_and_change_nothing(monkeypatch):
    vae = SparseSDFVAE(CONFIG).eval()
    z = random_tensor(1000, 32, channels=4)
    whole, peaks, totals = vae.decode(z), [], []
    upsample = vae.decoder._upsample

    def watched(latents):
        with LiveMemory() as live:
            out = upsample(latents)
        peaks.append(live.peak)
        return out

    monkeypatch.setattr(vae.decoder, "_upsample", watched)
    for budget in (40_000_000, 6_000_000, 2_000_000):
        peaks.clear()
        sdf = vae.decode(z, memory_budget=budget, on_chunk=lambda _, total: totals.append(total))
        assert max(peaks) <= budget
        torch.testing.assert_close(sdf.feats, whole.feats, atol=1e-6, rtol=0)
    assert totals[0] == 1 and 1 < totals[1] < totals[-1], "a smaller budget, more chunks"
    with pytest.raises(ConfigError, match="needs at least"):
        vae.decode(z, memory_budget=300_000)


def test_as_few_chunks_as_the_budget_allows():
    latents = random_tensor(1500, 32).cache
    memory = ConvolutionMemory((24, 16, 16), 4, torch.device("cpu"), bricks=False)

    def needed(side: int) -> int:
        fullest = 0
        for sample in range(2):
            coords = latents.coords[latents.coords[:, 0] == sample][:, 1:]
            for corner in torch.cartesian_prod(*[torch.arange(0, 32, side)] * 3):
                offset = coords - corner
                if ((offset >= 0) & (offset < side)).all(1).any():
                    fullest = max(fullest, int(((offset >= -4) & (offset < side + 4)).all(1).sum()))
        return memory.peak(fullest, (min(side + 8, 32) + 2) ** 3)

    for chunks, side in ((2, 16), (3, 11), (4, 8)):
        assert chunks_within(needed(side), memory, latents, 32, 4) == chunks
        assert chunks_within(needed(side) - 1, memory, latents, 32, 4) > chunks


def test_bricks_take_less():
    released = (512, 128, 64, 32)
    with_maps, on_bricks = (ConvolutionMemory(released, 2, torch.device("cuda"), bricks) for bricks in (False, True))
    assert on_bricks.peak(10_000, 10**6) < 0.6 * with_maps.peak(10_000, 10**6)

"""The decoder on Triton's kernels: the values of the torch path, without a map of any level but the latents'."""

from dataclasses import replace

import pytest
import torch

from core.models.sparse_decoder import SparseDecoder
from core.ops import brick_conv as bricks
from core.ops.backend import Backend, use_backend
from core.sparse import neighbors
from core.sparse.tensor import SparseTensor
from tests.core.models.test_decoder_memory import CONFIG
from tests.support.voxels import random_tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = replace(CONFIG, resolution=4, decoder_width=8, decoder_channels=(6, 5))


@pytest.fixture
def decoder():
    return SparseDecoder(TINY).to(DEVICE).eval()


def upsampled(decoder, latents, backend_used):
    """Distances and features of the convolutions alone."""
    with use_backend(backend_used):
        return decoder._upsample(latents)


def close(ours, theirs):
    assert (ours - theirs).norm() <= 2e-6 * theirs.norm()  # float32 sums in another order


@torch.no_grad()
def test_bricks_give_the_torch_values_without_maps(decoder, monkeypatch):
    latents = random_tensor(4, 2, channels=8).to(DEVICE)
    expected = upsampled(decoder, latents, Backend.TORCH)

    def refuse(parent_map):
        raise AssertionError("a map of a finer level was built")

    monkeypatch.setattr(neighbors, "children_map", refuse)
    monkeypatch.setattr(bricks, "children_map", refuse)
    same = SparseTensor(latents.feats, latents.coords, batch_size=2)  # without what the torch path built
    for ours, theirs in zip(upsampled(decoder, same, Backend.TRITON), expected, strict=True):
        close(ours, theirs)
    with use_backend(Backend.TRITON):
        chunked = decoder._upsample_in_chunks(same, 2, True, None)
    for ours, theirs in zip(chunked, expected, strict=True):
        close(ours, theirs)


def test_gradients_on_kernels_are_those_of_torch(decoder):
    latents = random_tensor(3, 2, channels=8).to(DEVICE)
    gradients = []
    for used in (Backend.TRITON, Backend.TORCH):
        feats = latents.feats.clone().requires_grad_()
        distances, _ = upsampled(decoder, latents.replace(feats), used)
        with use_backend(used):
            gradients.append(torch.autograd.grad(distances.square().sum(), [feats, *decoder.upsample.parameters()]))
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs)

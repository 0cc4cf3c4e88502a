"""Files of seeded random weights for the tiny presets: the real code path in seconds.

What they make is a random lump, not a shape. ``tune`` bends a network before it is saved, so that a test can have
an empty structure or a field without a surface.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from core.checkpoints.load import NetworkStore
from core.checkpoints.store import save_network
from core.config.presets import ModelPreset
from core.models.dense_vae import DenseShapeVAE
from core.models.refiner import SDFRefiner
from core.models.registry import build
from core.models.sparse_vae import SparseSDFVAE
from core.sparse.tensor import SparseTensor

Tune = Callable[[str, nn.Module], None]  # (name of the network, network) -> changed in place


def save_tiny_weights(preset: ModelPreset, models_dir: Path, *, seed: int = 0, tune: Tune | None = None) -> Path:
    """Write random weights of ``preset`` below ``models_dir``; returns the preset's folder."""
    folder = models_dir / preset.name
    with torch.random.fork_rng(devices=[]):
        for number, (name, config) in enumerate(preset.networks().items()):
            torch.manual_seed(1000 * seed + number)
            network = build(config)
            _open(network)
            _centre(network)
            if tune is not None:
                tune(name, network)
            save_network(folder / f"{name}.safetensors", network, config)
    return folder


def tiny_store(preset: ModelPreset, models_dir: Path, **how) -> NetworkStore:
    """The networks of ``preset`` with fresh random weights, on the CPU in float32."""
    return NetworkStore(preset, save_tiny_weights(preset, models_dir, **how))


def _open(network: nn.Module) -> None:
    """Give weights to the layers that training starts from zero, so that every part has its say."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.3)


@torch.no_grad()
def _centre(network: nn.Module) -> None:
    """Set the last layer by a trial, so that decoders give both answers: a fifth of the cells, a field around zero."""
    if isinstance(network, DenseShapeVAE):
        config = network.config
        logits = network.decode(torch.randn(4, config.latent_channels, 4, 4, 4))[:, 0]
        last = network.decoder.out_layer[2]
        last.weight *= 4 / logits.std()
        last.bias += 4 * (last.bias - torch.quantile(logits, 0.8)) / logits.std() - last.bias
    elif isinstance(network, SparseSDFVAE):
        side = torch.arange(4)
        coords = torch.nn.functional.pad(torch.cartesian_prod(side, side, side), (1, 0))
        field = network.decode(SparseTensor(torch.randn(64, network.config.latent_channels), coords)).feats.atanh()
        last = network.decoder.out_layer
        last.weight /= field.std()
        last.bias += (last.bias - field.mean()) / field.std() - last.bias
    elif isinstance(network, SDFRefiner):
        side = network.config.patch_size
        latent = torch.randn(1, network.config.block_channels[0], side, side, side)
        field = network(2 * torch.rand(1, 1, side, side, side) - 1, latent).atanh()
        last = network.conv_out
        last.weight /= field.std()
        last.bias += (last.bias - field.mean()) / field.std() - last.bias

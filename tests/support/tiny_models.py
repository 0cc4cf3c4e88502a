"""Presets of a few thousand weights, and their files with seeded random weights: the real code path in seconds.

What they make is a random lump, not a shape. ``tune`` bends a network before it is saved, so that a test can have
an empty structure or a field without a surface.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from core.checkpoints.load import NetworkStore
from core.checkpoints.store import save_network
from core.config.models import (
    ConditionerConfig,
    DenseDiTConfig,
    DenseVAEConfig,
    RefinerConfig,
    SparseDiTConfig,
    SparseVAEConfig,
    SSAConfig,
)
from core.config.presets import DenseStageConfig, ModelPreset, SamplingConfig, SparseStageConfig
from core.models.dense_vae import DenseShapeVAE
from core.models.refiner import SDFRefiner
from core.models.registry import build
from core.models.sparse_vae import SparseSDFVAE
from core.sparse.tensor import SparseTensor

_SSA = SSAConfig(num_heads=2, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=2)

_STAGE_32 = SparseStageConfig(
    resolution=32,
    dit=SparseDiTConfig(
        resolution=8,
        in_channels=4,
        out_channels=4,
        width=32,
        cond_width=16,
        num_blocks=2,
        num_cross_heads=2,
        ssa=_SSA,
    ),
    vae=SparseVAEConfig(
        latent_channels=4,
        resolution=8,
        encoder_width=16,
        encoder_channels=(4, 8, 16),
        encoder_blocks=1,
        encoder_heads=1,
        encoder_head_dim=16,
        decoder_width=16,
        decoder_channels=(8, 4),
        decoder_blocks=1,
        decoder_heads=1,
        decoder_head_dim=16,
        norm_groups=4,
    ),
    sampling=SamplingConfig(steps=2, shift=3.0, guidance=2.0),
    iso_level=0.0,
    truncation_voxels=4.0,
    band_voxels=1.0,
    memory_gb=0.1,
)
_STAGE_64 = replace(
    _STAGE_32,
    resolution=64,
    dit=replace(_STAGE_32.dit, resolution=16, position_scale=0.5),
    vae=replace(_STAGE_32.vae, resolution=16, chunk_size=2),
)

TINY = ModelPreset(
    name="tiny",
    title="Dense and one sparse stage",
    conditioner=ConditionerConfig(image_size=28, patch_size=14, width=16, num_blocks=1, num_heads=2),
    dense=DenseStageConfig(
        dit=DenseDiTConfig(
            resolution=4, latent_channels=2, width=24, cond_width=16, num_blocks=1, num_heads=2, patch_size=2
        ),
        vae=DenseVAEConfig(
            latent_channels=2,
            encoder_channels=(4, 8),
            decoder_channels=(8, 4),
            encoder_res_blocks=1,
            encoder_middle_blocks=1,
            decoder_res_blocks=1,
            decoder_middle_blocks=1,
        ),
        sampling=SamplingConfig(steps=3, shift=1.0, guidance=1.5, prediction="sample"),
        resolution=8,
        occupancy_threshold=0.5,
    ),
    sparse=(_STAGE_32,),
    license="MIT",
    source="tests/support/tiny_models.py",
)

TINY_COARSE = replace(
    TINY,
    name="tiny-coarse",
    title="Its sparse stage starts from the coarse field of the dense stage, as the starter's does",
    dense=replace(TINY.dense, vae=replace(TINY.dense.vae, in_channels=2, out_channels=2), field_cells=3.0),
    sparse=(replace(_STAGE_32, start_noise=0.3),),
)

_SMALL_UNET = {"block_channels": (4, 8), "layers_per_block": 1, "layers_mid_block": 1}
_SDF_REFINER = RefinerConfig(
    kind="sdf", resolution=32, patch_size=16, patch_stride=12, feature_channels=4, **_SMALL_UNET
)
_SIGN_REFINER = RefinerConfig(kind="sign", resolution=64, patch_size=16, patch_stride=8, **_SMALL_UNET)

TINY_TWO = replace(TINY, name="tiny-two", title="Dense and two sparse stages", sparse=(_STAGE_32, _STAGE_64))
TINY_REFINED = replace(
    TINY_TWO,
    name="tiny-refined",
    title="Two sparse stages with a refiner each, and conditions with coordinates as in v1.0",
    sparse=(
        replace(_STAGE_32, refiner=_SDF_REFINER, dit=replace(_STAGE_32.dit, sparse_conditions=True)),
        replace(_STAGE_64, refiner=_SIGN_REFINER, dit=replace(_STAGE_64.dit, sparse_conditions=True)),
    ),
)

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

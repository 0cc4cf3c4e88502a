"""Which network belongs to which configuration."""

from typing import Any

from torch import nn

from core.config.models import (
    ConditionerConfig,
    DenseDiTConfig,
    DenseVAEConfig,
    RefinerConfig,
    SparseDiTConfig,
    SparseVAEConfig,
    UNet3DConfig,
)
from core.models.conditioner import ImageConditioner
from core.models.dense_dit import DenseDiT
from core.models.dense_vae import DenseShapeVAE
from core.models.refiner import SDFRefiner, SignRefiner
from core.models.sparse_dit import SparseDiT
from core.models.sparse_vae import SparseSDFVAE
from core.models.unet3d import UNet3D


def build_refiner(config: RefinerConfig) -> SDFRefiner | SignRefiner:
    """The refiner of the kind that ``config`` names."""
    return SDFRefiner(config) if config.kind == "sdf" else SignRefiner(config)


MODELS: dict[type, Any] = {
    ConditionerConfig: ImageConditioner,
    DenseDiTConfig: DenseDiT,
    DenseVAEConfig: DenseShapeVAE,
    SparseDiTConfig: SparseDiT,
    SparseVAEConfig: SparseSDFVAE,
    UNet3DConfig: UNet3D,
    RefinerConfig: build_refiner,
}


def build(config: Any) -> nn.Module:
    """The network of ``config``, with fresh weights."""
    assert type(config) in MODELS, f"{type(config).__name__} configures no network"
    return MODELS[type(config)](config)

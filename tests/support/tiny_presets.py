"""Presets of a few thousand weights: the real code path in seconds. Configurations only; `tiny_models` has weights."""

from dataclasses import replace

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

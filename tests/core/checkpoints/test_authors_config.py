"""The authors' configuration values (as published) give exactly our presets; strangers are refused by name."""

import pytest

from core.checkpoints.authors_config import config_from_authors, scheduler_shift
from core.config.models import ConditionerConfig, RefinerConfig
from core.config.presets import V1_0, V1_1
from core.errors import ConfigError

DENSE_DIT = {
    "resolution": 16,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 1024,
    "cond_channels": 1024,
    "num_blocks": 24,
    "num_heads": 16,
    "mlp_ratio": 4,
    "patch_size": 1,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_fp16": True,
    "latent_shape": [8, 16, 16, 16],
}
DENSE_VAE = {
    "embed_dim": 8,
    "model_channels_encoder": [32, 128, 512],
    "model_channels_decoder": [512, 128, 64],
    "num_res_blocks_encoder": 2,
    "num_res_blocks_middle_encoder": 2,
    "num_res_blocks_decoder": 4,
    "num_res_blocks_middle_decoder": 4,
    "latents_scale": 1.0,
    "latents_shift": 0.0,
    "use_fp16": True,
}
SPARSE_DIT = {
    "resolution": 64,
    "in_channels": 16,
    "out_channels": 16,
    "model_channels": 1024,
    "cond_channels": 1024,
    "num_blocks": 24,
    "num_heads": 32,
    "num_kv_heads": 2,
    "compression_block_size": 8,
    "selection_block_size": 8,
    "topk": 8,
    "compression_version": "v1",
    "sparse_conditions": False,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_shift": True,
    "use_fp16": True,
}
SPARSE_VAE = {"embed_dim": 16, "model_channels_encoder": 512, "num_blocks_encoder": 4, "use_fp16": True}


def test_values_of_the_release_are_the_preset_v1_1():
    assert config_from_authors("direct3d_s2.models.DenseDiT", DENSE_DIT) == V1_1.dense.dit
    assert config_from_authors("a.b.DenseShapeVAE", DENSE_VAE) == V1_1.dense.vae
    coarse, fine = V1_1.sparse
    assert config_from_authors("a.SparseDiT", SPARSE_DIT) == coarse.dit
    assert config_from_authors("SparseDiT", {**SPARSE_DIT, "resolution": 128, "factor": 0.5}) == fine.dit
    assert config_from_authors("SparseSDFVAE", {**SPARSE_VAE, "resolution": 64}) == coarse.vae
    assert config_from_authors("SparseSDFVAE", {**SPARSE_VAE, "resolution": 128, "chunk_size": 4}) == fine.vae
    assert config_from_authors("x.Voxel_RefinerXL", {"patch_size": 192, "use_fp16": True}) == coarse.refiner
    assert config_from_authors("x.Voxel_RefinerXL_sign", {"patch_size": 256}) == fine.refiner
    assert config_from_authors("x.DinoEncoder", {"version": "dinov2_vitl14_reg", "size": 518}) == V1_1.conditioner


def test_values_of_the_release_are_the_preset_v1_0():
    first = {
        **SPARSE_DIT,
        "compression_block_size": 4,
        "compression_version": "v2",
        "topk": 32,
        "sparse_conditions": True,
    }
    assert config_from_authors("SparseDiT", first) == V1_0.sparse[0].dit
    second = {**first, "topk": 8, "resolution": 128, "factor": 0.5}
    assert config_from_authors("SparseDiT", second) == V1_0.sparse[1].dit


def test_defaults_where_arguments_are_absent():
    small = {k: DENSE_DIT[k] for k in ("resolution", "in_channels", "out_channels", "cond_channels", "num_blocks")}
    dit = config_from_authors("dense_dit", {**small, "model_channels": 256})
    assert (dit.num_heads, dit.patch_size, dit.qk_norm) == (4, 2, False)
    assert config_from_authors("unet3d", {}).final_conv
    assert config_from_authors("DinoEncoder", None) == ConditionerConfig(
        image_size=518, patch_size=14, width=1024, num_blocks=24, num_heads=16
    )
    assert config_from_authors("Voxel_RefinerXL_sign", {}) == RefinerConfig(
        kind="sign", resolution=1024, patch_size=192, patch_stride=128
    )


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("os.system", {}, "no module"),
        ("DenseDiT", {**DENSE_DIT, "depth": 3}, "depth"),
        ("DenseDiT", {**DENSE_DIT, "pe_mode": "rope"}, "pe_mode"),
        ("DenseDiT", {"resolution": 16}, "model_channels"),
        ("DinoEncoder", {"version": "dinov2_vitg14_reg"}, "dinov2_vitg14_reg"),
    ],
)
def test_refusals_name_what_is_wrong(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        config_from_authors(name, arguments)


def test_scheduler():
    assert (
        scheduler_shift("diffusers.FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": 6.0}) == 6
    )
    with pytest.raises(ConfigError, match="DDPMScheduler"):
        scheduler_shift("diffusers.DDPMScheduler", {})
    with pytest.raises(ConfigError, match="num_train_timesteps"):
        scheduler_shift("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 10})

"""A folder as the authors lay theirs out, tiny: its configuration and the preset that it is. Without torch."""

from dataclasses import replace

from core.checkpoints.authors_config import config_from_authors
from core.config.models import ConditionerConfig, RefinerConfig, SparseVAEConfig
from core.config.presets import V1_1, ModelPreset

PREFIX = "direct3d_s2.models."
VAE = {"embed_dim": 2, "model_channels_encoder": 64, "model_channels_decoder": 64, "num_blocks_encoder": 1,
       "num_blocks_decoder": 1, "num_heads_encoder": 2, "num_heads_decoder": 2, "use_fp16": True}  # fmt: skip
SPARSE_DIT = {"in_channels": 2, "out_channels": 2, "model_channels": 32, "cond_channels": 16, "num_blocks": 1,
              "num_heads": 2, "num_kv_heads": 2, "compression_block_size": 4, "selection_block_size": 8, "topk": 2,
              "compression_version": "v2", "sparse_conditions": True}  # fmt: skip
SCHEDULER = "diffusers.FlowMatchEulerDiscreteScheduler"
EYE = {"target": PREFIX + "conditioner.DinoEncoder",
       "params": {"model": "facebookresearch/dinov2", "version": "dinov2_vitl14_reg", "size": 28}}  # fmt: skip
SECTIONS = {
    "dense_vae": {
        "target": PREFIX + "autoencoders.DenseShapeVAE",
        "params": {"embed_dim": 2, "model_channels_encoder": [4, 8], "model_channels_decoder": [8, 4]},
    },
    "dense_dit": {
        "target": PREFIX + "transformers.DenseDiT",
        "params": {
            "resolution": 4,
            "in_channels": 2,
            "out_channels": 2,
            "model_channels": 24,
            "cond_channels": 16,
            "num_blocks": 1,
            "num_heads": 2,
            "patch_size": 1,
            "qk_rms_norm": True,
        },  # fmt: skip
    },
    "dense_image_encoder": EYE,
    "sparse_image_encoder": EYE,
    "dense_scheduler": {"target": SCHEDULER, "params": {"num_train_timesteps": 1000, "shift": 6.0}},
    "sparse_scheduler_512": {"target": SCHEDULER, "params": {"shift": 6.0}},
    "sparse_scheduler_1024": {"target": SCHEDULER, "params": {"shift": 8.0}},
    "sparse_vae_512": {"target": PREFIX + "autoencoders.SparseSDFVAE", "params": {**VAE, "resolution": 8}},
    "sparse_vae_1024": {"target": PREFIX + "autoencoders.SparseSDFVAE", "params": {**VAE, "resolution": 16}},
    "sparse_dit_512": {"target": PREFIX + "transformers.SparseDiT", "params": {**SPARSE_DIT, "resolution": 8}},
    "sparse_dit_1024": {
        "target": PREFIX + "transformers.SparseDiT",
        "params": {**SPARSE_DIT, "resolution": 16, "factor": 0.5},
    },
    "refiner": {"target": PREFIX + "refiner.unet_refiner.Voxel_RefinerXL", "params": {"patch_size": 192}},
    "refiner_1024": {"target": PREFIX + "refiner.unet_refiner.Voxel_RefinerXL_sign", "params": {"patch_size": 256}},
}


def shrunk(name, params):
    """The authors' configuration, with the widths that their files do not state made small."""
    config = config_from_authors(name, params)
    if isinstance(config, ConditionerConfig):
        return replace(config, width=16, num_blocks=1, num_heads=2)
    if isinstance(config, SparseVAEConfig):
        return replace(config, norm_groups=2)
    if isinstance(config, RefinerConfig):
        return replace(config, block_channels=(4, 4), feature_channels=4)
    return config


def tiny_preset() -> ModelPreset:
    """The preset of ``SECTIONS``, to be found where ``shrunk`` stands for ``config_from_authors``."""
    config = {name: shrunk(s["target"], s["params"]) for name, s in SECTIONS.items() if "scheduler" not in name}
    stages = [
        replace(
            stage,
            dit=config[f"sparse_dit_{stage.resolution}"],
            vae=config[f"sparse_vae_{stage.resolution}"],
            refiner=config["refiner" if stage.resolution == 512 else "refiner_1024"],
        )
        for stage in V1_1.sparse
    ]
    return replace(
        V1_1,
        name="tiny",
        conditioner=config["dense_image_encoder"],
        dense=replace(V1_1.dense, dit=config["dense_dit"], vae=config["dense_vae"]),
        sparse=tuple(stages),
    )


def released_sections(version: str) -> dict[str, dict]:
    """The published configuration (v1.1), with what v1.0 has otherwise."""
    v10 = version == "v1.0"
    vae = {"embed_dim": 16, "model_channels_encoder": 512, "model_channels_decoder": 512, "num_blocks_encoder": 4,
           "num_blocks_decoder": 4, "num_heads_encoder": 8, "num_heads_decoder": 8, "out_channels": 1,
           "num_head_channels_encoder": 64, "num_head_channels_decoder": 64, "use_fp16": True,
           "latents_scale": 1.0, "latents_shift": 0.0}  # fmt: skip
    dit = {"in_channels": 16, "out_channels": 16, "model_channels": 1024, "cond_channels": 1024, "num_blocks": 24,
           "num_heads": 32, "num_kv_heads": 2, "mlp_ratio": 4, "compression_block_size": 4 if v10 else 8,
           "selection_block_size": 8, "compression_version": "v2" if v10 else "v1", "sparse_conditions": v10,
           "pe_mode": "ape", "qk_rms_norm": True, "use_shift": True, "use_fp16": True}  # fmt: skip
    params = {
        "dense_vae": {"embed_dim": 8, "in_channels": 1, "out_channels": 1, "model_channels_encoder": [32, 128, 512],
                      "model_channels_decoder": [512, 128, 64], "num_res_blocks_encoder": 2,
                      "num_res_blocks_middle_encoder": 2, "num_res_blocks_decoder": 4,
                      "num_res_blocks_middle_decoder": 4, "latents_scale": 1.0, "latents_shift": 0.0,
                      "use_fp16": True},
        "dense_dit": {"resolution": 16, "in_channels": 8, "out_channels": 8, "model_channels": 1024,
                      "cond_channels": 1024, "num_blocks": 24, "num_heads": 16, "mlp_ratio": 4, "patch_size": 1,
                      "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True, "latent_shape": [8, 16, 16, 16]},
        "dense_image_encoder": {**EYE["params"], "size": 518},
        "sparse_image_encoder": {**EYE["params"], "size": 518},
        "sparse_vae_512": {**vae, "resolution": 64},
        "sparse_vae_1024": {**vae, "resolution": 128, "chunk_size": 4},
        "sparse_dit_512": {**dit, "resolution": 64, "topk": 32 if v10 else 8, "factor": 1.0},
        "sparse_dit_1024": {**dit, "resolution": 128, "topk": 8, "factor": 0.5},
        "refiner": {"in_channels": 1, "out_channels": 1, "layers_per_block": 2, "layers_mid_block": 2,
                    "patch_size": 192, "use_fp16": True},
        "refiner_1024": {"in_channels": 1, "out_channels": 1, "layers_per_block": 2, "layers_mid_block": 2,
                         "patch_size": 256, "use_fp16": True},
    }  # fmt: skip
    return {name: {**section, "params": params.get(name, section["params"])} for name, section in SECTIONS.items()}

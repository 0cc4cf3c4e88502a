"""The authors' constructor arguments, by their names, to our configurations.

Their ``config.yaml`` names classes by dotted path and the golden tensors name modules by a short word; both are
looked up in one table here and never imported. An argument that we do not know, or a value that asks for
something the release does not use, is an error that names it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from core.config.models import (
    ConditionerConfig,
    DenseDiTConfig,
    DenseVAEConfig,
    PerChannel,
    RefinerConfig,
    SparseDiTConfig,
    SparseVAEConfig,
    SSAConfig,
    UNet3DConfig,
)
from core.errors import ConfigError

# version of the hub: width, blocks, heads
_DINOV2 = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}
_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_SDF_REFINER_STRIDE, _SIGN_REFINER_STRIDE = 160, 128  # not arguments of theirs; both with a network grid of 512


class Arguments:
    """Reads arguments by name, each once; ``finish`` refuses those that nobody read."""

    def __init__(self, where: str, values: Mapping[str, Any] | None):
        self.where = where
        self.values = dict(values or {})

    def get(self, name: str, *default: Any) -> Any:
        """The argument ``name``, or the default; without a default it is required."""
        if name not in self.values and not default:
            raise ConfigError(f"{self.where} lacks the argument {name!r}.")
        return self.values.pop(name, *default)

    def ints(self, name: str, *default: Any) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(int(value) for value in self.get(name, *default))

    def ignore(self, *names: str) -> None:
        """Arguments that change nothing in the result."""
        for name in names:
            self.values.pop(name, None)

    def only(self, name: str, allowed: Any) -> None:
        """An argument of which only one value is supported."""
        if (value := self.values.pop(name, allowed)) != allowed:
            raise ConfigError(f"{self.where} has {name} = {value!r}; only {allowed!r} is supported.")

    def heads(self, width: int) -> int:
        """Number of heads, given or from the size of a head."""
        heads, size = self.get("num_heads", None), self.get("num_head_channels", 64)
        return int(heads or width // size)

    def finish(self) -> None:
        """Raises ConfigError if an argument was not read."""
        if self.values:
            raise ConfigError(f"{self.where} has unknown arguments: {', '.join(sorted(self.values))}.")


def _per_channel(value: Any) -> PerChannel:
    return tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else float(value)


def _dense_dit(args: Arguments) -> DenseDiTConfig:
    args.only("pe_mode", "ape")
    args.ignore("latent_shape")
    width, channels, out_channels = args.get("model_channels"), args.get("in_channels"), args.get("out_channels")
    return DenseDiTConfig(
        resolution=args.get("resolution"),
        latent_channels=channels,
        out_channels=None if out_channels == channels else out_channels,
        width=width,
        cond_width=args.get("cond_channels"),
        num_blocks=args.get("num_blocks"),
        num_heads=args.heads(width),
        mlp_ratio=float(args.get("mlp_ratio", 4)),
        patch_size=args.get("patch_size", 2),
        qk_norm=args.get("qk_rms_norm", False),
        qk_norm_cross=args.get("qk_rms_norm_cross", False),
        shared_modulation=args.get("share_mod", False),
    )


def _sparse_dit(args: Arguments) -> SparseDiTConfig:
    args.only("pe_mode", "ape")
    args.ignore("qk_rms_norm")  # their sparse self-attention has no such norm
    width = args.get("model_channels")
    heads = args.heads(width)
    return SparseDiTConfig(
        resolution=args.get("resolution"),
        in_channels=args.get("in_channels"),
        out_channels=args.get("out_channels"),
        width=width,
        cond_width=args.get("cond_channels"),
        num_blocks=args.get("num_blocks"),
        num_cross_heads=heads,
        ssa=SSAConfig(
            num_heads=heads,
            num_kv_heads=args.get("num_kv_heads", 2),
            compression_block=args.get("compression_block_size", 4),
            selection_block=args.get("selection_block_size", 8),
            selected_blocks=args.get("topk", 8),
            window=args.get("window_size", 8),
            compression_version=args.get("compression_version", "v2"),
        ),
        mlp_ratio=float(args.get("mlp_ratio", 4)),
        qk_norm_cross=args.get("qk_rms_norm_cross", False),
        shared_modulation=args.get("share_mod", False),
        sparse_conditions=args.get("sparse_conditions", False),
        position_scale=float(args.get("factor", 1.0)),
        shift_windows=args.get("use_shift", True),
    )


def _attention(args: Arguments) -> SSAConfig:
    args.ignore("hidden_size", "head_dim", "shift_window", "resolution")  # of the module, not of its kind
    return SSAConfig(
        num_heads=args.get("num_q_heads"),
        num_kv_heads=args.get("num_kv_heads"),
        compression_block=args.get("compression_block_size"),
        selection_block=args.get("selection_block_size"),
        selected_blocks=args.get("topk"),
        window=args.get("window_size"),
        compression_version=args.get("compression_version", "v2"),
    )


def _dense_vae(args: Arguments) -> DenseVAEConfig:
    return DenseVAEConfig(
        latent_channels=args.get("embed_dim"),
        encoder_channels=args.ints("model_channels_encoder", (32, 128, 512)),
        decoder_channels=args.ints("model_channels_decoder", (512, 128, 32)),
        in_channels=args.get("in_channels", 1),
        out_channels=args.get("out_channels", 1),
        encoder_res_blocks=args.get("num_res_blocks_encoder", 2),
        encoder_middle_blocks=args.get("num_res_blocks_middle_encoder", 2),
        decoder_res_blocks=args.get("num_res_blocks_decoder", 2),
        decoder_middle_blocks=args.get("num_res_blocks_middle_decoder", 2),
        latent_scale=_per_channel(args.get("latents_scale", 1.0)),
        latent_shift=_per_channel(args.get("latents_shift", 0.0)),
    )


def _sparse_vae(args: Arguments) -> SparseVAEConfig:
    encoder, decoder = args.get("model_channels_encoder", 512), args.get("model_channels_decoder", 512)
    encoder_head, decoder_head = args.get("num_head_channels_encoder", 64), args.get("num_head_channels_decoder", 64)
    encoder_heads = args.get("num_heads_encoder", 8) or encoder // encoder_head
    decoder_heads = args.get("num_heads_decoder", 8) or decoder // decoder_head
    return SparseVAEConfig(
        latent_channels=args.get("embed_dim"),
        resolution=args.get("resolution", 64),
        encoder_width=encoder,
        encoder_channels=(encoder // 16, encoder // 8, encoder // 4, encoder),
        encoder_blocks=args.get("num_blocks_encoder", 4),
        encoder_heads=encoder_heads,
        encoder_head_dim=encoder // encoder_heads,  # theirs ignores the size of a head where the number is given
        decoder_width=decoder,
        decoder_channels=(decoder // 4, decoder // 8, decoder // 16),
        decoder_blocks=args.get("num_blocks_decoder", 4),
        decoder_heads=decoder_heads,
        decoder_head_dim=decoder // decoder_heads,
        out_channels=args.get("out_channels", 1),
        chunk_size=max(args.get("chunk_size", 1), 1),
        latent_scale=_per_channel(args.get("latents_scale", 1.0)),
        latent_shift=_per_channel(args.get("latents_shift", 0.0)),
    )


def _conditioner(args: Arguments) -> ConditionerConfig:
    args.only("model", "facebookresearch/dinov2")
    version = args.get("version", "dinov2_vitl14_reg")
    if version not in _DINOV2:
        raise ConfigError(f"{args.where} wants {version!r}; known: {', '.join(_DINOV2)}.")
    width, blocks, heads = _DINOV2[version]
    return ConditionerConfig(
        image_size=args.get("size", 518), patch_size=14, width=width, num_blocks=blocks, num_heads=heads
    )


def _unet(args: Arguments) -> UNet3DConfig:
    ladder = args.ints("block_out_channels", (4, 16, 64, 256))
    final = args.get("use_conv_out", True)
    out_channels = args.get("out_channels", 4)
    args.only("mid_block_scale_factor", 1)
    args.only("act_fn", "silu")
    args.only("norm_eps", 1e-5)
    args.ignore("down_block_types", "up_block_types", "downsample_padding")
    return UNet3DConfig(
        in_channels=args.get("in_channels", 4),
        out_channels=out_channels if final else ladder[0],
        block_channels=ladder,
        layers_per_block=args.get("layers_per_block", 4),
        layers_mid_block=args.get("layers_mid_block", 4),
        norm_groups=args.get("norm_num_groups", 4),
        final_conv=final,
    )


def _refiner(args: Arguments, **kind: Any) -> RefinerConfig:
    args.only("in_channels", 1)
    args.only("out_channels", 1)
    args.ignore("infer_patch_size")
    return RefinerConfig(
        patch_size=args.get("patch_size", 192),
        layers_per_block=args.get("layers_per_block", 2),
        layers_mid_block=args.get("layers_mid_block", 2),
        **kind,
    )


def _sdf_refiner(args: Arguments) -> RefinerConfig:
    resolution = args.get("res", 512)
    return _refiner(args, kind="sdf", resolution=resolution, patch_stride=_SDF_REFINER_STRIDE)


def _sign_refiner(args: Arguments) -> RefinerConfig:
    resolution = 2 * args.get("res", 512)  # its network sees half the resolution of the field
    return _refiner(args, kind="sign", resolution=resolution, patch_stride=_SIGN_REFINER_STRIDE)


# By the last part of the authors' class name, and by the name of a golden tensor's module.
_READERS: dict[str, Callable[[Arguments], Any]] = {
    "DenseShapeVAE": _dense_vae,
    "dense_shape_vae": _dense_vae,
    "DenseDiT": _dense_dit,
    "dense_dit": _dense_dit,
    "sample_dense": _dense_dit,
    "SparseSDFVAE": _sparse_vae,
    "sparse_sdf_vae": _sparse_vae,
    "SparseDiT": _sparse_dit,
    "sparse_dit": _sparse_dit,
    "sample_sparse": _sparse_dit,
    "SpatialSparseAttention": _attention,
    "spatial_sparse_attention": _attention,
    "DinoEncoder": _conditioner,
    "Voxel_RefinerXL": _sdf_refiner,
    "Voxel_RefinerXL_sign": _sign_refiner,
    "UNet3DModel": _unet,
    "unet3d": _unet,
}


def config_from_authors(name: str, arguments: Mapping[str, Any] | None) -> Any:
    """Our configuration of one of the authors' modules.

    Args:
        name: the ``target`` of a section of ``config.yaml`` (a dotted path) or the module name of a golden file.
        arguments: the section's ``params``, or the golden file's ``config``; defaults are the authors'.

    Returns:
        The dataclass of ``core.config.models`` for that module.

    Raises:
        ConfigError: for an unknown name or argument, a missing argument, or a value that is not supported.
    """
    short = name.rpartition(".")[2]
    if short not in _READERS:
        raise ConfigError(f"{name!r} is no module of Direct3D-S2. Known: {', '.join(_READERS)}.")
    args = Arguments(short, arguments)
    args.ignore("use_fp16", "use_checkpoint")
    config = _READERS[short](args)
    args.finish()
    return config


def scheduler_shift(name: str, arguments: Mapping[str, Any] | None) -> float:
    """The timestep shift of a scheduler section of ``config.yaml``.

    Raises:
        ConfigError: for another scheduler than the release's.
    """
    if name.rpartition(".")[2] != _SCHEDULER:
        raise ConfigError(f"{name!r} is not supported as a scheduler; the release uses {_SCHEDULER}.")
    args = Arguments(_SCHEDULER, arguments)
    args.only("num_train_timesteps", 1000)
    shift = float(args.get("shift", 1.0))
    args.finish()
    return shift

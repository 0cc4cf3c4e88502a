"""Configurations of the networks. One dataclass per network; values of the release are in ``presets``.

Sizes are in voxels, channels or layers; a *ladder* is the list of channel widths from one resolution to
the next. Section numbers refer to the Direct3D-S2 paper (arXiv 2505.17412).
"""

from dataclasses import dataclass
from typing import Literal

PerChannel = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SSAConfig:
    """Spatial Sparse Attention (section 3.2): sizes of blocks and windows, in voxels per side."""

    num_heads: int  # query heads
    num_kv_heads: int  # key and value heads; each serves num_heads / num_kv_heads query heads
    compression_block: int  # one compressed token per occupied cube of this side
    selection_block: int  # a multiple of compression_block
    selected_blocks: int  # top-k blocks that every query attends to
    window: int = 8  # side of the local attention cube
    compression_version: Literal["v1", "v2"] = "v1"  # v1: 1x1 conv; v2: norms and 3x3x3 convs


@dataclass(frozen=True, kw_only=True)
class DenseDiTConfig:
    """Diffusion transformer on the dense structure latent."""

    resolution: int  # latent voxels per side
    latent_channels: int
    width: int
    cond_width: int  # channels of the image tokens
    num_blocks: int
    num_heads: int
    out_channels: int | None = None  # as many as latent_channels if not given
    mlp_ratio: float = 4.0
    patch_size: int = 1
    qk_norm: bool = False  # RMS norm of queries and keys in self-attention
    qk_norm_cross: bool = False
    shared_modulation: bool = False  # one adaLN projection for all blocks


@dataclass(frozen=True, kw_only=True)
class SparseDiTConfig:
    """Diffusion transformer on sparse latents with Spatial Sparse Attention."""

    resolution: int  # latent voxels per side
    in_channels: int
    out_channels: int
    width: int
    cond_width: int
    num_blocks: int
    num_cross_heads: int
    ssa: SSAConfig
    mlp_ratio: float = 4.0
    qk_norm_cross: bool = False
    shared_modulation: bool = False
    sparse_conditions: bool = False  # v1.0: only foreground image tokens, with coordinates
    position_scale: float = 1.0  # multiplies coordinates before the position embedding
    shift_windows: bool = True  # odd blocks shift their windows by half a window


@dataclass(frozen=True, kw_only=True)
class DenseVAEConfig:
    """Convolutional VAE between an occupancy grid and the dense structure latent."""

    latent_channels: int
    encoder_channels: tuple[int, ...]  # fine to coarse
    decoder_channels: tuple[int, ...]  # coarse to fine
    in_channels: int = 1
    out_channels: int = 1
    encoder_res_blocks: int = 2
    encoder_middle_blocks: int = 2
    decoder_res_blocks: int = 2
    decoder_middle_blocks: int = 2
    latent_scale: PerChannel = 1.0  # decode receives latent / scale + shift
    latent_shift: PerChannel = 0.0


@dataclass(frozen=True, kw_only=True)
class SparseVAEConfig:
    """Sparse SDF VAE: SDF in a narrow band <-> latents on a coarse grid (section 3.1)."""

    latent_channels: int
    resolution: int  # latent voxels per side; the SDF grid has 2 ** levels times as many
    encoder_width: int  # of the transformer
    encoder_channels: tuple[int, ...] = (32, 64, 128, 512)  # fine to coarse, levels + 1 entries
    encoder_blocks: int = 4
    encoder_heads: int = 8
    encoder_head_dim: int = 64
    decoder_width: int = 512
    decoder_channels: tuple[int, ...] = (128, 64, 32)  # coarse to fine, levels entries
    decoder_blocks: int = 4
    decoder_heads: int = 8
    decoder_head_dim: int = 64
    out_channels: int = 1
    mlp_ratio: float = 4.0
    window: int = 8
    norm_groups: int = 32  # GroupNorm groups in the encoder's convolution blocks
    chunk_size: int = 1  # decode the upsampling in chunk_size ** 3 pieces
    chunk_padding: int = 4  # latents around a chunk, at least the receptive field of the upsampling
    latent_scale: PerChannel = 1.0
    latent_shift: PerChannel = 0.0

    @property
    def upsampling(self) -> int:
        """SDF voxels per latent voxel, per side."""
        return 2 ** len(self.decoder_channels)


@dataclass(frozen=True, kw_only=True)
class ConditionerConfig:
    """Image encoder: DINOv2 with registers."""

    image_size: int  # pixels per side
    patch_size: int
    width: int
    num_blocks: int
    num_heads: int
    num_registers: int = 4
    mlp_ratio: int = 4

    @property
    def num_tokens(self) -> int:
        """Condition tokens per picture: class, registers, patches."""
        return 1 + self.num_registers + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig:
    """3D U-Net inside the refiners."""

    in_channels: int
    out_channels: int
    block_channels: tuple[int, ...] = (8, 32, 128, 512)
    layers_per_block: int = 2
    layers_mid_block: int = 2
    norm_groups: int = 4
    final_conv: bool = False  # end with a convolution to out_channels and 2 tanh; else it puts out block_channels[0]


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Refiner of a decoded SDF: ``sdf`` filters values (512), ``sign`` fixes the inside (1024)."""

    kind: Literal["sdf", "sign"]
    resolution: int  # of the SDF grid it works on, per side
    patch_size: int  # tile side, in cells of the grid the network sees
    patch_stride: int
    feature_channels: int = 32  # decoder features used by kind "sdf"
    block_channels: tuple[int, ...] = (8, 32, 128, 512)  # of its U-Net; the first is the refiner's own width
    layers_per_block: int = 2
    layers_mid_block: int = 2

"""Named sets of models: one entry per set, and entries differ by what differs.

``direct3d-s2-v1.0`` and ``-v1.1`` are the authors' releases (values from their configuration);
``starter`` is the small model of the same kind whose weights are in this repository.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from core.config.generation import Solver
from core.config.models import (
    ConditionerConfig,
    DenseDiTConfig,
    DenseVAEConfig,
    RefinerConfig,
    SparseDiTConfig,
    SparseVAEConfig,
    SSAConfig,
)
from core.errors import ConfigError

Prediction = Literal["velocity", "sample"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Defaults of a rectified-flow sampling loop.

    The last five are approximations that save evaluations or parts of them; as they stand here none is in use. They
    are the user's alone (``GenerationOptions`` has the same defaults): no preset sets them.
    """

    steps: int
    shift: float  # timestep shift; larger spends more steps near noise
    guidance: float  # classifier-free guidance scale
    prediction: Prediction = "velocity"  # what the network puts out; "sample" is turned into a velocity
    noise_scale: float = 1.0  # standard deviation of the noise end
    solver: Solver = "euler"
    guided_from: float = 1.0  # noise level where guidance begins
    guided_until: float = 0.0  # and where it ends
    unconditional_every: int = 1  # guided evaluations from one of the unconditional branch to the next
    selection_every: int = 1  # evaluations of a branch from one choice of blocks to the next; sparse stages only


@dataclass(frozen=True, kw_only=True)
class DenseStageConfig:
    """Picture to occupied cells on a coarse grid."""

    dit: DenseDiTConfig
    vae: DenseVAEConfig
    sampling: SamplingConfig
    resolution: int  # cells per side of the decoded occupancy grid
    occupancy_threshold: float  # probability from which a cell is occupied
    field_cells: float | None = None  # the VAE's second channel, if any: signed distance clipped at so many cells


@dataclass(frozen=True, kw_only=True)
class SparseStageConfig:
    """Occupied latent cells to a signed distance field in a narrow band."""

    resolution: int  # SDF voxels per side
    dit: SparseDiTConfig
    vae: SparseVAEConfig
    sampling: SamplingConfig
    iso_level: float  # value of the surface, in truncation bands
    truncation_voxels: float  # an SDF value of 1 is this many voxels
    band_voxels: float  # a voxel is active where its distance is below this many voxels
    memory_gb: float  # what a GPU must have free up to this stage, in 10^9 bytes: core.pipeline.memory_plan.device_need
    refiner: RefinerConfig | None = None
    start_noise: float = 1.0  # noise level to start from; below 1 the rest is the dense stage's coarse field
    max_tokens: int = 65_536  # a shape with more cells is refused, unless the user allows it


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    """Everything that one picture needs on its way to a mesh."""

    name: str
    title: str
    conditioner: ConditionerConfig
    dense: DenseStageConfig
    sparse: tuple[SparseStageConfig, ...]  # in order; each starts from the mesh or cells of the one before
    license: str
    source: str  # where the weights come from, for people
    bundled: bool = False  # weights are part of this repository

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Voxels per side of each sparse stage, in order."""
        return tuple(stage.resolution for stage in self.sparse)

    def up_to(self, resolution: int | None) -> "ModelPreset":
        """The preset without the sparse stages after the one of ``resolution``; None keeps all.

        Raises:
            ConfigError: if it has no such stage, listing the resolutions it has.
        """
        if resolution is None or resolution == self.resolutions[-1]:
            return self
        if resolution not in self.resolutions:
            known = ", ".join(map(str, self.resolutions))
            raise ConfigError(f"resolution is {resolution}; preset {self.name!r} has {known}.")
        return replace(self, sparse=self.sparse[: self.resolutions.index(resolution) + 1])

    def networks(self) -> dict[str, Any]:
        """Name of every network (also its file's stem) to its configuration, in order of use."""
        named: dict[str, Any] = {
            "conditioner": self.conditioner,
            "dense_dit": self.dense.dit,
            "dense_vae": self.dense.vae,
        }
        for stage in self.sparse:
            named[f"sparse_dit_{stage.resolution}"] = stage.dit
            named[f"sparse_vae_{stage.resolution}"] = stage.vae
            if stage.refiner is not None:
                named[f"refiner_{stage.resolution}"] = stage.refiner
        return named


_V1_1_SSA = SSAConfig(num_heads=32, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=8)
_DIT_512 = SparseDiTConfig(
    resolution=64,
    in_channels=16,
    out_channels=16,
    width=1024,
    cond_width=1024,
    num_blocks=24,
    num_cross_heads=32,
    ssa=_V1_1_SSA,
)
_VAE_512 = SparseVAEConfig(latent_channels=16, resolution=64, encoder_width=512)
_STAGE_512 = SparseStageConfig(
    resolution=512,
    dit=_DIT_512,
    vae=_VAE_512,
    sampling=SamplingConfig(steps=30, shift=6.0, guidance=7.0),
    iso_level=0.4,
    truncation_voxels=4.0,
    band_voxels=4.0,
    memory_gb=2.7,
    refiner=RefinerConfig(kind="sdf", resolution=512, patch_size=192, patch_stride=160),
)
_STAGE_1024 = SparseStageConfig(
    resolution=1024,
    dit=replace(_DIT_512, resolution=128, position_scale=0.5),
    vae=replace(_VAE_512, resolution=128, chunk_size=4),
    sampling=SamplingConfig(steps=15, shift=8.0, guidance=7.0),
    iso_level=0.2,
    truncation_voxels=4.0,
    band_voxels=4.0,
    memory_gb=3.6,
    refiner=RefinerConfig(kind="sign", resolution=1024, patch_size=256, patch_stride=128),
    max_tokens=200_000,
)

V1_1 = ModelPreset(
    name="direct3d-s2-v1.1",
    title="Direct3D-S2 v1.1, 1024 voxels a side",
    conditioner=ConditionerConfig(image_size=518, patch_size=14, width=1024, num_blocks=24, num_heads=16),
    dense=DenseStageConfig(
        dit=DenseDiTConfig(
            resolution=16,
            latent_channels=8,
            width=1024,
            cond_width=1024,
            num_blocks=24,
            num_heads=16,
            qk_norm=True,
        ),
        vae=DenseVAEConfig(
            latent_channels=8,
            encoder_channels=(32, 128, 512),
            decoder_channels=(512, 128, 64),
            decoder_res_blocks=4,
            decoder_middle_blocks=4,
        ),
        sampling=SamplingConfig(steps=50, shift=6.0, guidance=7.0),
        resolution=64,
        occupancy_threshold=0.1,
    ),
    sparse=(_STAGE_512, _STAGE_1024),
    license="MIT",
    source="https://huggingface.co/wushuang98/Direct3D-S2, folder direct3d-s2-v-1-1",
)

_V1_0_SSA = replace(_V1_1_SSA, compression_block=4, selected_blocks=32, compression_version="v2")
_V1_0_DIT = replace(_DIT_512, ssa=_V1_0_SSA, sparse_conditions=True)

V1_0 = replace(
    V1_1,
    name="direct3d-s2-v1.0",
    title="Direct3D-S2 v1.0, 1024 voxels a side",
    sparse=(
        replace(_STAGE_512, dit=_V1_0_DIT),
        replace(
            _STAGE_1024,
            dit=replace(_V1_0_DIT, resolution=128, position_scale=0.5, ssa=replace(_V1_0_SSA, selected_blocks=8)),
        ),
    ),
    source="https://huggingface.co/wushuang98/Direct3D-S2, folder direct3d-s2-v-1-0",
)

STARTER = ModelPreset(
    name="starter",
    title="Starter, 128 voxels a side, runs on a CPU",
    conditioner=ConditionerConfig(image_size=112, patch_size=14, width=192, num_blocks=6, num_heads=3),
    dense=DenseStageConfig(
        dit=DenseDiTConfig(
            resolution=8,
            latent_channels=8,
            width=192,
            cond_width=192,
            num_blocks=6,
            num_heads=3,
            patch_size=2,
            qk_norm=True,
            shared_modulation=True,
        ),
        vae=DenseVAEConfig(
            latent_channels=8,
            encoder_channels=(8, 32, 64),
            decoder_channels=(64, 32, 12),
            in_channels=2,
            out_channels=2,
            encoder_res_blocks=1,
            encoder_middle_blocks=1,
            decoder_res_blocks=1,
            decoder_middle_blocks=1,
        ),
        sampling=SamplingConfig(steps=12, shift=2.0, guidance=3.0, prediction="sample", noise_scale=3.0),
        resolution=32,
        occupancy_threshold=0.4,
        field_cells=3.0,
    ),
    sparse=(
        SparseStageConfig(
            resolution=128,
            dit=SparseDiTConfig(
                resolution=32,
                in_channels=8,
                out_channels=8,
                width=192,
                cond_width=192,
                num_blocks=5,
                num_cross_heads=6,
                ssa=replace(_V1_1_SSA, num_heads=6),
                shared_modulation=True,
            ),
            vae=SparseVAEConfig(
                latent_channels=8,
                resolution=32,
                encoder_width=96,
                encoder_channels=(16, 32, 96),
                encoder_blocks=1,
                encoder_heads=3,
                encoder_head_dim=32,
                decoder_width=96,
                decoder_channels=(48, 24),
                decoder_blocks=2,
                decoder_heads=3,
                decoder_head_dim=32,
                norm_groups=8,
            ),
            sampling=SamplingConfig(steps=3, shift=1.0, guidance=1.0),
            iso_level=0.0,
            truncation_voxels=4.0,
            band_voxels=4.0,
            memory_gb=0.9,
            start_noise=0.3,
            max_tokens=16_384,
        ),
    ),
    license="MIT",
    source="trained by core.cli.train_starter on procedural shapes; weights in this repository",
    bundled=True,
)

PRESETS: dict[str, ModelPreset] = {preset.name: preset for preset in (STARTER, V1_1, V1_0)}


def get_preset(name: str) -> ModelPreset:
    """The preset called ``name``.

    Raises:
        ConfigError: if there is none, listing those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}. Known: {', '.join(PRESETS)}.")
    return PRESETS[name]

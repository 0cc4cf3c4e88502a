"""What each stage of a preset needs on a device, in bytes: the table that the memory plan decides by.

Letters: B samples at once, T image tokens, W width, e bytes of a number of the networks, N occupied latent cells,
G key heads, K selected blocks, L levels of a decoder, M = N * 8^L voxels, F decoder features.

Weights are counted on networks without memory. What else is alive at a stage's worst moment, in bytes:

===========  =======================================================================================================
image        B (44 T W + 24 S^2), S pixels a side: the encoder works in float32
structure    B n W (12 e + 8), n patches, B twice where both branches of guidance are one evaluation; the decoder
             holds, of its largest level, 3 volumes in e and 2 in float32
detail       N W (12 e + 4) for a block's widest moment and the positions; 3 T W e for what it makes of the picture;
             300 N for the tables that follow from the coordinates. With the torch operations also 8 N W in float32,
             the parts of the selected attention, 4 N W K (134 MB at most), 80 N G K for their order, and scores
decode       the transformer, N W' (14 e + 12), and then the convolutions, which keep within a budget; the result:
             20 M, F e M with features, coordinates of all levels 2.3 M
refine       the decoded field, and ``core.models.refiner_tiles.kept_bytes`` with a slab
surface      the decoded field, and a bounded number of blocks of it
===========  =======================================================================================================

``tests/core/pipeline/test_memory_table.py`` counts the bytes that really live.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from core.checkpoints.load import build_unfilled
from core.config import stages as names
from core.config.models import ConditionerConfig, DenseDiTConfig, SparseDiTConfig
from core.config.presets import DenseStageConfig, ModelPreset, SparseStageConfig
from core.models.decoder_memory import ConvolutionMemory
from core.models.refiner_tiles import kept_bytes
from core.models.slabs import SLAB_BYTES
from core.models.streaming import slots_for
from core.nn.precision import set_compute_dtype
from core.ops.attention import PAIR_VALUES_PER_CHUNK
from core.pipeline.stages import TOGETHER_TOKENS

TOKENS_PER_SIDE_SQUARED = 2.8  # of an ordinary object: its surface; 46,000 at 128 cells a side
CONVOLUTIONS = 1 << 30  # what decoders are given where there is enough; more makes them hardly faster
LEAST_CONVOLUTIONS = 256 << 20
_LEAST_SLAB = 64 << 20
_SCORES = {"cpu": 24 << 20}  # of attention with the torch operations, and of the choice of blocks
_SCORES_ACCELERATOR = 1 << 30
_KERNEL_SCORES = 64 << 20
_BLOCKS = 256 << 20  # of the field, while its surface is made
_VOXEL_ROWS = 96 << 20  # of voxels looked at at once


@dataclass(frozen=True)
class Machine:
    """What decides how much memory numbers take."""

    kind: str  # of the device: cpu, cuda, mps
    dtype: torch.dtype  # of the networks
    kernels: bool  # whether sparse attention and convolution run as kernels

    @property
    def itemsize(self) -> int:
        return torch.finfo(self.dtype).bits // 8


@dataclass(frozen=True)
class StageNeed:
    """One stage: the networks that it uses, and what it needs beside their weights."""

    stage: str  # one of core.config.stages.stage_names
    networks: tuple[str, ...]
    work: int  # bytes, with comfortable budgets
    least: int  # bytes, with the smallest


def planned_tokens(preset: ModelPreset) -> dict[int, int]:
    """Tokens of an ordinary object at each sparse stage, by its resolution."""
    return {
        stage.resolution: min(round(TOKENS_PER_SIDE_SQUARED * stage.dit.resolution**2), stage.max_tokens)
        for stage in preset.sparse
    }


def stage_needs(preset: ModelPreset, machine: Machine, tokens: Mapping[int, int], batch: int = 1) -> list[StageNeed]:
    """The table for ``preset``.

    Args:
        tokens: of each sparse stage, by its resolution.
        batch: pictures that the first two stages see at once.
    """
    needs = [
        _fixed(names.IMAGE, ("conditioner",), batch * _image(preset.conditioner)),
        _fixed(names.STRUCTURE, ("dense_dit", "dense_vae"), _structure(preset.dense, machine, batch)),
    ]
    for number, stage in enumerate(preset.sparse):
        coarse = number == 0 and stage.start_noise < 1
        needs += _sparse_needs(stage, machine, tokens[stage.resolution], preset.conditioner, coarse=coarse)
    return needs


def _sparse_needs(
    stage: SparseStageConfig, machine: Machine, count: int, conditioner: ConditionerConfig, *, coarse: bool
) -> list[StageNeed]:
    side, vae = stage.resolution, stage.vae
    dit, decoder, refiner = f"sparse_dit_{side}", f"sparse_vae_{side}", f"refiner_{side}"
    last = (decoder,) if stage.refiner is None else (decoder, refiner)
    field = field_bytes(stage, machine, count)
    transformer = count * vae.decoder_width * (14 * machine.itemsize + 12)
    before = count * vae.decoder_width * machine.itemsize
    ladder, device = (vae.decoder_width, *vae.decoder_channels), torch.device(machine.kind)
    whole = ConvolutionMemory(ladder, machine.itemsize, device, machine.kernels).peak(count, vae.resolution**3)
    needs = [
        _fixed(names.detail(side), (dit, decoder) if coarse else (dit,), _detail(stage, machine, count, conditioner)),
        StageNeed(
            names.decode(side),
            last,
            max(transformer, before + field + min(whole, CONVOLUTIONS)),
            max(transformer, before + field + min(whole, LEAST_CONVOLUTIONS)),
        ),
    ]
    if stage.refiner is not None:
        kept = field + _VOXEL_ROWS + kept_bytes(stage.refiner, machine.dtype)
        needs.append(StageNeed(names.refine(side), last, kept + SLAB_BYTES, kept + _LEAST_SLAB))
    return [*needs, _fixed(names.surface(side), last, field + _BLOCKS)]


def _fixed(stage: str, networks: tuple[str, ...], work: int) -> StageNeed:
    return StageNeed(stage, networks, work, work)


# --- activations ---


def _image(config: ConditionerConfig) -> int:
    return 44 * config.num_tokens * config.width + 24 * config.image_size**2


def _structure(stage: DenseStageConfig, machine: Machine, batch: int) -> int:
    dit, ladder, e = stage.dit, stage.vae.decoder_channels, machine.itemsize
    patches = (dit.resolution // dit.patch_size) ** 3
    together = batch * patches <= TOGETHER_TOKENS.get(machine.kind, 0)
    walk = batch * (1 + together) * patches * dit.width * (12 * e + 8)
    levels = [stage.resolution // 2 ** (len(ladder) - 1 - level) for level in range(len(ladder))]
    volume = max(side**3 * channels for side, channels in zip(levels, ladder, strict=True))
    return max(walk, batch * volume * (3 * e + 8))


def _detail(stage: SparseStageConfig, machine: Machine, count: int, conditioner: ConditionerConfig) -> int:
    width, e = stage.dit.width, machine.itemsize
    work = count * width * (12 * e + 4) + 3 * conditioner.num_tokens * width * e + 300 * count
    if machine.kernels:
        return work + _KERNEL_SCORES
    ssa = stage.dit.ssa
    parts = min(4 * count * width * ssa.selected_blocks, 4 * PAIR_VALUES_PER_CHUNK)
    order = 80 * count * ssa.num_kv_heads * ssa.selected_blocks
    return work + 8 * count * width + parts + order + _SCORES.get(machine.kind, _SCORES_ACCELERATOR)


def field_bytes(stage: SparseStageConfig, machine: Machine, count: int) -> int:
    """The decoded field of ``count`` latents: distances, coordinates, and features where the refiner wants them."""
    voxels = count * stage.vae.upsampling**3
    features = stage.refiner is not None and stage.refiner.kind == "sdf"
    return voxels * (4 + 16) + voxels * 16 // 7 + voxels * stage.vae.decoder_channels[-1] * machine.itemsize * features


# --- weights ---


def weight_bytes(config: Any, dtype: torch.dtype) -> int:
    """The weights of a network on its device; the image encoder's are in float32 whatever ``dtype`` is."""
    return _weights(config, dtype)[0]


def streamed_bytes(config: Any, dtype: torch.dtype) -> int:
    """The same with blocks that are streamed: all else, and the slots."""
    total, blocks, count = _weights(config, dtype)
    return total - blocks + blocks * slots_for(count) // count


def can_stream(config: Any) -> bool:
    """Whether the network has blocks that are worth it: the diffusion transformers'."""
    return isinstance(config, DenseDiTConfig | SparseDiTConfig)


@lru_cache(maxsize=64)
def _weights(config: Any, dtype: torch.dtype) -> tuple[int, int, int]:
    """Bytes of all weights and of those in blocks, and the number of blocks."""
    if isinstance(config, ConditionerConfig):
        return 4 * _conditioner_weights(config), 0, 1
    network = set_compute_dtype(build_unfilled(config), dtype)
    blocks = getattr(network, "blocks", ())
    inside = sum(parameter.nbytes for block in blocks for parameter in block.parameters())
    return sum(value.nbytes for value in network.state_dict().values()), inside, max(len(blocks), 1)


def _conditioner_weights(config: ConditionerConfig) -> int:
    """Numbers in DINOv2 with registers; building it would load its library, which takes seconds."""
    width, hidden = config.width, config.mlp_ratio * config.width
    patches = (config.image_size // config.patch_size) ** 2
    embeddings = (3 * config.patch_size**2 + 1) * width + (2 + config.num_registers + patches + 1) * width
    attention, scales_and_norms = 4 * (width + 1) * width, 2 * width + 4 * width
    return (
        embeddings
        + config.num_blocks * (attention + scales_and_norms + 2 * width * hidden + hidden + width)
        + 2 * width
    )

"""What is resident on the device at each stage: the one place that decides it.

========  ============================================================================================================
all       every network stays on the device, also between runs
stage     only those of the running stage; the others are read again, from the system's page cache
stream    as ``stage``, and the blocks of diffusion transformers come from host memory (core.models.streaming); what
          they compute is then not recorded as CUDA graphs
========  ============================================================================================================

``auto`` takes the first that fits into the free memory. Decoders and refiners get what is left as their budget. A
shape that is larger than planned moves the rest of its run to the next mode, and so does memory that runs out, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from core.config import stages as names
from core.config.generation import MAX_TOKENS, Memory
from core.config.presets import ModelPreset, SparseStageConfig
from core.models.refiner_tiles import kept_bytes
from core.models.slabs import SLAB_BYTES
from core.ops.backend import Backend, backend_for
from core.pipeline.devices import device_memory
from core.pipeline.memory_table import (
    CONVOLUTIONS,
    LEAST_CONVOLUTIONS,
    Machine,
    StageNeed,
    can_stream,
    field_bytes,
    planned_tokens,
    stage_needs,
    streamed_bytes,
    weight_bytes,
)
from core.pipeline.stages import TOGETHER_TOKENS

MODES: tuple[Memory, ...] = ("all", "stage", "stream")
USED = 0.9  # share of the free memory that is planned with; the rest is for what lies scattered in it
CONTEXT = 500_000_000  # of a CUDA device, before anything is computed
_MORE_CONVOLUTIONS = 4 * CONVOLUTIONS


@dataclass(frozen=True)
class MemoryPlan:
    """The mode of a run, and what follows from it."""

    preset: ModelPreset  # up to the stage that ends the run
    machine: Machine
    device: str
    mode: Memory
    asked: Memory  # auto: the mode may change with the shape
    free: int | None  # bytes of the device that the run may take, its own networks included; None: not known
    tokens: Mapping[int, int] = field(default_factory=dict)  # of sparse stages, by resolution: planned, then real
    lowered: bool = False  # memory ran out: budgets are halved, pictures come one at a time

    @property
    def usable(self) -> int | None:
        """Bytes that are planned with."""
        return None if self.free is None else int(self.free * USED)

    @property
    def streams(self) -> bool:
        return self.mode == "stream"

    def weights(self, need: StageNeed, mode: Memory) -> int:
        """Bytes of the networks that are on the device at a stage."""
        configs, dtype = self.preset.networks(), self.machine.dtype
        names_there = configs if mode == "all" else need.networks
        streamed = {name for name in names_there if mode == "stream" and can_stream(configs[name])}
        return sum(
            streamed_bytes(configs[name], dtype) if name in streamed else weight_bytes(configs[name], dtype)
            for name in names_there
        )

    def needs(self) -> list[StageNeed]:
        """The stages of the run, for the tokens that are known or planned."""
        return stage_needs(self.preset, self.machine, self.tokens)

    def peak(self, mode: Memory | None = None, *, least: bool = False) -> tuple[int, str]:
        """Bytes at the worst stage, and which it is; ``least``: with the smallest budgets."""
        mode = mode or self.mode
        return max(
            (self.weights(need, mode) + (need.least if least else need.work), need.stage) for need in self.needs()
        )

    def why(self) -> str:
        """A sentence: the mode's peak, and why it is not a faster one."""
        peak, stage = self.peak()
        sentence = f"{self.mode}: at most about {_gb(peak)} GB, in '{stage}'"
        if self.free is None:
            return f"{sentence}; {self.device} does not tell what is free"
        if self.asked == "auto" and self.mode != "all":
            before = MODES[MODES.index(self.mode) - 1]
            sentence += f"; {before} would take {_gb(self.peak(before)[0])}"
        short = "" if peak <= (self.usable or 0) else ", so it may run out"
        return f"{sentence}; {_gb(self.free)} GB are free{short}"

    # --- what it gives to stages ---

    def decoder_budget(self, stage: SparseStageConfig, count: int) -> int:
        """Bytes for the convolutions of the decoder of ``count`` latents."""
        before = count * stage.vae.decoder_width * self.machine.itemsize + field_bytes(stage, self.machine, count)
        budget = self._left(names.decode(stage.resolution), before, _MORE_CONVOLUTIONS)
        return max(budget, LEAST_CONVOLUTIONS // (1 + self.lowered))

    def refiner_budget(self, stage: SparseStageConfig, count: int) -> int:
        """Bytes for a refiner beside weights and arguments: the same on every machine that has them."""
        assert stage.refiner is not None
        kept = kept_bytes(stage.refiner, self.machine.dtype)
        before = field_bytes(stage, self.machine, count)
        return self._left(names.refine(stage.resolution), before, kept + SLAB_BYTES // (1 + self.lowered))

    def _left(self, stage: str, before: int, most: int) -> int:
        if self.usable is None:
            return most // (1 + self.lowered)
        need = next(need for need in self.needs() if need.stage == stage)
        left = self.usable - self.weights(need, self.mode) - before
        return min(max(left, 0) // (1 + self.lowered), most)

    def batch(self, count: int) -> int:
        """Of ``count`` pictures, how many the first two stages see at once.

        As many as fill a GPU and fit; one on other devices, where a product of several pictures is rounded otherwise
        than that of one, and gains little.
        """
        if self.machine.kind != "cuda" or self.lowered:
            return 1
        dit = self.preset.dense.dit
        fill = max(TOGETHER_TOKENS["cuda"] // (dit.resolution // dit.patch_size) ** 3, 1)
        size = min(count, fill)
        while size > 1 and not self._fits_batch(size):
            size //= 2
        return size

    def _fits_batch(self, size: int) -> bool:
        needs = stage_needs(self.preset, self.machine, self.tokens, size)[:2]
        return self.usable is None or all(self.weights(need, self.mode) + need.work <= self.usable for need in needs)

    def most_tokens(self, stage: SparseStageConfig) -> int:
        """The most tokens of a sparse stage that fit in any mode, about."""
        if self.usable is None:
            return MAX_TOKENS
        low, high = 0, MAX_TOKENS
        while high - low > 256:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(stage, middle) else (low, middle)
        return low

    def _fits(self, stage: SparseStageConfig, count: int) -> bool:
        alone = replace(self.preset, sparse=(stage,))
        needs = stage_needs(alone, self.machine, {stage.resolution: count})[2:]
        return all(self.weights(need, "stream") + need.least <= (self.usable or 0) for need in needs)

    # --- other plans ---

    def for_tokens(self, resolution: int, count: int) -> "MemoryPlan":
        """The plan now that the tokens of a stage are known: of the same mode, or where ``auto`` chose it a later."""
        return replace(self, tokens={**self.tokens, resolution: count})._fitting(MODES.index(self.mode))

    def next(self) -> "MemoryPlan":
        """The plan after memory ran out: one mode further, where there is one, with half the budgets."""
        following = MODES[min(MODES.index(self.mode) + 1, len(MODES) - 1)]
        return replace(self, mode=following, lowered=True)

    def _fitting(self, first: int) -> "MemoryPlan":
        if self.asked != "auto" or self.usable is None:
            return self
        for mode in MODES[first:]:
            if self.peak(mode, least=mode != "all")[0] <= self.usable:
                return replace(self, mode=mode)
        return replace(self, mode=MODES[-1])


def make_plan(
    preset: ModelPreset,
    device: torch.device,
    dtype: torch.dtype,
    asked: Memory = "auto",
    *,
    free: int | None = None,
    held: int = 0,
) -> MemoryPlan:
    """The plan of a run.

    Args:
        preset: up to the stage that ends the run.
        dtype: of the networks.
        asked: a mode, or ``auto``.
        free: bytes of the device; None asks it.
        held: bytes of it that networks of this preset have already.
    """
    if free is None and (memory := device_memory(device)) is not None:
        free = memory[0]
    kernels = backend_for("spatial_sparse_attention", device) is Backend.TRITON
    plan = MemoryPlan(
        preset=preset,
        machine=Machine(device.type, dtype, kernels),
        device=str(device),
        mode="all" if asked == "auto" else asked,
        asked=asked,
        free=None if free is None else free + held,
        tokens=planned_tokens(preset),
    )
    return plan._fitting(0)


def device_need(preset: ModelPreset, resolution: int | None = None) -> int:
    """Bytes that a CUDA device must have free for an ordinary object, in the most economical mode."""
    machine = Machine("cuda", torch.bfloat16, kernels=True)
    cut = preset.up_to(resolution)
    plan = MemoryPlan(cut, machine, "cuda", "stream", "stream", None, planned_tokens(cut))
    return int(plan.peak(least=True)[0] / USED) + CONTEXT


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f}"

"""A whole block of the sparse diffusion model and a whole evaluation of it: kernels against plain torch, graph or not.

    python -m tests.bench.block [--device cuda] [--backward] [--quick] [--json] [--threads 2] [--minutes M] [--report]

Scope ``block`` is one block (attention, cross-attention, feed-forward) with its geometry computed before; ``torch_ms``
is the same block with every op on the torch backend. Scope ``step`` is what a sampling step does with guidance:
the network with and without a condition; ``graph_ms`` is that replayed from a CUDA graph, as the sampler does it.
Nothing passes or fails here; a row whose ``ms`` is null says why under ``problems``.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.config.models import SparseDiTConfig
from core.config.presets import V1_1
from core.models.sparse_dit import SparseDiT
from core.nn.sparse_blocks import SparseModulatedCrossBlock
from core.ops.backend import Backend, use_backend
from core.pipeline.graphs import Predict, replayed
from core.sparse.tensor import SparseTensor
from tests.bench.parts.floors import SHORT, gemm_rate
from tests.bench.parts.results import Sheet, parser_of
from tests.bench.parts.shells import features, shell
from tests.bench.parts.sides import one_pass, whole
from tests.bench.parts.timing import (
    CPU,
    GPU,
    QUICK,
    SLOW,
    Call,
    Policy,
    captured,
    free,
    medians,
    peak_mb,
    prepared,
    rounded,
    share,
)

IMAGE_TOKENS = V1_1.conditioner.num_tokens
TORCH_TOKENS = 50_000  # beyond, the torch backend takes too many seconds
STEP_TOKENS = 50_000  # so does a whole step, 48 blocks
COLUMNS = ("config", "tokens", "dtype", "scope", "pass", "ms", "graph_ms", "torch_ms", "vs_torch", "products_ms",
           "peak_mb", "torch_peak_mb")  # fmt: skip
RELEASED = V1_1.sparse[-1].dit
TINY = replace(RELEASED, width=64, cond_width=32, num_blocks=2, num_cross_heads=2,
               ssa=replace(RELEASED.ssa, num_heads=4, selected_blocks=2))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    options = parser_of("block", "A block and a step of the sparse diffusion model.").parse_args(argv)
    sheet = Sheet("block", options, COLUMNS)
    on_gpu = sheet.device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    name, config = ("tiny", TINY) if options.quick else ("v1.1", RELEASED)
    sizes = (300,) if options.quick else (45_900, 10_700, 131_072) if on_gpu else (4_000,)
    for tokens in sizes:
        for rows in (block_rows, step_rows) if tokens <= STEP_TOKENS else (block_rows,):
            for row in rows(config, tokens, dtype, sheet, options):
                sheet.add({"config": name, **row})
            free(sheet.device)
            if sheet.budget.spent():
                return sheet.finish()
    return sheet.finish()


class Block:
    """One block on one input."""

    def __init__(self, config: SparseDiTConfig, tokens: int, dtype: torch.dtype, device: torch.device):
        width, cross = config.width, config.num_cross_heads
        coords = shell(tokens).to(device)
        self.block = SparseModulatedCrossBlock(width, config.cond_width, cross, config.ssa).to(device, dtype)
        self.x = SparseTensor(features(coords, width, "smooth", 1).to(dtype), coords)
        self.modulation = torch.randn(1, width, device=device).to(dtype)
        self.cond = torch.randn(1, IMAGE_TOKENS, config.cond_width, device=device).to(dtype)
        self.grad = torch.randn_like(self.x.feats)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What gradients are asked for."""
        return self.x.feats, *self.block.parameters()

    def run(self) -> Tensor:
        """[N, C]."""
        return self.block(self.x, self.modulation, self.cond).feats

    def twin(self) -> "Block":
        """The same with weights of its own, see ``sides.Kernel.twin``."""
        other = copy.copy(self)
        other.block = copy.deepcopy(self.block)
        other.x = self.x.replace(self.x.feats.detach().requires_grad_(self.x.feats.requires_grad))
        return other


def block_rows(
    config: SparseDiTConfig, tokens: int, dtype: torch.dtype, sheet: Sheet, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One block, forward and backward."""
    device = sheet.device
    block = Block(config, tokens, dtype, device)
    for backward in (False, True) if options.backward else (False,):
        for tensor in block.inputs:
            tensor.requires_grad_(backward)

        def recorded(backward: bool = backward) -> Call:
            twin = block.twin()
            return one_pass(twin.run, twin.inputs, twin.grad, backward)

        def on_torch(backward: bool = backward) -> Tensor:
            with use_backend(Backend.TORCH):
                return block.run()

        ours = (block.run, block.inputs, block.grad, backward)
        builders: dict[str, Callable[[], Call]] = {"ours": lambda ours=ours: one_pass(*ours)}
        if device.type == "cuda":
            builders["graph"] = lambda recorded=recorded: captured(recorded, device)
        row = _measured(builders, sheet)
        row["peak_mb"] = peak_mb(whole(*ours), device) if row["ms"] else None
        if block.x.num_voxels <= TORCH_TOKENS:
            theirs = (on_torch, block.inputs, block.grad, backward)
            row |= _torch_side(
                lambda theirs=theirs: one_pass(*theirs), lambda theirs=theirs: whole(*theirs), row, sheet
            )
        products = _products(config, block.x.num_voxels, IMAGE_TOKENS) * (2 if backward else 1)
        row["products_ms"] = rounded(1e3 * products / gemm_rate(sheet.ceilings, dtype))
        yield {"tokens": block.x.num_voxels, "dtype": SHORT[dtype], "scope": "block",
               "pass": "backward" if backward else "forward", **row}  # fmt: skip


def step_rows(
    config: SparseDiTConfig, tokens: int, dtype: torch.dtype, sheet: Sheet, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The network with and without a condition, as the sampler calls it."""
    device = sheet.device
    network = SparseDiT(config).to(device, dtype).requires_grad_(False)
    coords = shell(tokens).to(device)
    x = SparseTensor(features(coords, config.in_channels, "smooth", 2).to(dtype), coords)
    cond = torch.randn(1, IMAGE_TOKENS, config.cond_width, device=device).to(dtype)
    t = torch.full((1,), 500.0, device=device)

    def predict(latent: Tensor, t: Tensor, conditional: bool) -> Tensor:
        return network(x.replace(latent), t, cond if conditional else cond[:0]).feats

    def both(evaluate: Predict) -> Call:
        def call() -> Tensor:
            with torch.no_grad():
                towards = evaluate(x.feats, t, True)
                return towards + evaluate(x.feats, t, False)

        return call

    with replayed(predict, device) as graphed:
        builders = {"ours": lambda: both(predict)}
        if device.type == "cuda":
            builders["graph"] = lambda: both(graphed)
        row = _measured(builders, sheet)
    row["peak_mb"] = peak_mb(both(predict), device) if row["ms"] else None
    products = 2 * config.num_blocks * _products(config, x.num_voxels, IMAGE_TOKENS)
    row["products_ms"] = rounded(1e3 * products / gemm_rate(sheet.ceilings, dtype))
    yield {"tokens": x.num_voxels, "dtype": SHORT[dtype], "scope": "step", "pass": "forward", **row}


def _products(config: SparseDiTConfig, tokens: int, image_tokens: int) -> float:
    """Floating-point operations of the dense layers of one block, cross-attention included, SSA's own not."""
    width, kv = config.width, 2 * config.ssa.num_kv_heads * config.width // config.ssa.num_heads
    attention = width * (2 * width + kv)
    cross = 2 * width * width + 2 * image_tokens * width  # projections, and a token against all image tokens
    return 2.0 * tokens * (attention + cross + 2 * config.mlp_ratio * width * width)


def _torch_side(
    build: Callable[[], Call], build_whole: Callable[[], Call], row: dict[str, Any], sheet: Sheet
) -> dict[str, Any]:
    """The torch backend by itself and a few times only: at these sizes it takes seconds."""
    calls, problems = prepared({"torch": build})
    if problems:
        return {"problems": {**row.get("problems", {}), **problems}}
    policy = SLOW if sheet.device.type == "cuda" else _policy(sheet)
    ms = medians(calls, sheet.device, policy)["torch"]
    del calls
    found = {"torch_ms": rounded(ms), "torch_repeats": policy.repeats, "vs_torch": share(ms, row["ms"])}
    return {**found, "torch_peak_mb": peak_mb(build_whole(), sheet.device)}


def _policy(sheet: Sheet) -> Policy:
    return QUICK if sheet.options.quick else GPU if sheet.device.type == "cuda" else CPU


def _measured(builders: dict[str, Any], sheet: Sheet) -> dict[str, Any]:
    calls, problems = prepared(builders)
    ms = medians(calls, sheet.device, _policy(sheet))
    row: dict[str, Any] = {"ms": rounded(ms.get("ours")), "graph_ms": rounded(ms.get("graph")), "torch_ms": None}
    return {**row, "problems": problems} if problems else row


if __name__ == "__main__":
    sys.exit(main())

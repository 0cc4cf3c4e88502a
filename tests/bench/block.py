"""A whole block of the sparse diffusion model and a whole evaluation of it: kernels against plain torch, graph or not.

    python -m tests.bench.block [--device cuda] [--backward] [--quick] [--json] [--threads 2] [--minutes M] [--report]

Scope ``block`` is one block (attention, cross-attention, feed-forward) with its geometry computed before; ``torch_ms``
is the same block with every op on the torch backend. Scope ``step`` is what a sampling step does with guidance:
the network with and without a condition; ``graph_ms`` is that replayed from a CUDA graph, as the sampler does it.
Nothing passes or fails here; a row whose ``ms`` is null says why under ``problems``.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.config.models import SparseDiTConfig
from core.config.presets import V1_1
from core.models.sparse_dit import SparseDiT
from core.nn.sparse_blocks import SparseModulatedCrossBlock
from core.ops.backend import Backend, use_backend
from core.pipeline.graphs import replayed
from core.sparse.tensor import SparseTensor
from tests.bench.parts.floors import SHORT, gemm_rate
from tests.bench.parts.results import Sheet, parser_of
from tests.bench.parts.shells import features, shell
from tests.bench.parts.timing import (
    CPU,
    GPU,
    QUICK,
    Call,
    captured,
    free,
    medians,
    one_line,
    peak_mb,
    prepared,
    rounded,
    share,
)

IMAGE_TOKENS = V1_1.conditioner.num_tokens
TORCH_TOKENS = 50_000  # the torch backend takes seconds beyond
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
        for rows in (block_rows, step_rows):
            for row in rows(config, tokens, dtype, sheet, options):
                sheet.add({"config": name, **row})
            free(sheet.device)
            if sheet.budget.spent():
                return sheet.finish()
    return sheet.finish()


def block_rows(
    config: SparseDiTConfig, tokens: int, dtype: torch.dtype, sheet: Sheet, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One block, forward and backward."""
    device, width = sheet.device, config.width
    block = SparseModulatedCrossBlock(width, config.cond_width, config.num_cross_heads, config.ssa).to(device, dtype)
    coords = shell(tokens).to(device)
    x = SparseTensor(features(coords, width, "smooth", 1).to(dtype), coords)
    modulation = torch.randn(1, width, device=device).to(dtype)
    cond = torch.randn(1, IMAGE_TOKENS, config.cond_width, device=device).to(dtype)
    grad = torch.randn_like(x.feats)
    leaves = (x.feats, *block.parameters())

    def forward() -> Tensor:
        return block(x, modulation, cond).feats

    def both() -> tuple[Tensor, ...]:
        out = forward()
        return out, *torch.autograd.grad(out, leaves, grad)

    for backward in (False, True) if options.backward else (False,):
        for leaf in leaves:
            leaf.requires_grad_(backward)

        def make(backend: Backend | None, backward: bool = backward) -> Call:
            with _on(backend):
                if not backward:
                    return _quiet(forward, backend)
                out = forward()
            return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)

        builders = {"ours": lambda make=make: make(None)}
        if x.num_voxels <= TORCH_TOKENS:
            builders["torch"] = lambda make=make: make(Backend.TORCH)
        if device.type == "cuda":
            builders["graph"] = lambda make=make: captured(lambda: make(None), device)
        row = _measured(builders, sheet)
        row["peak_mb"] = peak_mb(both if backward else _quiet(forward, None), device) if row["ms"] else None
        row["torch_peak_mb"] = (
            _torch_peak(both if backward else _quiet(forward, None), device) if row["torch_ms"] else None
        )
        products = _products(config, x.num_voxels, IMAGE_TOKENS) * (2 if backward else 1)
        row["products_ms"] = rounded(1e3 * products / gemm_rate(sheet.ceilings, dtype))
        yield {"tokens": x.num_voxels, "dtype": SHORT[dtype], "scope": "block",
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

    def both(evaluate: Any, backend: Backend | None = None) -> Call:
        def call() -> Tensor:
            with torch.no_grad(), _on(backend):
                towards = evaluate(x.feats, t, True)
                return towards + evaluate(x.feats, t, False)

        return call

    with replayed(predict, device) as graphed:
        builders = {"ours": lambda: both(predict)}
        if x.num_voxels <= TORCH_TOKENS:
            builders["torch"] = lambda: both(predict, Backend.TORCH)
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


def _on(backend: Backend | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if backend is None else use_backend(backend)


def _quiet(forward: Call, backend: Backend | None) -> Call:
    def call() -> object:
        with torch.no_grad(), _on(backend):
            return forward()

    return call


def _torch_peak(call: Call, device: torch.device) -> float | None:
    def on_torch() -> object:
        with use_backend(Backend.TORCH):
            return call()

    try:
        return peak_mb(on_torch, device)
    except torch.cuda.OutOfMemoryError:
        return None


def _measured(builders: dict[str, Any], sheet: Sheet) -> dict[str, Any]:
    calls, problems = prepared(builders)
    policy = QUICK if sheet.options.quick else GPU if sheet.device.type == "cuda" else CPU
    try:
        ms = medians(calls, sheet.device, policy)
    except Exception as error:  # one that ran once and then did not: said in the row
        problems["time"], ms = one_line(error), {}
    row: dict[str, Any] = {f"{name}_ms": rounded(ms.get(name)) for name in ("graph", "torch")}
    row = {"ms": rounded(ms.get("ours")), **row, "vs_torch": share(ms.get("torch"), ms.get("ours"))}
    return {**row, "problems": problems} if problems else row


if __name__ == "__main__":
    sys.exit(main())

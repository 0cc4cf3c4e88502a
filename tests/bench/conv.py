"""The sparse convolutions of the SDF decoder, and general ones, against two plain ways to do the same.

    python -m tests.bench.conv [--device cuda] [--backward] [--quick] [--json] [--threads 2] [--minutes M] [--report]

Config ``decoder`` is the released ladder, convolution by convolution on the bricks that latents become, then all six in
a row (``layer`` all) and the whole decoder with its transformer (``layer`` module). Config ``general`` is a set of
voxels with nothing known about it. The rivals: ``im2col_ms`` gathers all neighbors side by side and multiplies once,
``gather_scatter_ms`` multiplies offset by offset; both are given neighbor maps and (where voxels were cut into eight)
the copied features. The floor has the products of the neighbors that are there, equal ones multiplied once.
Nothing passes or fails here; a row whose ``ms`` is null says why under ``problems``.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.config.models import SparseVAEConfig
from core.config.presets import V1_1
from core.models.sparse_decoder import SparseDecoder
from core.ops.brick_conv import brick_conv3d
from core.ops.conv_plan import ConvPlan, children_map, subdivided_columns
from core.ops.submanifold_conv import submanifold_conv3d
from core.sparse.neighbors import cached_conv_plan
from core.sparse.tensor import SparseTensor
from tests.bench.parts.floors import SHORT, gemm_rate
from tests.bench.parts.plain_conv import gather_scatter, im2col
from tests.bench.parts.results import Sheet, parser_of
from tests.bench.parts.shells import features, shell
from tests.bench.parts.timing import CPU, GPU, QUICK, Call, free, medians, peak_mb, prepared, rounded, share

RIVAL_VOXELS = 2**24  # rivals' maps of more voxels do not fit
BACKWARD_VOXELS = 2**21  # of the plain backward, which keeps all that was gathered
COLUMNS = ("config", "layer", "level", "tokens", "voxels", "dtype", "pass", "ms", "im2col_ms", "gather_scatter_ms",
           "floor_ms", "of_floor", "peak_mb")  # fmt: skip


class Layer(NamedTuple):
    """One convolution of 3^3 voxels."""

    level: int  # times that latents were cut into eight before it
    inputs: int
    outputs: int
    subdivide: bool  # cut once more, then convolve

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.inputs}->{self.outputs}" + (" on children" if self.subdivide else "")


def ladder(config: SparseVAEConfig) -> list[Layer]:
    """The convolutions of the decoder, in order."""
    widths, layers = (config.decoder_width, *config.decoder_channels), []
    for level, (coarse, fine) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layers += [Layer(level, coarse, fine, False), Layer(level, fine, fine, True)]
    return layers


RELEASED = V1_1.sparse[-1].vae
TINY = replace(RELEASED, latent_channels=4, decoder_width=32, decoder_channels=(16, 8), decoder_blocks=1,
               decoder_heads=1, decoder_head_dim=32)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    options = parser_of("conv", "Sparse convolutions against plain ways to do them.").parse_args(argv)
    sheet = Sheet("conv", options, COLUMNS)
    on_gpu = sheet.device.type == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    config = TINY if options.quick else RELEASED
    sizes = (60,) if options.quick else (131_072, 16_384) if on_gpu else (2_000,)
    jobs: list[Iterator[dict[str, Any]]] = []
    for tokens in sizes:
        jobs.append(decoder(config, tokens, dtype, sheet))
        jobs.append(single_layers(config, tokens, dtype, sheet, options))
    channels = ((16, 16),) if options.quick else ((64, 64), (128, 128))
    for tokens in sizes:
        jobs += [general(tokens, *pair, dtype, sheet, options) for pair in channels]
    for job in jobs:
        for row in job:
            sheet.add(row)
            if sheet.budget.spent():
                break
        free(sheet.device)
        if sheet.budget.spent():
            break
    return sheet.finish()


def decoder(config: SparseVAEConfig, tokens: int, dtype: torch.dtype, sheet: Sheet) -> Iterator[dict[str, Any]]:
    """All convolutions of the decoder in a row, and the decoder as it is."""
    x, layers = _voxels(tokens, sheet), ladder(config)
    plan = cached_conv_plan(x)
    feats = features(x.coords, layers[0].inputs, "iid", 1).to(dtype)
    weights = [_weights(layer, dtype, sheet.device) for layer in layers]

    def chain() -> Tensor:
        h = feats
        with torch.no_grad():
            for layer, (weight, bias) in zip(layers, weights, strict=True):
                h = brick_conv3d(h, plan, weight, bias, level=layer.level, subdivide=layer.subdivide, silu=True)
        return h

    voxels = x.num_voxels << 3 * len(config.decoder_channels)
    maps = _maps(plan.neighbor_map, max(layer.level for layer in layers))
    floor = sum(_floor(layer, maps[layer.level], dtype, sheet, False) for layer in layers)
    del maps
    known = {"config": "decoder", "level": None, "tokens": x.num_voxels, "voxels": voxels, "dtype": SHORT[dtype]}
    known |= {"pass": "forward", "im2col_ms": None, "gather_scatter_ms": None}
    yield {**known, "layer": "all", **_measured({"ours": lambda: chain}, floor, sheet)}
    free(sheet.device)

    def module() -> Call:
        network = SparseDecoder(config).to(sheet.device, dtype)
        latent = x.replace(features(x.coords, config.latent_channels, "iid", 2).to(dtype))

        def call() -> Tensor:
            with torch.no_grad():
                return network(latent)[0].feats

        return call

    yield {**known, "layer": "module", **_measured({"ours": module}, None, sheet)}


def single_layers(
    config: SparseVAEConfig, tokens: int, dtype: torch.dtype, sheet: Sheet, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Every convolution of the ladder by itself."""
    x = _voxels(tokens, sheet)
    plan = cached_conv_plan(x)
    for layer in ladder(config):
        rows = x.num_voxels << 3 * layer.level
        voxels = rows << 3 if layer.subdivide else rows
        feats = torch.randn(rows, layer.inputs, device=sheet.device, dtype=dtype)
        weight, bias = _weights(layer, dtype, sheet.device)
        here = _maps(plan.neighbor_map, layer.level)[layer.level]
        for backward in (False, True) if options.backward and voxels <= BACKWARD_VOXELS else (False,):
            most = BACKWARD_VOXELS if backward else RIVAL_VOXELS
            builders: dict[str, Callable[[], Call]] = {
                "ours": lambda layer=layer, f=feats, w=weight, b=bias, backward=backward: _pass(
                    lambda f, w, b: brick_conv3d(f, plan, w, b, level=layer.level, subdivide=layer.subdivide),
                    (f, w, b),
                    backward,
                )
            }
            if voxels <= most:
                whole_map = children_map(here) if layer.subdivide else here
                copied = feats.repeat_interleave(8, 0) if layer.subdivide else feats
                builders |= _rivals(copied, whole_map, weight, bias, backward)
                del whole_map, copied
            floor = _floor(layer, here, dtype, sheet, backward)
            yield {
                "config": "decoder", "layer": layer.name, "level": layer.level, "tokens": x.num_voxels,
                "voxels": voxels, "dtype": SHORT[dtype], "pass": "backward" if backward else "forward",
                **_measured(builders, floor, sheet),
            }  # fmt: skip
            del builders
            free(sheet.device)


def general(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype, sheet: Sheet, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A convolution of any set of voxels, as the encoder and version 2 of the compression have it."""
    x, layer = _voxels(tokens, sheet), Layer(0, inputs, outputs, False)
    plan = cached_conv_plan(x)
    feats = features(x.coords, inputs, "iid", 3).to(dtype)
    weight, bias = _weights(layer, dtype, sheet.device)
    for backward in (False, True) if options.backward else (False,):
        builders: dict[str, Callable[[], Call]] = {
            "ours": lambda backward=backward: _pass(
                lambda f, w, b: submanifold_conv3d(f, plan.neighbor_map, w, b, plan=plan),
                (feats, weight, bias),
                backward,
            ),
            "with_geometry": lambda: _pass(
                lambda f, w, b: submanifold_conv3d(f, (fresh := _fresh(x)).neighbor_map, w, b, plan=fresh),
                (feats, weight, bias),
                False,
            ),
        }
        if backward:
            del builders["with_geometry"]
        builders |= _rivals(feats, plan.neighbor_map, weight, bias, backward)
        floor = _floor(layer, plan.neighbor_map, dtype, sheet, backward)
        yield {
            "config": "general", "layer": layer.name, "level": 0, "tokens": x.num_voxels, "voxels": x.num_voxels,
            "dtype": SHORT[dtype], "pass": "backward" if backward else "forward",
            **_measured(builders, floor, sheet),
        }  # fmt: skip


def _voxels(tokens: int, sheet: Sheet) -> SparseTensor:
    coords = shell(tokens).to(sheet.device)
    return SparseTensor(coords[:, 1:].float(), coords)


def _fresh(x: SparseTensor) -> ConvPlan:
    return cached_conv_plan(SparseTensor(x.feats, x.coords))


def _weights(layer: Layer, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    weight = torch.randn(27, layer.inputs, layer.outputs, device=device) * (27 * layer.inputs) ** -0.5
    return weight.to(dtype), torch.randn(layer.outputs, device=device).to(dtype)


def _maps(neighbor_map: Tensor, levels: int) -> list[Tensor]:
    """Of the latents, and of their children, up to ``levels`` cuts."""
    maps = [neighbor_map]
    for _ in range(levels):
        maps.append(children_map(maps[-1]))
    return maps


def _floor(layer: Layer, neighbor_map: Tensor, dtype: torch.dtype, sheet: Sheet, backward: bool) -> float:
    """Milliseconds: the larger of products (twice as many backward) and bytes, at the ceilings."""
    rows = neighbor_map.shape[0]
    present = torch.stack([(column >= 0).sum() for column in neighbor_map.unbind(1)])
    products = present[torch.tensor(subdivided_columns(), device=present.device)].sum() if layer.subdivide else present
    flop = 2 * int(products.sum()) * layer.inputs * layer.outputs * (2 if backward else 1)
    out = 8 * rows if layer.subdivide else rows
    read, written = rows * layer.inputs, out * layer.outputs
    moved = (2 * read + written if backward else read + written) * dtype.itemsize
    return 1e3 * max(flop / gemm_rate(sheet.ceilings, dtype), moved / (1e12 * sheet.ceilings["copy_tb_s"]))


def _pass(convolve: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: tuple[Tensor, ...], backward: bool) -> Call:
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return convolve(*inputs)

        return forward
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    out = convolve(*leaves)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _rivals(
    feats: Tensor, neighbor_map: Tensor, weight: Tensor, bias: Tensor, backward: bool
) -> dict[str, Callable[[], Call]]:
    inputs = (feats, weight, bias)
    return {
        "im2col": lambda: _pass(lambda f, w, b: im2col(f, neighbor_map, w, b), inputs, backward),
        "gather_scatter": lambda: _pass(gather_scatter(neighbor_map), inputs, backward),
    }


def _measured(builders: dict[str, Callable[[], Call]], floor: float | None, sheet: Sheet) -> dict[str, Any]:
    calls, problems = prepared(builders)
    policy = QUICK if sheet.options.quick else GPU if sheet.device.type == "cuda" else CPU
    ms = medians(calls, sheet.device, policy)
    row: dict[str, Any] = {"ms": rounded(ms.get("ours")), "floor_ms": rounded(floor)}
    row["of_floor"] = share(floor, ms.get("ours"))
    row |= {f"{name}_ms": rounded(ms.get(name)) for name in ("im2col", "gather_scatter")}
    if "with_geometry" in ms:
        row["with_geometry_ms"] = rounded(ms["with_geometry"])
    row["peak_mb"] = peak_mb(calls["ours"], sheet.device) if "ours" in calls else None
    if problems:
        row["problems"] = problems
    return row


if __name__ == "__main__":
    sys.exit(main())

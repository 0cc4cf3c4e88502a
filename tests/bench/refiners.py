"""Refiners slab by slab against their dense definitions: a tile of each kind, and whole fields.

    python -m tests.bench.refiners [--patch 96] [--deep 512] [--budget-mb 0] [--case tile-sdf] [--quick] [--device cuda]

``tile-sdf`` and ``tile-sign``: one tile of ``--patch`` cells a side through the released network (random weights; its
lowest level as wide as ``--deep``), with the memory budget that is given (0: the least that works). ``field-sdf``: a
grid of three patches a side less their overlaps, from voxels to what the surface needs; dense: with all features and
the whole field. ``field-sign``: the same from voxels at twice the resolution to a field of one bit a cell.
The released sizes are 192 and 256; ``memory_mb`` of results is what a call added to the process, or to the device.
Numbers to compare are means of results.
"""

import argparse
import sys
from dataclasses import replace

from tests.bench.parts import apart


def config_of(options: argparse.Namespace, kind: str):
    from core.config.presets import V1_1

    patch = 32 if options.quick else options.patch
    stride = patch * 5 // 6 // 8 * 8 if kind == "sdf" else patch // 2
    cells = 2 * stride + patch
    return replace(
        V1_1.sparse[0 if kind == "sdf" else 1].refiner,
        resolution=cells if kind == "sdf" else 2 * cells,
        patch_size=patch,
        patch_stride=stride,
        block_channels=(8, 16, 16, 16) if options.quick else (8, 32, min(128, options.deep), options.deep),
    )


def model_of(options: argparse.Namespace, kind: str):
    import torch

    from core.models.refiner import SDFRefiner, SignRefiner

    torch.manual_seed(0)
    model = {"sdf": SDFRefiner, "sign": SignRefiner}[kind](config_of(options, kind)).eval()
    return model.to(options.device, torch.float16 if options.device.startswith("cuda") else torch.float32)


def tile(options: argparse.Namespace, kind: str, dense: bool):
    import torch

    from core.models.refiner_tiles import slab_budget

    model = model_of(options, kind)
    dtype, patch = model.conv_in.weight.dtype, model.config.patch_size

    def prepare():
        shapes = [(1, 1), (1, 8)] if kind == "sdf" else [(1, 1)]
        inputs = [torch.rand(*shape, patch, patch, patch, device=options.device, dtype=dtype) for shape in shapes]
        slab_bytes = slab_budget(model.config, options.budget_mb * 10**6, dtype)

        @torch.no_grad()
        def work():
            out = model(*inputs) if dense else model.forward_in_slabs(*inputs, slab_bytes)
            return float(out.float().mean())

        return work

    return prepare


def field(options: argparse.Namespace, kind: str, dense: bool):
    import torch

    from core.models.refiner_tiles import fade_weights, tile_starts, tiles
    from core.sparse.tensor import SparseTensor

    model = model_of(options, kind)
    dtype, config = model.conv_in.weight.dtype, model.config
    side = config.resolution

    def prepare():
        cells = torch.cartesian_prod(*[torch.arange(side // 8)] * 3)
        near = ((cells - side / 16 + 0.5).norm(dim=1) - 0.35 * side / 8).abs() < 0.9
        inner = torch.cartesian_prod(*[torch.arange(8)] * 3)
        coords = (cells[near][:, None] * 8 + inner).reshape(-1, 3)
        values = (((coords - side / 2 + 0.5).norm(dim=1) - 0.35 * side) / 4).clamp(-1, 1)
        coords = torch.nn.functional.pad(coords, (1, 0)).int().to(options.device)
        sdf = SparseTensor(values[:, None].to(options.device, dtype), coords)
        feats = None
        if kind == "sdf":
            feats = sdf.replace(torch.rand(len(coords), 32, device=options.device, dtype=dtype))

        def ours():
            found = model.refine_at(0.0, sdf, feats, memory_budget=options.budget_mb * 10**6)[0]
            if found.far is None:
                return float(len(found.coords))
            return float(found.far.outside.float().mean())

        @torch.no_grad()
        def definition():
            if kind == "sdf":
                grid = sdf.to_dense(side, fill=1.0)
                latent = model.latent_mlp(feats.to_dense(side).movedim(1, -1)).movedim(-1, 1)
                out = torch.zeros_like(grid, dtype=torch.float32)
                starts = tile_starts(side, config.patch_size, config.patch_stride)
                fade = dict(zip(starts, fade_weights(starts, side, config.patch_size).to(grid.device), strict=True))
                for corner in tiles(starts):
                    cut = tuple(slice(start, start + config.patch_size) for start in corner)
                    x, y, z = (fade[start][part] for start, part in zip(corner, cut, strict=True))
                    weight = x[:, None, None] * y[:, None] * z
                    out[0, 0][cut] += model(grid[(..., *cut)], latent[(..., *cut)])[0, 0].float() * weight
                above = torch.nn.functional.max_pool3d((out > 0).float(), 2, 1)
                below = torch.nn.functional.max_pool3d((out <= 0).float(), 2, 1)
                needed = torch.nn.functional.pad(above * below, (1,) * 6)
                return float((torch.nn.functional.max_pool3d(needed, 2, 1) > 0).sum())
            grid = sdf.to_dense(side, fill=1.0)
            held = sdf.replace(torch.ones_like(sdf.feats)).to_dense(side)
            count = torch.nn.functional.avg_pool3d(held.float(), 2) * 8
            total = torch.nn.functional.avg_pool3d((grid * held).float(), 2) * 8
            coarse = torch.where(count > 0, total / (count + 1), 1.0).to(dtype)
            sign = torch.ones_like(coarse)
            for corner in tiles(tile_starts(side // 2, config.patch_size, config.patch_stride)):
                cut = tuple(slice(start, start + config.patch_size) for start in corner)
                sign[(..., *cut)] = torch.where(model(coarse[(..., *cut)]) >= 0, 1.0, -1.0).to(dtype)
            fine = sign.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
            out = torch.where(held > 0, grid, grid.abs() * fine)
            return float((sign > 0).float().mean()) + 0.0 * float(out[0, 0, 0, 0, 0])

        return definition if dense else ours

    return prepare


CASES: apart.Cases = {
    "tile-sdf": {"slabs": lambda o: tile(o, "sdf", False), "dense": lambda o: tile(o, "sdf", True)},
    "tile-sign": {"slabs": lambda o: tile(o, "sign", False), "dense": lambda o: tile(o, "sign", True)},
    "tile-sdf-alone": {"slabs": lambda o: tile(o, "sdf", False)},
    "tile-sign-alone": {"slabs": lambda o: tile(o, "sign", False)},
    "field-sdf": {"tiles": lambda o: field(o, "sdf", False), "dense": lambda o: field(o, "sdf", True)},
    "field-sign": {"tiles": lambda o: field(o, "sign", False), "dense": lambda o: field(o, "sign", True)},
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=96, help="cells a side of a tile, a multiple of 16")
    parser.add_argument("--deep", type=int, default=512, help="channels of the lowest level; less is faster")
    parser.add_argument("--budget-mb", type=int, default=0, help="memory budget of ours, in 10^6 bytes")
    return apart.main("tests.bench.refiners", CASES, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

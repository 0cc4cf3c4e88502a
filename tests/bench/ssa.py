"""Spatial sparse attention against dense attention over the same tokens: seconds and their ratio.

    python -m tests.bench.ssa [--quick] [--backward] [--json] [--device cuda] [--threads 2]

Both sides have the same width, query heads and tokens; the SSA side is the whole module (projections
and gates included), the dense side scaled_dot_product_attention alone. The tokens are the
occupied cells of a spherical shell. Nothing passes or fails here.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from core.config.models import SSAConfig
from core.nn.ssa import SpatialSparseAttention
from core.ops.backend import backend_report
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor

RELEASED = SSAConfig(num_heads=32, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=8)
STARTER = SSAConfig(num_heads=6, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=8)
CASES = {  # name, width, sizes of SSA, tokens
    "quick": [("starter", 192, STARTER, 1000), ("starter", 192, STARTER, 4000)],
    "full": [
        ("starter", 192, STARTER, 4000),
        ("starter", 192, STARTER, 16000),
        ("released", 1024, RELEASED, 4000),
        ("released", 1024, RELEASED, 16000),
    ],
}


def shell(tokens: int) -> torch.Tensor:
    """About ``tokens`` cells of a spherical surface two cells thick, sorted into blocks: [N, 4] int32."""
    radius = (tokens / (8 * torch.pi)) ** 0.5
    side = int(2 * radius) + 4
    axis = torch.arange(side)
    xyz = torch.cartesian_prod(axis, axis, axis)
    distance = (xyz + 0.5 - side / 2).norm(dim=1)
    return sort_into_blocks(F.pad(xyz[(distance - radius).abs() < 1], (1, 0)).int(), 8)


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The fastest of ``repeats`` runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def measure(name: str, width: int, config: SSAConfig, tokens: int, device: torch.device, backward: bool) -> dict:
    """One row of the table."""
    coords = shell(tokens).to(device)
    module = SpatialSparseAttention(width, config).to(device).requires_grad_(backward)
    x = SparseTensor(torch.randn(len(coords), width, device=device).requires_grad_(backward), coords)
    shape = (1, config.num_heads, len(coords), width // config.num_heads)
    q, k, v = (torch.randn(shape, device=device).requires_grad_(backward) for _ in range(3))

    def ssa() -> None:
        out = module(x).feats
        if backward:
            out.sum().backward()

    def dense() -> None:
        out = F.scaled_dot_product_attention(q, k, v)
        if backward:
            out.sum().backward()

    sparse_s = seconds(ssa, device, repeats=2)
    dense_s = seconds(dense, device, repeats=1)
    return {
        "case": name,
        "tokens": len(coords),
        "ssa_s": round(sparse_s, 4),
        "dense_s": round(dense_s, 4),
        "ratio": round(dense_s / sparse_s, 2),
        "backward": backward,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="SSA against dense attention.")
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--backward", action="store_true", help="forward and backward together")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    if not arguments.json:
        backend = next(line for line in backend_report(device) if line.op == "selected_attention")
        print(f"backend {backend.backend.value}: {backend.reason}")
        print(f"{'case':10} {'tokens':>7} {'SSA s':>9} {'dense s':>9} {'dense / SSA':>12}")
    for case in CASES["quick" if arguments.quick else "full"]:
        row = measure(*case, device, arguments.backward)
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{row['case']:10} {row['tokens']:7} {row['ssa_s']:9.4f} {row['dense_s']:9.4f} {row['ratio']:11.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()

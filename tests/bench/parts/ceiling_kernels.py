"""Two kernels that do one thing, so that their rate is the device's: exponentials, and reads that stay in its cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch

BLOCK, ROUNDS = 2048, 512  # values of a program, exponentials of each
READ_BLOCK = 4096  # values that a program reads at a time


@triton.jit
def _exponentials(out, rounds, BLOCK: tl.constexpr):
    """x = exp2(-x), again and again: 16 independent values in every thread."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = place.to(tl.float32) * 1e-9
    for _ in range(rounds):
        x = tl.exp2(-x)
    tl.store(out + place, x)


@triton.jit
def _read(source, out, blocks, rounds, BLOCK: tl.constexpr):
    """Every program reads blocks from all over ``source`` and adds them up."""
    program = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(rounds):
        which = (program + i * 97) % blocks
        total += tl.load(source + which * BLOCK + place)
    tl.store(out + program * BLOCK + place, total)


def exponentials(programs: int, device: torch.device, rounds: int = ROUNDS) -> tuple[Tensor, int]:
    """Runs ``programs``; what they wrote, and how many exponentials that took."""
    out = torch.empty(programs * BLOCK, device=device)
    launch.run(_exponentials, (programs,), out, rounds, BLOCK=BLOCK, num_warps=4)
    return out, programs * BLOCK * rounds


def reads(
    source: Tensor,  # float32, a multiple of READ_BLOCK values
    programs: int,
    rounds: int = 256,
) -> tuple[Tensor, int]:
    """Runs ``programs``; their sums, and how many bytes they read."""
    out = torch.empty(programs * READ_BLOCK, device=source.device)
    blocks = source.numel() // READ_BLOCK
    launch.run(_read, (programs,), source, out, blocks, rounds, BLOCK=READ_BLOCK, num_warps=8)
    return out, programs * rounds * READ_BLOCK * 4

"""What the device reaches at the four things that attention and convolution consist of, measured in this process.

Percentages and floors refer to these, not to a data sheet.
"""

from collections.abc import Callable
from functools import cache

import torch

from tests.bench.parts.timing import GPU, QUICK, medians

GEMM_SIDE = 8192
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@cache
def measure_ceilings(device: torch.device, quick: bool) -> dict[str, float]:
    """``copy_tb_s`` (read and written), ``gemm_<dtype>_tflops``, ``exp2_t_s`` (10^12 a second), ``l2_read_tb_s``."""
    if device.type == "cuda":
        found = {**_copy(device, 2**24 if quick else 2**31), **_on_gpu(device, quick)}
    else:
        found = {**_copy(device, 2**20 if quick else 2**27), **_on_cpu(device, quick)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _ms(call: Callable[[], object], device: torch.device) -> float:
    return medians({"": call}, device, GPU if device.type == "cuda" else QUICK)[""]


def _copy(device: torch.device, size: int) -> dict[str, float]:
    source = torch.randint(0, 100, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return {"copy_tb_s": 2 * size / _ms(lambda: target.copy_(source), device) / 1e9}


def _gemm(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))  # zeros would run faster
    out = torch.empty_like(a)
    return 2 * side**3 / _ms(lambda: torch.mm(a, b, out=out), device) / 1e9


def _on_gpu(device: torch.device, quick: bool) -> dict[str, float]:
    from tests.bench.parts import ceiling_kernels  # here: there is no Triton where there is no GPU

    side = 1024 if quick else GEMM_SIDE
    found = {f"gemm_{name}_tflops": _gemm(device, dtype, side) for name, dtype in HALF.items()}
    properties = torch.cuda.get_device_properties(device)
    programs = 16 * properties.multi_processor_count
    count = ceiling_kernels.exponentials(programs, device)[1]
    found["exp2_t_s"] = count / _ms(lambda: ceiling_kernels.exponentials(programs, device), device) / 1e9
    resident = properties.L2_cache_size // 4 // 16384 * 4096  # floats: a quarter of the cache
    source = torch.randn(resident, device=device)
    read = ceiling_kernels.reads(source, programs)[1]
    found["l2_read_tb_s"] = read / _ms(lambda: ceiling_kernels.reads(source, programs), device) / 1e9
    return found


def _on_cpu(device: torch.device, quick: bool) -> dict[str, float]:
    x = torch.rand(2**16 if quick else 2**20)
    out = torch.empty_like(x)
    return {
        "gemm_fp32_tflops": _gemm(device, torch.float32, 128 if quick else 1024),
        "exp2_t_s": x.numel() / _ms(lambda: torch.exp2(x, out=out), device) / 1e9,
    }

"""Compiles what a call would launch on a GPU, without one, and reads the machine code.

``python -m tests.support.offline_compile MODULE:FUNCTION ...`` runs each function (no arguments; it calls ops on small
CPU tensors) for every target, records its kernel launches instead of making them, compiles each distinct one, and
prints one JSON object a line. It is a process of its own because Triton's interpreter, which the other tests switch
on, replaces the compiler for a whole process.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

TARGETS = (80, 90, 120)  # A100, H100/H200, RTX 50
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 120: 99 * 1024}  # bytes a program may use


@dataclass(frozen=True)
class Compiled:
    """One kernel launch, compiled."""

    kernel: str
    target: int
    num_warps: int
    registers: int  # of a thread, at most 255
    spill_bytes: int  # local memory of a thread
    shared_bytes: int
    half_products: int  # products of half-precision matrices in the source
    tensor_core: int  # wgmma or mma instructions in the PTX
    async_copies: int
    constants: str


def run(functions: list[str], targets: tuple[int, ...] = TARGETS) -> list[Compiled]:
    """Compile the launches of ``module:function`` names in a fresh process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.support.offline_compile", *functions, "--targets", *map(str, targets)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise AssertionError(done.stderr[-4000:])
    return [Compiled(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def record(function: Callable[[], object], target: int) -> list[tuple[Any, tuple, dict]]:
    """The (kernel, arguments, options) that ``function()`` launches on a GPU of ``target``."""
    from core.ops.kernels import launch

    found: list[tuple[Any, tuple, dict]] = []
    before = launch.run, launch.capability
    launch.run = lambda kernel, grid, *args, **options: found.append((kernel, args, options))
    launch.capability = lambda device: divmod(target, 10)
    try:
        function()
    finally:
        launch.run, launch.capability = before
    return found


def compile_launch(kernel: Any, args: tuple, options: dict, target: int) -> Compiled:
    """Compile one recorded launch."""
    import triton
    from triton.backends.compiler import GPUTarget

    options = dict(options)
    num_warps, num_stages = options.pop("num_warps", 4), options.pop("num_stages", 2)
    signature, attributes = {}, {}
    constants = dict(options)
    for index, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        signature[name], aligned = _type_of(value)
        if signature[name] == "constexpr":
            constants[name] = value
        elif aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    for name in options:
        signature[name] = "constexpr"
    ordered = {name: signature[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(fn=kernel, signature=ordered, constexprs=constants, attrs=attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", target, 32), options={"num_warps": num_warps, "num_stages": num_stages}
    )
    ptx = compiled.asm["ptx"]
    registers, local = _usage(compiled.asm["cubin"])
    return Compiled(
        kernel=kernel.__name__,
        target=target,
        num_warps=num_warps,
        registers=registers,
        spill_bytes=local,
        shared_bytes=compiled.metadata.shared,
        half_products=len(re.findall(r"tt\.dot .*?x(?:bf16|f16)>", compiled.asm["ttir"])),
        tensor_core=len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)),
        async_copies=ptx.count("cp.async.c") + ptx.count("cp.async.bulk"),
        constants=" ".join(f"{k}={v}" for k, v in sorted(options.items())),
    )


def _type_of(value: object) -> tuple[str, bool]:
    """Triton's type of an argument, and whether it is a multiple of 16, as a launch would find."""
    import torch

    names = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.int32: "i32",
        torch.int64: "i64",
        torch.bool: "i1",
        torch.uint8: "u8",
        torch.float64: "fp64",
        torch.int16: "i16",
    }
    if isinstance(value, torch.Tensor):
        return "*" + names[value.dtype], value.data_ptr() % 16 == 0
    if value is None or isinstance(value, bool | str):
        return "constexpr", False
    if isinstance(value, int):
        return ("constexpr", False) if value == 1 else ("i32" if abs(value) < 2**31 else "i64", value % 16 == 0)
    if isinstance(value, float):
        return "fp32", False
    raise TypeError(f"no Triton type for {type(value)}")


@cache
def _cuobjdump() -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory (spills and arrays) of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_cuobjdump(), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def _distinct(names: list[str], targets: list[int]) -> Iterator[tuple[Any, tuple, dict, int]]:
    seen = set()
    for name in names:
        module, function = name.split(":")
        call = getattr(importlib.import_module(module), function)
        for target in targets:
            for kernel, args, options in record(call, target):
                key = (kernel.__name__, target, tuple(map(_type_of, args)), tuple(sorted(options.items())))
                if key not in seen:
                    seen.add(key)
                    yield kernel, args, options, target


def main() -> None:
    """See the head of the file."""
    arguments = sys.argv[1:]
    split = arguments.index("--targets") if "--targets" in arguments else len(arguments)
    targets = [int(text) for text in arguments[split + 1 :]] or list(TARGETS)
    for kernel, args, options, target in _distinct(arguments[:split], targets):
        print(json.dumps(asdict(compile_launch(kernel, args, options, target))), flush=True)


if __name__ == "__main__":
    main()

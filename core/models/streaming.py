"""Blocks of a transformer that stay in host memory and come to the device one ahead of their use.

On the device are two slots for the weights of a block. While a block computes from one of them, the next is copied
into the other, on a stream of its own where the device is a CUDA one; host memory is pinned there. So a network whose
blocks are nearly all of its weights needs two blocks of memory, and loses no time where a block computes longer than
its copy takes. On other devices the same steps follow each other.

Letters: I blocks, S slots.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNMENT = 256  # bytes; of each tensor in a slot


def stream_blocks(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Let the modules of ``network.blocks`` be streamed; all else moves to ``device``. Changes and returns it.

    For evaluation: the state dict of such a network is no longer its weights.

    Args:
        network: on the CPU, with ``blocks`` whose parameters have the same names, shapes and dtypes.
        device: where it computes.
    """
    stream = _BlockStream(network.blocks, torch.device(device))
    with torch.inference_mode(False), torch.no_grad():
        network.to(device)  # the slots are there already
    network.block_stream = stream  # kept alive with the network
    return network


def slots_for(blocks: int) -> int:
    """Slots that ``blocks`` take turns in: two; three where their number is odd, since the first follows the last."""
    return min(blocks, 2 + blocks % 2)


@dataclass(frozen=True)
class _Place:
    """Where a parameter of a block lies in a slot."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    start: int  # bytes
    end: int

    def of(self, slot: Tensor) -> Tensor:
        """A view of the slot's bytes."""
        return slot[self.start : self.end].view(self.dtype).view(self.shape)


class _BlockStream:
    """The slots, the host's copy of every block, and what tells one stream of the other."""

    def __init__(self, blocks: nn.ModuleList, device: torch.device) -> None:
        places, size = _layout(blocks[0])
        count = len(blocks)
        self._slot = [number % 2 for number in range(count)]  # of each block
        if slots_for(count) == 3:
            self._slot[-1] = 2
        slots = slots_for(count)
        cuda = device.type == "cuda"
        with torch.inference_mode(False), torch.no_grad():  # parameters outlive the mode that they were made in
            self._host = torch.empty(count, size, dtype=torch.uint8, pin_memory=cuda)
            self._slots = torch.empty(slots, size, dtype=torch.uint8, device=device)
            for number, block in enumerate(blocks):
                assert _layout(block) == (places, size), f"block {number} is of another kind than the first"
                for place in places:
                    owner, name = _owner(block, place.name)
                    place.of(self._host[number]).copy_(getattr(owner, name))
                    view = place.of(self._slots[self._slot[number]])
                    setattr(owner, name, nn.Parameter(view, requires_grad=False))
        self._held: list[int | None] = [None] * slots  # the block whose weights are, or will be, in each slot
        self._side = torch.cuda.Stream(device) if cuda else None
        self._ready = [torch.cuda.Event() for _ in range(slots)] if cuda else []  # the slot is filled
        self._used = [torch.cuda.Event() for _ in range(slots)] if cuda else []  # its block has computed
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(functools.partial(self._before, number))
            block.register_forward_hook(functools.partial(self._after, number))

    def _before(self, number: int, *_: Any) -> None:
        """The block's weights are there; those of the next are on their way."""
        self._fetch(number)
        if self._side is not None:
            torch.cuda.current_stream(self._slots.device).wait_event(self._ready[self._slot[number]])
        self._fetch((number + 1) % len(self._slot))

    def _after(self, number: int, *_: Any) -> None:
        if self._side is not None:
            self._used[self._slot[number]].record(torch.cuda.current_stream(self._slots.device))

    def _fetch(self, number: int) -> None:
        slot = self._slot[number]
        if self._held[slot] == number:
            return
        self._held[slot] = number
        if self._side is None:
            self._slots[slot].copy_(self._host[number])
            return
        with torch.cuda.stream(self._side):
            self._side.wait_event(self._used[slot])
            self._slots[slot].copy_(self._host[number], non_blocking=True)
            self._ready[slot].record(self._side)


def _layout(block: nn.Module) -> tuple[list[_Place], int]:
    """Every parameter's place in a slot, and the slot's bytes."""
    places, size = [], 0
    for name, parameter in block.named_parameters():
        places.append(_Place(name, parameter.shape, parameter.dtype, size, size + parameter.nbytes))
        size += -(-parameter.nbytes // _ALIGNMENT) * _ALIGNMENT
    return places, size


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds the parameter, and its name there."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last

"""The networks of a run, on the device as the memory plan says; and what happens when memory runs out all the same."""

import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from core.config.generation import GenerationOptions
from core.config.presets import ModelPreset
from core.errors import DeviceMemoryError, is_memory_error, memory_cause
from core.pipeline.memory_plan import MemoryPlan, make_plan
from core.pipeline.memory_table import can_stream

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Networks(Protocol):
    """Where the networks come from; ``core.checkpoints.load.NetworkStore`` is one."""

    preset: ModelPreset
    device: torch.device
    dtype: torch.dtype
    cuda_graphs: bool

    streamed: Collection[str]  # of those loaded

    @property
    def loaded(self) -> Collection[str]: ...

    def get(self, name: str, *, streamed: bool = False) -> nn.Module: ...

    def release(self, name: str) -> None: ...

    def read_ahead(self, *names: str) -> object: ...


def plan_run(networks: Networks, options: GenerationOptions) -> MemoryPlan:
    """The memory plan of a run with ``networks``; those that are loaded count as free.

    Raises:
        ConfigError: for a resolution that the preset does not have.
    """
    held = 0
    for name in networks.loaded:
        tensors = networks.get(name, streamed=name in networks.streamed).state_dict().values()
        held += sum(tensor.nbytes for tensor in tensors if tensor.device == networks.device)
    preset = networks.preset.up_to(options.resolution)
    return make_plan(preset, networks.device, networks.dtype, options.memory, held=held)


class Resident:
    """The networks of one run.

    Args:
        networks: what loads them.
        plan: ``plan_run`` of them.
    """

    def __init__(self, networks: Networks, plan: MemoryPlan) -> None:
        self.networks = networks
        self.plan = plan
        self.notes: list[str] = []  # for the user
        self._fell_back = False

    @property
    def cuda_graphs(self) -> bool:
        """A graph would hold the copies of a streamed block, and the host's part in them."""
        return self.networks.cuda_graphs and not self.plan.streams

    def enter(self, *names: str) -> None:
        """The networks that are needed from here on; the others leave the device unless the plan keeps them.

        The files of those that the next stage needs are read meanwhile, if it is another device that computes.
        """
        if self.plan.mode != "all":
            for name in set(self.networks.loaded) - set(names):
                self.networks.release(name)
        if names and self.networks.device.type != "cpu":
            self.networks.read_ahead(*self._following(names))

    def _following(self, names: Collection[str]) -> Collection[str]:
        """The networks of the first stage that needs others after those that need ``names``."""
        stages = [set(need.networks) for need in self.plan.needs()]
        last = max((place for place, need in enumerate(stages) if need & set(names)), default=len(stages))
        return sorted(set().union(*stages[last + 1 : last + 2]))

    def get(self, name: str) -> Any:
        """The network, loaded if it is not there."""
        streamed = self.plan.streams and can_stream(self.networks.preset.networks()[name])
        return self.networks.get(name, streamed=streamed)

    def load_ahead(self, on_network: Callable[[int, int], None]) -> None:
        """Loads what the plan keeps all the time, telling (networks done, networks in all)."""
        names = list(self.plan.preset.networks())
        for number, name in enumerate(names, start=1):
            if self.plan.mode == "all":
                self.attempt("load", lambda name=name: self.get(name) if self.plan.mode == "all" else None)
            on_network(number, len(names))

    def attempt(self, stage: str, body: Callable[[], T]) -> T:
        """What ``body`` gives. If memory runs out in it, once in a run the plan goes on to the next and it runs again.

        ``body`` gets its networks by ``enter`` and ``get``, and draws no random numbers.

        Raises:
            DeviceMemoryError: naming the stage, and what helps.
        """
        while True:
            try:
                return body()
            except Exception as error:
                if not is_memory_error(error):
                    raise
                cause = memory_cause(error)
            # Out of the clause above, the frames of the attempt are gone, and their tensors with them.
            if self._fell_back:
                raise DeviceMemoryError(self._exhausted(stage, cause))
            self._fall_back(stage, cause)

    def close(self) -> None:
        """The end of the run: only what the plan keeps stays."""
        self.enter()

    def _fall_back(self, stage: str, cause: str) -> None:
        self._fell_back = True
        before, self.plan = self.plan.mode, self.plan.next()
        for name in list(self.networks.loaded):
            self.networks.release(name)
        if self.networks.device.type == "cuda":
            torch.cuda.empty_cache()
        with_mode = f"went on with memory {self.plan.mode}" if self.plan.mode != before else "tried again with less"
        self.notes.append(f"{self.networks.device} ran out of memory in '{stage}' with memory {before}; {with_mode}.")
        _log.warning("%s (%s)", self.notes[-1], cause)

    def _exhausted(self, stage: str, cause: str) -> str:
        smaller = [side for side in self.networks.preset.resolutions if side < self.plan.preset.resolutions[-1]]
        remedies = ["close other programs"]
        remedies += [f"choose resolution {smaller[-1]}" if smaller else "choose a smaller preset"]
        remedies += ["choose memory stream"] if self.plan.mode != "stream" else []
        remedies += ["choose another device (cpu uses the machine's own memory)"]
        told = f" ({cause})" if cause else ""
        tried = f"tried with less, memory {self.plan.mode}, too"
        return (
            f"{self.networks.device} ran out of memory in '{stage}'; {tried}{told}. "
            f"To mend it, {', '.join(remedies[:-1])} or {remedies[-1]}."
        )

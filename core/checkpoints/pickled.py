"""Files of ``torch.save`` that we did not write, read without running what they hold, and a piece at a time.

They are opened by torch's restricted loader only, which builds tensors and plain containers and refuses the rest.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.store import open_tensors
from core.errors import CheckpointError

REMAP_BYTES = 2**28  # of tensors read, after which a file is mapped anew


class MappedState(Mapping[str, Tensor]):
    """A state dict whose tensors lie in a file that is mapped into memory.

    What was read of a mapped file counts as this process's memory. So the file is mapped anew from time to time: keep
    no tensor longer than you need it.

    Args:
        load: opens the file; gives the state dict, and whether it is mapped. If not, it is kept.
    """

    def __init__(self, load: Callable[[], tuple[Mapping[str, Tensor], bool]]) -> None:
        self._load = load
        self._state, self._mapped = load()
        self._read = 0
        self.shapes = {key: tuple(value.shape) for key, value in self._state.items()}

    def __getitem__(self, key: str) -> Tensor:
        if self._mapped and self._read > REMAP_BYTES:
            self._state = {}  # first: two mappings would count twice
            self._state, self._mapped = self._load()
            self._read = 0
        value = self._state[key]
        self._read += value.nbytes
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, keys: Mapping[str, str]) -> "MappedState":
        """The same tensors under other names: new key to key here."""
        return _Renamed(self, dict(keys))


class _Renamed(MappedState):
    """Another state's tensors under other names."""

    def __init__(self, state: MappedState, keys: dict[str, str]) -> None:
        self._original, self._keys = state, keys
        self.shapes = {key: state.shapes[key_there] for key, key_there in keys.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._original[self._keys[key]]


def read_pickled(path: Path, choose: Callable[[Any], Any]) -> MappedState:
    """The state dict that ``choose`` finds in what ``path`` holds; files of old torch are read whole.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds anything but tensors by name.
    """

    def load() -> tuple[Mapping[str, Tensor], bool]:
        content, mapped = _load_restricted(path)
        return only_tensors(choose(content), path), mapped

    return MappedState(load)


def read_mapped(path: Path) -> MappedState:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: if it cannot be read.
    """

    def load() -> tuple[Mapping[str, Tensor], bool]:
        with open_tensors(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, True  # noqa: SIM118 - not a dict

    return MappedState(load)


def _load_restricted(path: Path) -> tuple[Any, bool]:
    """``torch.load`` with ``weights_only``, and whether the content is mapped: files of old torch cannot be."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True), True
        except RuntimeError:  # not a zip archive
            return torch.load(path, map_location="cpu", weights_only=True), False
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Download it again.") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or contains Python objects besides tensors, and was refused. Download it again."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or cut short. Download it again.") from error


def only_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """``state`` if it is tensors by name.

    Raises:
        CheckpointError: if it is anything else.
    """
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise CheckpointError(f"{path} holds something other than weights by name. Download it again.")
    return dict(state)

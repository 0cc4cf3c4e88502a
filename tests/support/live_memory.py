"""Bytes of tensors alive, counted as operations make them and Python drops them: the same on every machine."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts storages made inside the ``with`` block; what an operation uses within itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._storages: dict[int, list[int]] = {}  # tensors on a storage, its bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {self._key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (self._key(x) in self._storages or self._key(x) not in given):
                self._count(x)
        self.peak = max(self.peak, self._now)
        return out

    def _count(self, x: Tensor) -> None:
        key, size = self._key(x), x.untyped_storage().nbytes()
        entry = self._storages.setdefault(key, [0, size])
        if entry[0] == 0:
            self._now += size
        entry[0] += 1
        weakref.finalize(x, self._drop, key)

    def _drop(self, key: int) -> None:
        entry = self._storages[key]
        entry[0] -= 1
        if entry[0] == 0:
            self._now -= entry[1]
            del self._storages[key]

    @staticmethod
    def _key(x: Tensor) -> int:
        return x.untyped_storage()._cdata

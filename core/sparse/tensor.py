"""The sparse tensor: features on occupied voxels, and a cache of what follows from their coordinates.

Letters: N voxels, B samples, C channels, R grid side. Nothing derived from coordinates alone (batch layout,
neighbour maps, window plans, pooling maps) is computed twice: tensors with the same coordinates share one
:class:`CoordCache`, and a cache holds the caches of the coordinate sets derived from it.
"""

import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

from core.errors import InputError
from core.sparse.coords import bounds, encode_keys

T = TypeVar("T")
INT32_MAX = 2**31 - 1


class CoordCache:
    """A coordinate set and the bookkeeping memoised for it.

    Args:
        coords: [N, 4] int32 (batch, x, y, z), ascending batch.
        batch_size: number of samples, empty ones included.
    """

    def __init__(self, coords: Tensor, batch_size: int) -> None:
        self.coords = coords
        self.batch_size = batch_size
        self.parent: weakref.ref[CoordCache] | None = None  # set if these are the 8 children of its voxels
        self._entries: dict[Hashable, object] = {}

    def get(self, key: Hashable, builder: Callable[[], T]) -> T:
        """What ``builder()`` returned on the first call with ``key``."""
        if key not in self._entries:
            self._entries[key] = builder()
        return self._entries[key]  # type: ignore[return-value]

    def derive(self, coords: Tensor) -> "CoordCache":
        """A fresh cache for coordinates that follow from these. Keep it in an entry of this cache."""
        return CoordCache(coords, self.batch_size)

    @property
    def bounds(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
        """Smallest and largest (batch, x, y, z).

        Raises:
            InputError: for a negative coordinate.
        """
        return self.get("bounds", lambda: bounds(self.coords))

    @property
    def extent(self) -> tuple[int, int, int]:
        """Largest x, y, z plus one."""
        high = self.bounds[1]
        return high[1] + 1, high[2] + 1, high[3] + 1

    @property
    def seqlens(self) -> list[int]:
        """Voxels of each sample."""
        return self.get("seqlens", self._count_samples)

    @property
    def cu_seqlens(self) -> Tensor:
        """[B + 1] int32: where each sample starts, then N."""
        return self.get("cu_seqlens", self._offsets)

    @property
    def batch_index(self) -> Tensor:
        """[N] int64: the sample of each voxel."""
        return self.get("batch_index", lambda: self.coords[:, 0].long())

    def _count_samples(self) -> list[int]:
        if self.coords.shape[0] == 0:
            return [0] * self.batch_size
        highest = self.bounds[1][0]
        assert highest < self.batch_size, f"sample {highest} in a batch of {self.batch_size}"
        batch = self.batch_index
        assert bool((batch[1:] >= batch[:-1]).all()), "voxels of a sample must be next to each other, ascending batch"
        if self.batch_size == 1:
            return [self.coords.shape[0]]
        starts = torch.arange(self.batch_size + 1, device=batch.device)
        return torch.searchsorted(batch, starts).diff().tolist()

    def _offsets(self) -> Tensor:
        lengths = torch.tensor([0, *self.seqlens], dtype=torch.int64)
        return lengths.cumsum(0).to(torch.int32).to(self.coords.device)


class SparseTensor:
    """Features on occupied voxels of a batch of grids.

    Args:
        feats: [N, C...] any float dtype.
        coords: [N, 4] (batch, x, y, z), ascending batch; int64 is taken too and stored as int32.
        batch_size: number of samples; read from ``coords`` if not given.
        cache: bookkeeping of these very coordinates, from a tensor that has them.

    Raises:
        InputError: for coordinates outside int32, or negative (found when bookkeeping first looks at them).
    """

    def __init__(
        self, feats: Tensor, coords: Tensor, *, batch_size: int | None = None, cache: CoordCache | None = None
    ) -> None:
        assert coords.ndim == 2 and coords.shape[1] == 4, f"coords must be [N, 4], got {tuple(coords.shape)}"
        assert feats.ndim >= 1 and feats.shape[0] == coords.shape[0], (
            f"{feats.shape[0]} feature rows for {coords.shape[0]} voxels"
        )
        assert feats.device == coords.device, f"feats on {feats.device}, coords on {coords.device}"
        if cache is None:
            coords = _as_int32(coords)
            if batch_size is None:
                batch_size = int(coords[:, 0].amax()) + 1 if coords.shape[0] else 1
            cache = CoordCache(coords, batch_size)
        assert cache.coords.shape == coords.shape, "the cache belongs to other coordinates"
        assert cache.batch_size >= 1 and batch_size in (None, cache.batch_size), "a batch holds at least one sample"
        self.feats = feats
        self.cache = cache

    @property
    def coords(self) -> Tensor:
        """[N, 4] int32 (batch, x, y, z)."""
        return self.cache.coords

    @property
    def batch_size(self) -> int:
        """Samples in the batch."""
        return self.cache.batch_size

    @property
    def num_voxels(self) -> int:
        """N."""
        return self.feats.shape[0]

    @property
    def channels(self) -> int:
        """Size of the last feature dimension."""
        return self.feats.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where features and coordinates are."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the features."""
        return self.feats.dtype

    @property
    def seqlens(self) -> list[int]:
        """Voxels of each sample, on the host."""
        return self.cache.seqlens

    @property
    def cu_seqlens(self) -> Tensor:
        """[B + 1] int32: where each sample starts, then N."""
        return self.cache.cu_seqlens

    @property
    def batch_index(self) -> Tensor:
        """[N] int64: the sample of each voxel."""
        return self.cache.batch_index

    def __repr__(self) -> str:
        return f"SparseTensor(feats={tuple(self.feats.shape)} {self.dtype}, batch={self.batch_size}, {self.device})"

    def replace(
        self,
        feats: Tensor,  # [N, C...]
    ) -> "SparseTensor":
        """Other features on the same coordinates, with the same cache."""
        return SparseTensor(feats, self.coords, cache=self.cache)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SparseTensor":
        """Move or cast. The cache is kept unless the device changes."""
        feats = self.feats.to(device=device, dtype=dtype)
        if feats.device == self.device:
            return self.replace(feats)
        return SparseTensor(feats, self.coords.to(feats.device), batch_size=self.batch_size)

    def sample(self, b: int) -> "SparseTensor":
        """Sample ``b`` alone, as a batch of one."""
        assert 0 <= b < self.batch_size, f"sample {b} of {self.batch_size}"
        if self.batch_size == 1:
            return self
        start = sum(self.seqlens[:b])
        stop = start + self.seqlens[b]

        def build() -> CoordCache:
            coords = self.coords[start:stop].clone()
            coords[:, 0] = 0
            return CoordCache(coords, 1)

        cache = self.cache.get(("sample", b), build)
        return SparseTensor(self.feats[start:stop], cache.coords, cache=cache)

    def per_voxel(
        self,
        x: Tensor,  # [B, C...]
    ) -> Tensor:
        """The value of each voxel's sample. Returns [N, C...]."""
        assert x.shape[0] == self.batch_size, f"{x.shape[0]} values for {self.batch_size} samples"
        if self.batch_size == 1:
            return x.expand(self.num_voxels, *x.shape[1:])
        return x.index_select(0, self.batch_index)

    def to_dense(self, resolution: int, fill: float = 0.0) -> Tensor:
        """A full grid. Returns [B, C, R, R, R] with ``fill`` where there is no voxel.

        Raises:
            InputError: if a voxel lies outside the grid.
        """
        assert self.feats.ndim == 2, "to_dense needs feats [N, C]"
        if max(self.cache.extent) > resolution:
            raise InputError(f"voxels reach {self.cache.extent}, outside a grid of side {resolution}.")
        dense = self.feats.new_full((self.batch_size * resolution**3, self.channels), fill)
        dense = dense.index_copy(0, encode_keys(self.coords, resolution), self.feats)
        grid = dense.view(self.batch_size, resolution, resolution, resolution, self.channels)
        return grid.permute(0, 4, 1, 2, 3).contiguous()


def concat(samples: list[SparseTensor]) -> SparseTensor:
    """One batch from several, in order; usually of one sample each."""
    assert samples, "nothing to concatenate"
    if len(samples) == 1:
        return samples[0]
    parts, batch_size = [], 0
    for x in samples:
        coords = x.coords.clone()
        coords[:, 0] += batch_size
        parts.append(coords)
        batch_size += x.batch_size
    return SparseTensor(torch.cat([x.feats for x in samples]), torch.cat(parts), batch_size=batch_size)


def _as_int32(coords: Tensor) -> Tensor:
    if coords.dtype == torch.int32:
        return coords
    assert coords.dtype == torch.int64, f"coords must be int32, got {coords.dtype}"
    if coords.numel() and not -INT32_MAX <= int(coords.amin()) <= int(coords.amax()) < INT32_MAX:
        raise InputError("voxel coordinates do not fit 32 bits: use a smaller grid.")
    return coords.to(torch.int32)

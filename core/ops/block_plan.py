"""Blocks and windows of a coordinate set, as spatial sparse attention needs them: computed once, used by every layer.

Letters: N tokens, M cells (occupied compression blocks), W occupied selection blocks, B samples. Tokens are sorted
so that those of one selection block are consecutive; cells and blocks ascend with (batch, x, y, z).
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Memo:
    """What kernels derive from a plan (tile tables, slot tables), kept with it: built at the first use."""

    _entries: dict[Hashable, object] = field(default_factory=dict, compare=False, repr=False)

    def get(self, key: Hashable, builder: Callable[[], T]) -> T:
        """What ``builder()`` returned on the first call with ``key``."""
        if key not in self._entries:
            self._entries[key] = builder()
        return self._entries[key]  # type: ignore[return-value]


@dataclass(frozen=True)
class BlockPlan:
    """Block ``w`` holds the tokens ``cu_blocks[w] .. cu_blocks[w + 1] - 1``; numbering runs through the batch."""

    cu_seqlens: Tensor  # [B + 1] int32: first token of each sample, then N
    cu_cells: Tensor  # [B + 1] int32: first cell of each sample, then M
    cu_sample_blocks: Tensor  # [B + 1] int32: first block of each sample, then W
    cu_blocks: Tensor  # [W + 1] int32: first token of each block, then N
    block_of_cell: Tensor  # [M] int64
    sample_tokens: tuple[int, ...]  # cu_seqlens, on the host
    sample_blocks: tuple[int, ...]  # cu_sample_blocks, on the host
    layers: tuple["CellLayers", ...]  # one for each sample
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)


@dataclass(frozen=True)
class CellLayers:
    """The cells of one sample in layers that hold at most one cell of each block.

    With the blocks ordered by falling number of cells, layer r covers the first ``len(cells[r])`` of them: adding up
    the layers column by column pools cells into blocks without a scatter.
    """

    cells: tuple[Tensor, ...]  # each [blocks with more than r cells] int64
    column: Tensor | None  # [blocks of the sample] int64: place of each block in that order; None: the same


@dataclass(frozen=True)
class WindowPlan:
    """Voxels grouped by window: rows ``order[cu_seqlens[w]:cu_seqlens[w + 1]]`` are window ``w``."""

    order: Tensor  # [N] int64: grouped position -> voxel row
    inverse: Tensor  # [N] int64: voxel row -> grouped position
    cu_seqlens: Tensor  # [W + 1] int32
    max_len: int  # voxels in the fullest window; 0 if there are none
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    @property
    def num_windows(self) -> int:
        """W, occupied windows only."""
        return self.cu_seqlens.shape[0] - 1


def make_block_plan(
    sample_of_token: Tensor,  # [N] int64, ascending
    block_of_token: Tensor,  # [N] int64, ascending
    cell_of_token: Tensor,  # [N] int64
    batch_size: int,
) -> BlockPlan:
    """Derive the plan; every block and cell number below the largest must occur."""
    assert bool((block_of_token.diff() >= 0).all()), "tokens of a block must be consecutive: use sort_into_blocks"
    num_blocks, num_cells = (int(x.max()) + 1 if x.numel() else 0 for x in (block_of_token, cell_of_token))
    block_of_cell = block_of_token.new_zeros(num_cells)
    block_of_cell[cell_of_token] = block_of_token
    sample_of_block = block_of_token.new_zeros(num_blocks)
    sample_of_block[block_of_token] = sample_of_token
    cu_seqlens = _offsets(sample_of_token, batch_size)
    cu_cells = _offsets(sample_of_block[block_of_cell], batch_size)
    cu_sample_blocks = _offsets(sample_of_block, batch_size)
    cells, blocks = cu_cells.tolist(), cu_sample_blocks.tolist()
    layers = tuple(
        _layers(block_of_cell[cells[b] : cells[b + 1]] - blocks[b], cells[b], blocks[b + 1] - blocks[b])
        for b in range(batch_size)
    )
    return BlockPlan(
        cu_seqlens=cu_seqlens,
        cu_cells=cu_cells,
        cu_sample_blocks=cu_sample_blocks,
        cu_blocks=_offsets(block_of_token, num_blocks),
        block_of_cell=block_of_cell,
        sample_tokens=tuple(cu_seqlens.tolist()),
        sample_blocks=tuple(blocks),
        layers=layers,
    )


def _offsets(owner: Tensor, size: int) -> Tensor:
    counts = torch.bincount(owner, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)


def _layers(block_of_cell: Tensor, first_cell: int, num_blocks: int) -> CellLayers:
    """``block_of_cell`` [cells of the sample], counted from the sample's first block."""
    counts = torch.bincount(block_of_cell, minlength=num_blocks)
    if block_of_cell.numel() == num_blocks:  # one cell a block, in the same order
        return CellLayers((torch.arange(num_blocks, device=counts.device) + first_cell,), None)
    by_count = torch.argsort(counts, descending=True, stable=True)
    column = torch.empty_like(by_count)
    column[by_count] = torch.arange(num_blocks, device=counts.device)
    grouped = torch.argsort(block_of_cell, stable=True)  # cells, block by block
    starts = counts.cumsum(0) - counts
    depth = int(counts.max()) if num_blocks else 0
    covered = [by_count[: int((counts > r).sum())] for r in range(depth)]
    return CellLayers(tuple(grouped[starts[blocks] + r] + first_cell for r, blocks in enumerate(covered)), column)

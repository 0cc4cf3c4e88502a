"""The blocks that tokens chose at one evaluation, kept for the evaluations that follow.

Choosing needs a pass over all cells for every token; the attention to what is chosen does not. The tokens of one walk
keep their places, so that a choice of an earlier step can serve a later one: an approximation, as exact as the choices
of the two steps agree.
"""

from collections.abc import Callable

from torch import Tensor


class KeptBlocks:
    """The choice of one layer for one coordinate set and one branch of guidance: 4 G N S bytes. Of inference alone.

    It stays in the memory where it was first put, so that one CUDA graph can write it and another read it.
    """

    def __init__(self) -> None:
        self.index: Tensor | None = None  # [G, N, S] int32, as core.ops.ssa.select_blocks answers; None: nothing yet


def blocks_of(
    kept: KeptBlocks | None,
    choose: bool,
    select: Callable[[], Tensor],  # -> [G, N, S] int32
) -> Tensor:
    """What the tokens attend to: ``select()`` with ``choose``, kept where there is a ``kept``; else what it holds.

    Returns:
        [G, N, S] int32. With a ``kept`` it is that one's memory.
    """
    if kept is None:
        return select()
    if choose:
        index = select()
        if kept.index is None:
            kept.index = index
        else:
            assert kept.index.shape == index.shape, f"{index.shape} were chosen where {kept.index.shape} are kept"
            kept.index.copy_(index)
    assert kept.index is not None, "no choice of blocks has been kept yet"
    return kept.index

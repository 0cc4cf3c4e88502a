"""CUDA graphs: an evaluation of a network is recorded once and then replayed, without Python and its launches.

The steps of a sampler evaluate one network on tensors of one shape. The first evaluation of a branch runs as it is:
it also builds what follows from the coordinates alone, and the kernels. The second is recorded; from then on time and
latent are copied into the recording's own tensors, the graph runs, and its answer is copied out.

Letters: B samples, N voxels, C channels.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

# (x_t, t [B], conditional) -> like x_t. What else a network is told (whether it chooses blocks anew) follows these.
Predict = Callable[..., Tensor]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def replayed(predict: Predict, device: torch.device, enabled: bool = True) -> Iterator[Predict]:
    """``predict`` with graphs inside the ``with`` block; as it is on other devices than CUDA, or if not ``enabled``.

    Everything else that ``predict`` reads (weights, condition, coordinates) must stay where it is and what it is until
    the block ends. Then the graphs and their memory are released.
    """
    if not enabled or device.type != "cuda":
        yield predict
        return
    graphs = GraphedPredict(predict)
    try:
        yield graphs
    finally:
        graphs.close()


class GraphedPredict:
    """A function like ``predict``, with one graph for each shape and each branch, or whatever else it is told.

    If anything goes wrong while a graph is recorded, the reason is logged once and every evaluation runs as it is.
    """

    def __init__(self, predict: Predict):
        self._predict = predict
        self._warm: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: tuple[int, int] | None = None  # of memory; shared, since the branches never run at once
        self._gave_up = False

    def __call__(
        self,
        x: Tensor,  # [B, ...] or [N, C]
        t: Tensor,  # [B]
        *told: Hashable,  # conditional, and what else there is
    ) -> Tensor:
        """The network's answer, a tensor of its own, like ``x``."""
        if self._gave_up:
            return self._predict(x, t, *told)
        key = (told, x.shape, x.dtype, t.shape, t.dtype)
        if key not in self._warm:
            self._warm.add(key)
            return self._first(x, t, *told)
        if key not in self._recordings:
            try:
                if self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                self._recordings[key] = _Recording(self._predict, x, t, told, self._pool)
            except Exception as error:  # whatever the driver, the allocator or a kernel says: it also works without
                self._give_up(error)
                return self._predict(x, t, *told)
        return self._recordings[key].replay(x, t)

    def close(self) -> None:
        """Release the graphs and their memory."""
        for recording in self._recordings.values():
            recording.graph.reset()
        self._recordings.clear()
        self._pool = None

    def _first(self, x: Tensor, t: Tensor, *told: Hashable) -> Tensor:
        """On the stream that will record: the libraries' workspaces of that stream are then outside the graph."""
        with torch.cuda.device(x.device):
            current, side = torch.cuda.current_stream(), _side_stream(x.device)
            side.wait_stream(current)
            with torch.cuda.stream(side):
                out = self._predict(x, t, *told)
            current.wait_stream(side)
        return out

    def _give_up(self, error: Exception) -> None:
        self._gave_up = True
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        _log.warning("the network runs without a CUDA graph, since it could not be recorded: %s", reason)
        self.close()


class _Recording:
    """One graph and the tensors that it reads and writes."""

    def __init__(self, predict: Predict, x: Tensor, t: Tensor, told: tuple[Hashable, ...], pool: tuple[int, int]):
        self.x, self.t = x.clone(), t.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(x.device):
            before = torch.cuda.current_stream()
            try:
                recording = torch.cuda.graph(
                    self.graph, pool=pool, stream=_side_stream(x.device), capture_error_mode="thread_local"
                )
                with recording:
                    self.out = predict(self.x, self.t, *told)
            finally:
                torch.cuda.set_stream(before)  # a recording that fails to end leaves its own

    def replay(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.cuda.device(x.device):
            self.x.copy_(x)
            self.t.copy_(t)
            self.graph.replay()
            return self.out.clone()  # the next replay writes there


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device, and not one for each graph: libraries keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)

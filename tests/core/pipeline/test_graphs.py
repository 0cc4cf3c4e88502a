"""Recording evaluations, as far as it goes without a GPU; tests/gpu has the graphs themselves."""

import logging

import pytest
import torch

from core.pipeline import graphs


def predict(x: torch.Tensor, t: torch.Tensor, conditional: bool) -> torch.Tensor:
    return x * t + conditional


def test_other_devices_and_those_who_opt_out_get_the_function_itself():
    for device, enabled in (("cpu", True), ("cuda", False)):
        with graphs.replayed(predict, torch.device(device), enabled) as evaluate:
            assert evaluate is predict


class Recorder:
    """Stands for a recording where there is no CUDA: notes what is asked of it."""

    def __init__(self, function, x, t, told, pool):
        made.append((*told, tuple(x.shape)))
        self.answer = lambda x, t: function(x, t, *told)
        self.graph = self

    def replay(self, x, t):
        return self.answer(x, t)

    def reset(self):
        made.append("released")


made: list = []


@pytest.fixture
def graphed(monkeypatch):
    made.clear()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(graphs, "_Recording", Recorder)
    monkeypatch.setattr(graphs.GraphedPredict, "_first", lambda self, *a: made.append("first") or self._predict(*a))
    return graphs.GraphedPredict(predict)


def test_each_branch_runs_once_and_is_recorded_once(graphed):
    for step in range(4):
        x, t = torch.randn(3), torch.tensor([float(step)])
        for conditional in (True, False):
            assert torch.equal(graphed(x, t, conditional), predict(x, t, conditional))
    assert made == ["first", "first", (True, (3,)), (False, (3,))]
    assert torch.equal(graphed(torch.ones(6), t, True), predict(torch.ones(6), t, True))
    assert made[4:] == ["first"]  # of another shape
    graphed.close()
    assert made[5:] == ["released"] * 2


def test_an_evaluation_that_chooses_and_one_that_reuses_are_two_recordings(graphed):
    graphed._predict = lambda x, t, conditional, choose: x * t + 2 * conditional + choose
    for step in range(6):
        x, t, choose = torch.randn(3), torch.tensor([float(step)]), step % 2 == 0
        assert torch.equal(graphed(x, t, True, choose), x * t + 2 + choose)
    assert made == ["first", "first", (True, True, (3,)), (True, False, (3,))]


def test_a_recording_that_fails_is_told_once_and_costs_nothing_but_speed(graphed, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(graphs, "_Recording", refuse)
    x, t = torch.randn(3), torch.tensor([2.0])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for conditional in (True, False):
                assert torch.equal(graphed(x, t, conditional), predict(x, t, conditional))
    (record,) = caplog.records
    assert record.getMessage().endswith("operation not permitted when stream is capturing")
    assert made == ["first", "first"]

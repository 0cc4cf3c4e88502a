"""The loop: it learns, and a run that was cut goes on to the same bits."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import core.training.loop as loop_module
from core.config.training import LoopConfig
from core.training.loop import Ema, run
from tests.support.training import seeded

CONFIG = LoopConfig(steps=6, batch=8, learning_rate=1e-2, warmup=2, autocast=False, log_every=2, save_every_s=1e9)


class Fit:
    """A small network learns a fixed linear map from random inputs."""

    name = "fit"

    def __init__(self) -> None:
        self.net = seeded(lambda: nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)))
        self.modules, self.rate, self.calls = {"net": self.net}, {"net": 1.0}, 0

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        self.calls += 1
        x = torch.randn(batch, 3, generator=generator)
        error = (self.net(x) - x[:, :2] * 0.5).square().mean()
        return error, {"progress": progress}


def weights(task) -> dict[str, Tensor]:
    return {k: v.clone() for name, module in task.modules.items() for k, v in module.state_dict(prefix=name).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def saved(folder) -> dict:
    return torch.load(folder / "fit.state.pt", weights_only=True)


def test_it_learns_and_logs(tmp_path):
    lines = []
    config = replace(CONFIG, steps=300, log_every=50)
    assert run(Fit(), config, tmp_path, seed=0, report=lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"] / 10
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert lines[-1].keys() == {"task", "step", "steps", "loss", "progress", "samples_per_s"}
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == lines


def test_resuming_after_every_step_gives_the_bits_of_an_unbroken_run(tmp_path):
    whole = Fit()
    assert run(whole, CONFIG, tmp_path / "whole", seed=4)
    cut, finished = None, []
    while not (finished and finished[-1]):
        cut = Fit()  # a new process starts from fresh modules
        finished.append(run(cut, CONFIG, tmp_path / "cut", seed=4, seconds=0))
        assert cut.calls == 1  # no time left: one step, however long it takes
    assert finished == [False] * (CONFIG.steps - 1) + [True]
    assert same(weights(cut), weights(whole))
    a, b = saved(tmp_path / "whole"), saved(tmp_path / "cut")
    assert a.keys() == b.keys() == {"modules", "optimizer", "ema", "generator", "step"}
    assert same(a["modules"]["net"], b["modules"]["net"]) and same(a["ema"], b["ema"])
    assert torch.equal(a["generator"], b["generator"])
    other = Fit()
    run(other, CONFIG, tmp_path / "other", seed=5)
    assert not same(weights(other), weights(whole))


def test_a_finished_run_does_nothing_more_and_holds_the_average(tmp_path):
    run(Fit(), CONFIG, tmp_path, seed=0)
    again = Fit()
    assert run(again, CONFIG, tmp_path, seed=0)
    assert again.calls == 0 and not again.net.training
    state = saved(tmp_path)
    assert same(weights(again), {key.replace("net.", "net", 1): value for key, value in state["ema"].items()})
    assert not same(state["modules"]["net"], again.net.state_dict())


def test_the_time_budget_ends_the_run_after_the_step_that_exceeds_it(tmp_path, monkeypatch):
    clock = [100.0]
    task = Fit()
    inner = task.loss

    def ten_seconds(*args):
        clock[0] += 10
        return inner(*args)

    task.loss = ten_seconds
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert not run(task, CONFIG, tmp_path, seed=0, seconds=25)
    assert task.calls == 3 and saved(tmp_path)["step"] == 3


def test_states_are_saved_at_intervals(tmp_path, monkeypatch):
    steps, save = [], loop_module._save
    monkeypatch.setattr(loop_module, "_save", lambda *args: (steps.append(args[-1]), save(*args)))
    run(Fit(), replace(CONFIG, save_every_s=-1.0), tmp_path, seed=0)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_save_that_is_cut_leaves_the_state_before(tmp_path, monkeypatch):
    run(Fit(), CONFIG, tmp_path, seed=0, seconds=0)
    before = (tmp_path / "fit.state.pt").read_bytes()

    def cut(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        run(Fit(), CONFIG, tmp_path, seed=0, seconds=0)
    assert (tmp_path / "fit.state.pt").read_bytes() == before
    monkeypatch.undo()
    resumed = Fit()
    assert run(resumed, CONFIG, tmp_path, seed=0) and resumed.calls == CONFIG.steps - 1


def test_the_average_follows_its_formula():
    layer = nn.Linear(1, 1, bias=False)
    ema = Ema(0.5)
    expected = None
    for step, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        nn.init.constant_(layer.weight, value)
        ema.update({"a": layer}, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert ema.shadow["a.weight"].item() == pytest.approx(expected)
    ema.copy_to({"a": layer})
    assert layer.weight.item() == pytest.approx(expected)


def test_frozen_parameters_stay_and_rates_scale_by_name(tmp_path):
    task = Fit()
    task.net[0].requires_grad_(False)
    before = weights(task)
    run(task, replace(CONFIG, weight_decay=0.1), tmp_path, seed=0)
    after = weights(task)
    assert torch.equal(before["net0.weight"], after["net0.weight"])
    assert not torch.equal(before["net2.weight"], after["net2.weight"])
    still = Fit()
    still.rate = {"net": 0.0}
    run(still, CONFIG, tmp_path / "still", seed=0)
    assert same(weights(still), before)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    task = Fit()
    nn.init.constant_(task.net[0].weight, float("nan"))
    with pytest.raises(AssertionError, match="fit: loss is nan at step 0"):
        run(task, CONFIG, tmp_path, seed=0)
    assert not (tmp_path / "fit.state.pt").exists()


def test_the_rate_rises_then_falls_to_nearly_nothing():
    config = replace(CONFIG, steps=1000, warmup=100)
    rates = [loop_module._schedule(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == 1.0 == rates[100] == rates[400]
    assert rates == sorted(rates[:100]) + sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)

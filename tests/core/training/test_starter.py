"""The starter's training: phases in order, from an empty folder to weights that load."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.checkpoints.load import NetworkStore, load_network
from core.cli.errors import run_reporting
from core.cli.train_starter import main
from core.config.presets import STARTER
from core.config.training import PHASES
from core.errors import ConfigError
from core.training.starter import StarterTraining
from tests.support.training import QUICK
from tests.support.training import TINY_STARTER as PRESET


def training(folder: Path, **settings) -> StarterTraining:
    return StarterTraining(folder, QUICK, torch.device("cpu"), compile=False, preset=PRESET, **settings)


def test_all_phases_leave_every_network_of_the_preset(tmp_path):
    lines = []
    work = training(tmp_path, report=lines.append)
    assert work.run(PHASES)
    assert {path.stem for path in work.weights.glob("*.safetensors")} == PRESET.networks().keys()
    assert [line["task"] for line in lines] == list(PHASES)
    for name, config in PRESET.networks().items():
        network = load_network(work.weights / f"{name}.safetensors")
        assert all(torch.isfinite(value).all() for value in network.state_dict().values())
        measured = {"latent_scale": 1.0, "latent_shift": 0.0} if "vae" in name else {}
        assert replace(network.config, **measured) == config
    vae = load_network(work.weights / "sparse_vae_32.safetensors")
    assert len(vae.config.latent_scale) == vae.config.latent_channels and vae.config.latent_scale != (1.0,) * 4


def test_phases_may_run_one_at_a_time_and_are_not_repeated(tmp_path):
    for phase in PHASES:
        assert training(tmp_path).run((phase,))
    lines = []
    weights = {path: path.read_bytes() for path in (tmp_path / PRESET.name).iterdir()}
    assert training(tmp_path, report=lines.append).run(PHASES)
    assert [line["task"] for line in lines] == ["pool"]  # its shards are counted, no step is made
    assert weights.keys() == set((tmp_path / PRESET.name).iterdir())


def test_no_time_left_stops_resumably(tmp_path):
    calls = 0
    while not training(tmp_path).run(PHASES[:3], seconds=0):
        calls += 1
        assert calls <= 10
    assert calls >= 2 and (tmp_path / PRESET.name / "conditioner.safetensors").exists()


def test_a_pool_of_another_run(tmp_path):
    assert training(tmp_path / "a").run(("pool",))
    assert training(tmp_path / "b", pool_folder=tmp_path / "a" / "pool").run(("dense_vae",))
    assert not (tmp_path / "b" / "pool").exists()


def test_an_unknown_phase(tmp_path):
    with pytest.raises(ConfigError, match="no phase dense, sparse. Known: pool, dense_vae"):
        training(tmp_path).run(("pool", "sparse", "dense"))
    assert not list(tmp_path.iterdir())


def test_a_phase_without_its_predecessors(tmp_path, capsys):
    with pytest.raises(ConfigError, match="Run the phase 'pool' first"):
        training(tmp_path).run(("dense_vae",))
    assert training(tmp_path).run(("pool",))
    needs = {"dense_regression": "patch_basis", "dense_dit": "patch_basis", "sparse_dit": "sparse_vae_32"}
    for phase, missing in needs.items():
        with pytest.raises(ConfigError, match=f"{missing}.safetensors does not exist yet"):
            training(tmp_path).run((phase,))
    for arguments in (["--phases", "nope"], ["--phases", "sparse_dit", "--device", "cpu"]):
        assert run_reporting(lambda a=arguments: main(["--run", str(tmp_path / "empty"), *a])) == 2
    assert capsys.readouterr().err.count("s2mesh: error: ") == 2


@pytest.mark.slow
def test_the_command_trains_the_starter_end_to_end(tmp_path, capsys):
    arguments = ["--recipe", "tiny", "--no-compile", "--device", "cpu", "--run", str(tmp_path)]
    assert main(arguments) == 0
    assert f"weights: {tmp_path / 'starter'}" in capsys.readouterr().out
    networks = NetworkStore(STARTER, tmp_path / "starter")
    for name in STARTER.networks():
        assert next(networks.get(name).parameters()).isfinite().all()
        networks.release(name)
    shutil.rmtree(tmp_path)  # 250 MB of optimiser states, which pytest would keep

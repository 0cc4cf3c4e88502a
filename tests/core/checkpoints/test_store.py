"""Files of weights: what is written is read back, and nothing else is accepted."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from core.checkpoints.store import digest, open_tensors, read_header, save_network, verify_digest
from core.config.models import DenseVAEConfig, UNet3DConfig
from core.errors import CheckpointError

CONFIG = UNet3DConfig(in_channels=1, out_channels=4, block_channels=(4, 8), final_conv=True)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def test_round_trip(tmp_path):
    path, network = tmp_path / "new folder" / "net.safetensors", small()
    save_network(path, network, CONFIG, about={"steps": 7})
    header = read_header(path)
    assert header.config == CONFIG and header.about == {"steps": 7}
    assert header.shapes == {key: tuple(value.shape) for key, value in network.state_dict().items()}
    with open_tensors(path) as file:
        for key, value in network.state_dict().items():
            assert torch.equal(file.get_tensor(key), value)
    verify_digest(path)
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"], "no temporary file is left"


def test_tuples_of_a_configuration_survive(tmp_path):
    config = DenseVAEConfig(
        latent_channels=2, encoder_channels=(4, 8), decoder_channels=(8, 4), latent_scale=(0.5, 2.0), latent_shift=0.1
    )
    save_network(tmp_path / "a", small(), config)
    assert read_header(tmp_path / "a").config == config


def test_same_weights_give_the_same_bytes(tmp_path):
    save_network(tmp_path / "a", small(), CONFIG, torch.float16)
    save_network(tmp_path / "b", small(), CONFIG, torch.float16)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with open_tensors(tmp_path / "a") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_values_that_half_precision_cannot_hold_are_refused_and_the_old_file_stays(tmp_path):
    path, network = tmp_path / "net", small()
    save_network(path, network, CONFIG)
    before = path.read_bytes()
    network[0].weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"0\.weight has values that are not finite"):
        save_network(path, network, CONFIG, torch.float16)
    assert path.read_bytes() == before


class Hostile:
    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


def test_pickles_are_refused_unread(tmp_path):
    proof = tmp_path / "code ran"
    torch.save({"weight": Hostile(proof)}, tmp_path / "archive")
    torch.save({"weight": Hostile(proof)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    (tmp_path / "bare").write_bytes(pickle.dumps(Hostile(proof)))
    for name in ("archive", "legacy", "bare"):
        with pytest.raises(CheckpointError, match="pickle"):
            read_header(tmp_path / name)
    assert not proof.exists()


def damaged(path: Path) -> dict[str, bytes]:
    save_network(path, small(), CONFIG)
    whole = path.read_bytes()
    path.unlink()
    return {
        "nothing": b"",
        "short": whole[:5],
        "cut header": whole[:100],
        "cut tensors": whole[:-4],
        "text": b"<!DOCTYPE html><html>Not found</html>",
        "huge length": struct.pack("<Q", 2**62) + b"{}",
        "nested": struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }


@pytest.mark.parametrize(
    "name", ["nothing", "short", "cut header", "cut tensors", "text", "huge length", "nested", "pointer"]
)
def test_damaged_files(tmp_path, name):
    path = tmp_path / "net.safetensors"
    path.write_bytes(damaged(path)[name])
    with pytest.raises(CheckpointError) as refusal:
        read_header(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError):
            read_header(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"network": "os.system"}, "damaged header"),
        ({"network": ["a"]}, "damaged header"),
        ({"config": "{"}, "damaged header"),
        ({"config": {"in_channels": 1}}, "damaged header"),
        ({"config": {"in_channels": 1, "out_channels": 4, "run": "code"}}, "damaged header"),
    ],
)
def test_headers_that_are_refused(tmp_path, changed, words):
    path = tmp_path / "net"
    save_network(path, small(), CONFIG)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["s2mesh"])
    save_file({"a": torch.zeros(1)}, path, {"s2mesh": json.dumps({**header, **changed})})
    with pytest.raises(CheckpointError, match=words):
        read_header(path)


@pytest.mark.parametrize("entry", ["", "{", "[]", "1", "[" * 100_000, '{"a": 1}'])
def test_entries_that_are_no_header(tmp_path, entry):
    save_file({"a": torch.zeros(1)}, tmp_path / "net", {"s2mesh": entry})
    with pytest.raises(CheckpointError, match="damaged header"):
        read_header(tmp_path / "net")


def test_foreign_safetensors(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "net", {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a file of S2 Mesh"):
        read_header(tmp_path / "net")


def test_changed_tensors_do_not_match_the_digest(tmp_path):
    path = tmp_path / "net"
    save_network(path, small(), CONFIG)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="changed"):
        verify_digest(path)


def test_digest_sees_names_shapes_and_dtypes():
    zeros = torch.zeros(4)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.reshape(2, 2)}, {"a": zeros.int()}, {"a": zeros[:0]}]
    assert len({digest(variant) for variant in variants}) == len(variants)

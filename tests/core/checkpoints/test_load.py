"""Strict loading, low memory, and where presets are found."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints import installed
from core.checkpoints.installed import find_preset_folder, installed_presets, missing_networks
from core.checkpoints.load import NetworkStore, build_unfilled, load_network
from core.checkpoints.store import save_network, save_tensors
from core.config.models import ConditionerConfig, DenseDiTConfig, DenseVAEConfig, RefinerConfig
from core.config.presets import STARTER, V1_0, V1_1
from core.errors import CheckpointError, ConfigError
from core.models.registry import build

DIT = DenseDiTConfig(
    resolution=4, latent_channels=2, width=24, cond_width=16, num_blocks=2, num_heads=2, patch_size=2, qk_norm=True
)
VAE = DenseVAEConfig(latent_channels=2, encoder_channels=(4, 8), decoder_channels=(8, 4))
EYE = ConditionerConfig(image_size=28, patch_size=14, width=16, num_blocks=1, num_heads=2)
REFINER = RefinerConfig(
    kind="sdf", resolution=16, patch_size=8, patch_stride=4, block_channels=(4, 4), feature_channels=3
)


@pytest.mark.parametrize("config", [DIT, VAE, EYE, REFINER], ids=lambda c: type(c).__name__)
def test_round_trip_of_every_tensor(tmp_path, config):
    network = build(config)
    save_network(tmp_path / "net", network, config)
    loaded = load_network(tmp_path / "net", expected_config=config, check_finite=True)
    assert not loaded.training
    expected = network.state_dict()
    assert set(loaded.state_dict()) == set(expected)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, expected[key]), key
    constants = dict(network.named_buffers())
    for name, value in loaded.named_buffers():
        assert torch.equal(value, constants[name]), name
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_a_forward_pass(tmp_path, dtype):
    torch.manual_seed(0)
    network = build(DIT)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # the last layers start at zero
    save_network(tmp_path / "net", network, DIT, torch.float16)
    loaded = load_network(tmp_path / "net", dtype=dtype)
    assert loaded.out_layer.weight.dtype == dtype and loaded.out_layer.bias.dtype == dtype
    assert loaded.blocks[0].norm2.weight.dtype == loaded.pos_emb.dtype == torch.float32
    x, cond = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 3, 16)
    with torch.no_grad():
        reference = network(x, torch.tensor([500.0]), cond)
        out = loaded(x.to(dtype), torch.tensor([500.0]), cond.to(dtype)).float()
    error = (out - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    assert error < 4e-2, f"relative RMS error {error:.1e}"  # two blocks of bfloat16 (2**-8 a rounding)


def test_image_encoder_stays_in_single_precision(tmp_path):
    save_network(tmp_path / "net", build(EYE), EYE, torch.float16)
    loaded = load_network(tmp_path / "net", dtype=torch.float16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded(torch.rand(1, 3, 28, 28)).shape == (1, EYE.num_tokens, 16)


def test_image_encoder_under_the_other_attention_names(tmp_path):
    network = build(EYE)
    names = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
             "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"}  # fmt: skip
    older = any(".attention.attention." in key for key in network.state_dict())
    other = {}
    for key, value in network.state_dict().items():
        for old, new in names.items():
            key = key.replace(f".{old}.", f".{new}.") if older else key.replace(f".{new}.", f".{old}.")
        other[key] = value
    assert set(other) != set(network.state_dict())
    save_tensors(tmp_path / "net", other, EYE)
    loaded = load_network(tmp_path / "net")
    picture = torch.rand(1, 3, 28, 28)
    assert torch.equal(loaded(picture), network.eval()(picture))


def test_nothing_is_allocated_to_build():
    network = build_unfilled(V1_1.dense.dit)
    sizes = {True: 0, False: 0}
    for parameter in network.parameters():
        sizes[parameter.is_meta] += parameter.numel()
    assert sizes[True] > 500e6 and sizes[False] < 1e6, "only gains are real"


def test_one_error_names_everything_that_does_not_fit(tmp_path):
    tensors = build(DIT).state_dict()
    for number in range(6):
        tensors[f"extra.{number}"] = torch.zeros(1)
    del tensors["out_layer.bias"]
    tensors["input_layer.bias"] = torch.zeros(7)
    save_tensors(tmp_path / "net", tensors, DIT)
    with pytest.raises(CheckpointError) as refusal:
        load_network(tmp_path / "net")
    message = str(refusal.value)
    assert "1 missing (out_layer.bias)" in message
    assert "6 unexpected (extra.0, extra.1, extra.2, extra.3, ...)" in message
    assert "1 of another shape (input_layer.bias [7] instead of [24])" in message
    assert "\n" not in message


def test_another_network_or_size_is_refused(tmp_path):
    save_network(tmp_path / "net", build(DIT), DIT)
    with pytest.raises(CheckpointError, match="holds a network of DenseDiTConfig, not of DenseVAEConfig"):
        load_network(tmp_path / "net", expected_config=VAE)
    with pytest.raises(CheckpointError, match="width 24 instead of 32, num_blocks 2 instead of 3"):
        load_network(tmp_path / "net", expected_config=replace(DIT, width=32, num_blocks=3))


def test_scale_of_the_latents_comes_from_the_file(tmp_path):
    trained = replace(VAE, latent_scale=(0.5, 2.0), latent_shift=0.25)
    save_network(tmp_path / "net", build(trained), trained)
    loaded = load_network(tmp_path / "net", expected_config=VAE)
    assert loaded.config == trained
    assert loaded.normalize(torch.full((1, 2, 1, 1, 1), 1.25)).flatten().tolist() == [0.5, 2.0]


def test_weights_that_are_not_finite(tmp_path):
    tensors = build(DIT).state_dict()
    save_tensors(tmp_path / "net", tensors, DIT)
    data = bytearray((tmp_path / "net").read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # a float32 NaN
    (tmp_path / "net").write_bytes(data)
    load_network(tmp_path / "net")
    with pytest.raises(CheckpointError, match="not finite"):
        load_network(tmp_path / "net", check_finite=True)


def test_replacing_the_file_does_not_touch_a_loaded_network(tmp_path):
    save_network(tmp_path / "net", build(VAE), VAE)
    loaded = load_network(tmp_path / "net")
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    (tmp_path / "net").write_bytes(b"\0" * (tmp_path / "net").stat().st_size)
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())


@pytest.fixture
def tiny_preset(tmp_path):
    """A preset of which only the dense networks and the encoder are on disk; sparse networks are empty files."""
    preset = replace(
        STARTER, name="tiny", bundled=False, conditioner=EYE, dense=replace(STARTER.dense, dit=DIT, vae=VAE)
    )
    folder = tmp_path / "tiny"
    for name, config in (("conditioner", EYE), ("dense_dit", DIT), ("dense_vae", VAE)):
        save_network(folder / f"{name}.safetensors", build(config), config)
    for name in missing_networks(preset, folder):
        (folder / f"{name}.safetensors").touch()
    return preset


def test_store_loads_lazily_once_and_releases(tiny_preset, tmp_path):
    store = NetworkStore(tiny_preset, tmp_path / "tiny", dtype=torch.bfloat16)
    assert store.loaded == ()
    network = store.get("dense_dit")
    assert store.get("dense_dit") is network and store.loaded == ("dense_dit",)
    assert network.out_layer.weight.dtype == torch.bfloat16
    store.release("dense_dit")
    store.release("dense_dit")
    assert store.loaded == () and store.get("dense_dit") is not network
    with pytest.raises(ConfigError, match="no network 'dense_dat'"):
        store.get("dense_dat")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        store.get("sparse_dit_128")


def test_files_are_read_ahead_once_until_they_are_loaded(tiny_preset, tmp_path):
    store = NetworkStore(tiny_preset, tmp_path / "tiny")
    before = store.get("dense_dit").state_dict()
    assert store.read_ahead("dense_dit") == [], "it is there"
    store.release("dense_dit")
    (thread,) = store.read_ahead("dense_dit")
    assert store.read_ahead("dense_dit") == [], "it is being read"
    thread.join()
    again = store.get("dense_dit").state_dict()
    assert all(torch.equal(before[key], value) for key, value in again.items())
    (store.folder / "dense_vae.safetensors").unlink()
    (thread,) = store.read_ahead("dense_vae")
    thread.join()
    with pytest.raises(CheckpointError, match="dense_vae"):
        store.get("dense_vae")


def test_missing_weights_say_how_to_get_them(tmp_path):
    for preset, remedy in ((V1_1, "s2mesh models download direct3d-s2-v1.1"), (STARTER, "core/weights")):
        with pytest.raises(CheckpointError) as refusal:
            NetworkStore(preset, tmp_path / preset.name)
        assert preset.name in str(refusal.value) and remedy in str(refusal.value) and "\n" not in str(refusal.value)


def test_folders_of_presets(tmp_path, monkeypatch):
    assert find_preset_folder(V1_1, tmp_path) == tmp_path / "direct3d-s2-v1.1"
    bundled = find_preset_folder(STARTER, tmp_path)
    assert bundled.parts[-3:] == ("core", "weights", "starter") == find_preset_folder(STARTER).parts[-3:]
    for preset in (V1_0, STARTER):
        for name in preset.networks():
            (tmp_path / preset.name).mkdir(exist_ok=True)
            (tmp_path / preset.name / f"{name}.safetensors").touch()
    assert find_preset_folder(STARTER, tmp_path) == tmp_path / "starter", "own weights of a bundled preset win"
    assert installed_presets(tmp_path) == ["starter", "direct3d-s2-v1.0"]
    monkeypatch.setattr(installed, "default_models_dir", lambda: tmp_path)
    assert find_preset_folder(V1_1) == tmp_path / "direct3d-s2-v1.1"

"""A folder as the authors lay theirs out, tiny, converted and loaded."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from core.checkpoints import convert_direct3d_s2 as conversion
from core.checkpoints import pickled
from core.checkpoints.load import NetworkStore
from core.checkpoints.store import read_header, verify_digest
from core.config.presets import PRESETS, V1_1, ModelPreset
from core.errors import CheckpointError
from tests.support.released_config import SPARSE_DIT, released_sections, shrunk, tiny_preset
from tests.support.released_folder import write_released


@pytest.fixture
def authors(monkeypatch):
    monkeypatch.setattr(conversion, "config_from_authors", shrunk)


@pytest.fixture(scope="module")
def preset() -> ModelPreset:
    return tiny_preset()


@pytest.fixture(scope="module")
def released(tmp_path_factory, preset) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    """The authors' folder, and its state dicts under our names of the networks."""
    folder = tmp_path_factory.mktemp("released")
    return folder, write_released(folder, preset)


@pytest.fixture
def broken(released, tmp_path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(released[0], tmp_path / "broken"))


def test_whole_folder_converts_and_loads_strictly(authors, released, preset, tmp_path):
    folder, states = released
    seen = []
    made = conversion.convert(
        folder, tmp_path / "models", presets=[V1_1, preset], on_network=lambda *progress: seen.append(progress)
    )
    assert made == tmp_path / "models" / "tiny"
    assert [progress[0] for progress in seen] == list(preset.networks()) and seen[-1][1:] == (9, 9)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"], "no scratch folder is left"
    store = NetworkStore(preset, made)
    for name, config in preset.networks().items():
        path = made / f"{name}.safetensors"
        verify_digest(path)
        assert read_header(path).config == config
        loaded = store.get(name).state_dict()
        assert set(loaded) == set(states[name])
        for key, value in loaded.items():
            assert torch.equal(value, states[name][key].to(value.dtype)), f"{name} {key}"


def test_torchsparse_layout_is_kept(authors, released, preset, tmp_path):
    made = conversion.convert(released[0], tmp_path, presets=[preset])
    key = "decoder.upsample.0.act_layers.0.conv.kernel"
    kernel = NetworkStore(preset, made).get("sparse_vae_512").state_dict()[key]
    assert kernel.shape == (27, 64, 16), "offsets, in, out"
    assert torch.equal(kernel, released[1]["sparse_vae_512"][key].float())
    one = "encoder.downsample.0.skip_connection.conv.kernel"
    assert read_header(made / "sparse_vae_512.safetensors").shapes[one] == (4, 8), "a kernel of one voxel is a matrix"


def test_stored_dtype_and_replacing(authors, released, preset, tmp_path):
    made = conversion.convert(released[0], tmp_path, presets=[preset])
    size = (made / "conditioner.safetensors").stat().st_size
    with pytest.raises(CheckpointError, match="--replace"):
        conversion.convert(released[0], tmp_path, presets=[preset])
    conversion.convert(released[0], tmp_path, presets=[preset], replace=True, dtype=torch.float16)
    assert (made / "conditioner.safetensors").stat().st_size < 0.7 * size
    assert [path.name for path in tmp_path.iterdir() if path.name != "models"] == ["tiny"]


class Hostile:
    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


def damage_hostile(folder: Path) -> None:
    torch.save({"refiner": Hostile(folder / "code ran")}, folder / "model_refiner.ckpt")


def damage_hostile_old(folder: Path) -> None:
    content = {"refiner": Hostile(folder / "code ran")}
    torch.save(content, folder / "model_refiner.ckpt", _use_new_zipfile_serialization=False)


def damage_cut(folder: Path) -> None:
    path = folder / "model_sparse_1024.ckpt"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_web_page(folder: Path) -> None:
    (folder / "model_dense.ckpt").write_text("<html>Not found</html>")


def damage_entry(folder: Path) -> None:
    torch.save({"model": {}}, folder / "model_refiner.ckpt")


def damage_content(folder: Path) -> None:
    torch.save({"refiner": {"step": 7}}, folder / "model_refiner.ckpt")


def damage_key(folder: Path) -> None:
    content = torch.load(folder / "model_refiner.ckpt", weights_only=True)
    content["refiner"]["surplus"] = content["refiner"].pop("conv_in.weight")
    torch.save(content, folder / "model_refiner.ckpt")


def damage_missing(folder: Path) -> None:
    (folder / "model_sparse_512.ckpt").unlink()


def damage_encoder_missing(folder: Path) -> None:
    (folder / "dinov2_vitl14_reg4_pretrain.pth").unlink()


def damage_encoder_other(folder: Path) -> None:
    torch.save({"visual.proj": torch.zeros(1)}, folder / "dinov2_vitl14_reg4_pretrain.pth")


def damage_no_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def damage_config_tag(folder: Path) -> None:
    proof = folder / "code ran"
    (folder / "config.yaml").write_text(f"dense_vae: !!python/object/apply:pathlib.Path.touch ['{proof}']")


def damage_config_list(folder: Path) -> None:
    (folder / "config.yaml").write_text("- 1\n- 2\n")


def edit_config(folder: Path, section: str, **changed) -> None:
    sections = yaml.safe_load((folder / "config.yaml").read_text())
    sections[section] = {**sections[section], **changed}
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))


def damage_foreign_class(folder: Path) -> None:
    edit_config(folder, "refiner", target="os.system", params={"command": f"touch '{folder}/code ran'"})


def damage_no_target(folder: Path) -> None:
    edit_config(folder, "dense_dit", target=None)


def damage_argument(folder: Path) -> None:
    edit_config(folder, "dense_vae", params={"embed_dim": 2, "magic": True})


def damage_size(folder: Path) -> None:
    edit_config(folder, "sparse_dit_512", params={**SPARSE_DIT, "resolution": 8, "topk": 5})


def damage_schedule(folder: Path) -> None:
    edit_config(folder, "sparse_scheduler_1024", params={"shift": 3.0})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_hostile, "Python objects"),
        (damage_hostile_old, "Python objects"),
        (damage_cut, "damaged or cut short"),
        (damage_web_page, "damaged"),
        (damage_entry, "has no entry 'refiner'"),
        (damage_content, "something other than weights"),
        (damage_key, r"1 missing \(conv_in.weight\); 1 unexpected \(surplus\)"),
        (damage_missing, "lacks model_sparse_512.ckpt"),
        (damage_encoder_missing, "dinov2_vitl14_reg4_pretrain.pth into the folder"),
        (damage_encoder_other, "not DINOv2 with registers"),
        (damage_no_config, "config.yaml is missing"),
        (damage_config_tag, "not a configuration"),
        (damage_config_list, "no sections"),
        (damage_foreign_class, "'os.system' is no module"),
        (damage_no_target, "no target"),
        (damage_argument, "magic"),
        (damage_size, r"tiny is nearest, but differs in sparse_dit_512 \(ssa\)"),
        (damage_schedule, "differs in sparse_scheduler_1024"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_folders_leave_nothing(authors, broken, preset, tmp_path, damage, words):
    damage(broken)
    models = tmp_path / "models"
    with pytest.raises(CheckpointError, match=words) as refusal:
        conversion.convert(broken, models, presets=[V1_1, preset])
    assert "\n" not in str(refusal.value)
    assert not (broken / "code ran").exists()
    assert not models.exists() or not list(models.iterdir())


def test_failure_keeps_the_installed_preset(authors, broken, preset, tmp_path):
    models = tmp_path / "models"
    made = conversion.convert(broken, models, presets=[preset])
    damage_cut(broken)
    with pytest.raises(CheckpointError):
        conversion.convert(broken, models, presets=[preset], replace=True)
    NetworkStore(preset, made).get("sparse_vae_1024")


def test_encoder_from_transformers_and_by_name(authors, released, broken, preset, tmp_path):
    from safetensors.torch import save_file

    damage_encoder_missing(broken)
    state = {key.removeprefix("backbone."): value for key, value in released[1]["conditioner"].items()}
    save_file(state, tmp_path / "model.safetensors")
    made = conversion.convert(broken, tmp_path / "models", dinov2=tmp_path / "model.safetensors", presets=[preset])
    loaded = NetworkStore(preset, made).get("conditioner").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in released[1]["conditioner"].items())


def test_a_mapped_file_is_mapped_anew_and_gives_the_same(authors, released, preset, tmp_path, monkeypatch):
    """What was read of a file would stay in memory."""
    first = conversion.convert(released[0], tmp_path / "first", presets=[preset])
    loads = []
    load = pickled._load_restricted
    monkeypatch.setattr(pickled, "_load_restricted", lambda path: loads.append(path.name) or load(path))
    monkeypatch.setattr(pickled, "REMAP_BYTES", 50_000)
    second = conversion.convert(released[0], tmp_path / "second", presets=[preset])
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert loads.count("model_dense.ckpt") > 4, "two networks, and new mappings"
    assert loads.count("model_sparse_512.ckpt") == 2, "old torch's layout cannot be mapped and is read once a network"


@pytest.mark.parametrize("version", ["v1.1", "v1.0"])
def test_published_configurations_are_our_presets(version):
    found = conversion.matching_preset(released_sections(version), PRESETS.values())
    assert found.name == f"direct3d-s2-{version}"

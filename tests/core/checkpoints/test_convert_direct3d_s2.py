"""A folder as the authors lay theirs out, tiny, converted and loaded."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from core.checkpoints import convert_direct3d_s2 as conversion
from core.checkpoints.authors_config import config_from_authors
from core.checkpoints.load import NetworkStore
from core.checkpoints.store import read_header, verify_digest
from core.cli.convert import main
from core.config.models import ConditionerConfig, RefinerConfig, SparseVAEConfig
from core.config.presets import PRESETS, V1_1, ModelPreset
from core.errors import CheckpointError
from core.models.dinov2_keys import to_hub
from core.models.registry import build

PREFIX = "direct3d_s2.models."
VAE = {"embed_dim": 2, "model_channels_encoder": 64, "model_channels_decoder": 64, "num_blocks_encoder": 1,
       "num_blocks_decoder": 1, "num_heads_encoder": 2, "num_heads_decoder": 2, "use_fp16": True}  # fmt: skip
SPARSE_DIT = {"in_channels": 2, "out_channels": 2, "model_channels": 32, "cond_channels": 16, "num_blocks": 1,
              "num_heads": 2, "num_kv_heads": 2, "compression_block_size": 4, "selection_block_size": 8, "topk": 2,
              "compression_version": "v2", "sparse_conditions": True}  # fmt: skip
SCHEDULER = "diffusers.FlowMatchEulerDiscreteScheduler"
EYE = {"target": PREFIX + "conditioner.DinoEncoder",
       "params": {"model": "facebookresearch/dinov2", "version": "dinov2_vitl14_reg", "size": 28}}  # fmt: skip
SECTIONS = {
    "dense_vae": {
        "target": PREFIX + "autoencoders.DenseShapeVAE",
        "params": {"embed_dim": 2, "model_channels_encoder": [4, 8], "model_channels_decoder": [8, 4]},
    },
    "dense_dit": {
        "target": PREFIX + "transformers.DenseDiT",
        "params": {"resolution": 4, "in_channels": 2, "out_channels": 2, "model_channels": 24, "cond_channels": 16,
                   "num_blocks": 1, "num_heads": 2, "patch_size": 1, "qk_rms_norm": True},  # fmt: skip
    },
    "dense_image_encoder": EYE,
    "sparse_image_encoder": EYE,
    "dense_scheduler": {"target": SCHEDULER, "params": {"num_train_timesteps": 1000, "shift": 6.0}},
    "sparse_scheduler_512": {"target": SCHEDULER, "params": {"shift": 6.0}},
    "sparse_scheduler_1024": {"target": SCHEDULER, "params": {"shift": 8.0}},
    "sparse_vae_512": {"target": PREFIX + "autoencoders.SparseSDFVAE", "params": {**VAE, "resolution": 8}},
    "sparse_vae_1024": {"target": PREFIX + "autoencoders.SparseSDFVAE", "params": {**VAE, "resolution": 16}},
    "sparse_dit_512": {"target": PREFIX + "transformers.SparseDiT", "params": {**SPARSE_DIT, "resolution": 8}},
    "sparse_dit_1024": {
        "target": PREFIX + "transformers.SparseDiT",
        "params": {**SPARSE_DIT, "resolution": 16, "factor": 0.5},
    },
    "refiner": {"target": PREFIX + "refiner.unet_refiner.Voxel_RefinerXL", "params": {"patch_size": 192}},
    "refiner_1024": {"target": PREFIX + "refiner.unet_refiner.Voxel_RefinerXL_sign", "params": {"patch_size": 256}},
}


def shrunk(name, params):
    """The authors' configuration, with the widths that their files do not state made small."""
    config = config_from_authors(name, params)
    if isinstance(config, ConditionerConfig):
        return replace(config, width=16, num_blocks=1, num_heads=2)
    if isinstance(config, SparseVAEConfig):
        return replace(config, norm_groups=2)
    if isinstance(config, RefinerConfig):
        return replace(config, block_channels=(4, 4), feature_channels=4)
    return config


@pytest.fixture
def authors(monkeypatch):
    monkeypatch.setattr(conversion, "config_from_authors", shrunk)


@pytest.fixture(scope="module")
def preset() -> ModelPreset:
    config = {name: shrunk(s["target"], s["params"]) for name, s in SECTIONS.items() if "scheduler" not in name}
    stages = [
        replace(
            stage,
            dit=config[f"sparse_dit_{stage.resolution}"],
            vae=config[f"sparse_vae_{stage.resolution}"],
            refiner=config["refiner" if stage.resolution == 512 else "refiner_1024"],
        )
        for stage in V1_1.sparse
    ]
    return replace(
        V1_1,
        name="tiny",
        conditioner=config["dense_image_encoder"],
        dense=replace(V1_1.dense, dit=config["dense_dit"], vae=config["dense_vae"]),
        sparse=tuple(stages),
    )


@pytest.fixture(scope="module")
def released(tmp_path_factory, preset) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    """The authors' folder, and its state dicts under our names of the networks."""
    folder = tmp_path_factory.mktemp("released")
    (folder / "config.yaml").write_text(yaml.safe_dump(SECTIONS))
    torch.manual_seed(0)
    states = {name: build(config).half().state_dict() for name, config in preset.networks().items()}
    files: dict[str, dict] = {}
    for name, (_, file, entry) in conversion.SOURCES.items():
        files.setdefault(file, {})[entry] = states[name]
    for number, (file, content) in enumerate(files.items()):  # both layouts that torch has written
        torch.save(content, folder / file, _use_new_zipfile_serialization=number != 1)
    states["conditioner"] = {key: value.float() for key, value in states["conditioner"].items()}
    hub = to_hub({key.removeprefix("backbone."): value for key, value in states["conditioner"].items()})
    torch.save(hub, folder / "dinov2_vitl14_reg4_pretrain.pth")
    return folder, states


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


def test_command(authors, released, preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(conversion.convert.__kwdefaults__, "presets", (preset,))
    assert main([str(released[0]), "--out", str(tmp_path), "--dtype", "float16"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "tiny") and "[9/9]" in printed.err


def released_sections(version: str) -> dict[str, dict]:
    """The published configuration (v1.1), with what v1.0 has otherwise."""
    v10 = version == "v1.0"
    vae = {"embed_dim": 16, "model_channels_encoder": 512, "model_channels_decoder": 512, "num_blocks_encoder": 4,
           "num_blocks_decoder": 4, "num_heads_encoder": 8, "num_heads_decoder": 8, "out_channels": 1,
           "num_head_channels_encoder": 64, "num_head_channels_decoder": 64, "use_fp16": True,
           "latents_scale": 1.0, "latents_shift": 0.0}  # fmt: skip
    dit = {"in_channels": 16, "out_channels": 16, "model_channels": 1024, "cond_channels": 1024, "num_blocks": 24,
           "num_heads": 32, "num_kv_heads": 2, "mlp_ratio": 4, "compression_block_size": 4 if v10 else 8,
           "selection_block_size": 8, "compression_version": "v2" if v10 else "v1", "sparse_conditions": v10,
           "pe_mode": "ape", "qk_rms_norm": True, "use_shift": True, "use_fp16": True}  # fmt: skip
    params = {
        "dense_vae": {"embed_dim": 8, "in_channels": 1, "out_channels": 1, "model_channels_encoder": [32, 128, 512],
                      "model_channels_decoder": [512, 128, 64], "num_res_blocks_encoder": 2,
                      "num_res_blocks_middle_encoder": 2, "num_res_blocks_decoder": 4,
                      "num_res_blocks_middle_decoder": 4, "latents_scale": 1.0, "latents_shift": 0.0,
                      "use_fp16": True},
        "dense_dit": {"resolution": 16, "in_channels": 8, "out_channels": 8, "model_channels": 1024,
                      "cond_channels": 1024, "num_blocks": 24, "num_heads": 16, "mlp_ratio": 4, "patch_size": 1,
                      "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True, "latent_shape": [8, 16, 16, 16]},
        "dense_image_encoder": {**EYE["params"], "size": 518},
        "sparse_image_encoder": {**EYE["params"], "size": 518},
        "sparse_vae_512": {**vae, "resolution": 64},
        "sparse_vae_1024": {**vae, "resolution": 128, "chunk_size": 4},
        "sparse_dit_512": {**dit, "resolution": 64, "topk": 32 if v10 else 8, "factor": 1.0},
        "sparse_dit_1024": {**dit, "resolution": 128, "topk": 8, "factor": 0.5},
        "refiner": {"in_channels": 1, "out_channels": 1, "layers_per_block": 2, "layers_mid_block": 2,
                    "patch_size": 192, "use_fp16": True},
        "refiner_1024": {"in_channels": 1, "out_channels": 1, "layers_per_block": 2, "layers_mid_block": 2,
                         "patch_size": 256, "use_fp16": True},
    }  # fmt: skip
    return {name: {**section, "params": params.get(name, section["params"])} for name, section in SECTIONS.items()}


@pytest.mark.parametrize("version", ["v1.1", "v1.0"])
def test_published_configurations_are_our_presets(version):
    found = conversion.matching_preset(released_sections(version), PRESETS.values())
    assert found.name == f"direct3d-s2-{version}"

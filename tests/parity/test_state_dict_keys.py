"""All released modules have exactly the authors' state-dict keys and shapes. Built on the meta device: no memory."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from core.config.presets import V1_0, V1_1
from core.models.registry import build

GOLDEN = Path(__file__).parents[1] / "golden"
PRESETS = {"v1_0": V1_0, "v1_1": V1_1}
KEYS = {version: json.loads(gzip.decompress((GOLDEN / f"keys_{version}.json.gz").read_bytes())) for version in PRESETS}


@pytest.mark.parametrize("version, network", [(version, name) for version in KEYS for name in KEYS[version]])
def test_keys_and_shapes(version, network):
    with torch.device("meta"):
        model = build(PRESETS[version].networks()[network])
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    theirs = KEYS[version][network]
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:10]
    assert ours == theirs


@pytest.mark.parametrize("version", PRESETS)
def test_the_lists_cover_every_network_but_the_image_encoder(version):
    assert set(KEYS[version]) == set(PRESETS[version].networks()) - {"conditioner"}
    assert len(KEYS[version]) == 8

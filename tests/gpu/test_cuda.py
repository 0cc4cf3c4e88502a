"""On a real GPU: the recorded tensors, the whole walk in each dtype, and the last device of the machine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.checkpoints.load import NetworkStore
from core.cli.parity_cases import run_file
from core.config.generation import GenerationOptions
from core.pipeline.image_to_shape import generate
from tests.support.tiny_models import save_tiny_weights
from tests.support.tiny_presets import TINY

pytestmark = pytest.mark.gpu
GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors*"))


@pytest.fixture(autouse=True)
def exact_float32():
    """TensorFloat-32 has ten bits: the recorded tensors need all of them."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_golden_on_cuda(path):
    for comparison in run_file(path, "cuda"):
        assert comparison.error < 1e-4, comparison


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_whole_walk_in_each_dtype(tmp_path, dtype):
    last = torch.device("cuda", torch.cuda.device_count() - 1)  # any index, not only the current one
    networks = NetworkStore(TINY, save_tiny_weights(TINY, tmp_path), last, dtype)
    picture = np.full((96, 96, 4), 255, np.uint8)
    picture[:, :, 3] = 0
    picture[20:76, 30:66] = (200, 80, 40, 255)
    result = generate(Image.fromarray(picture), networks, GenerationOptions(preset=TINY.name, seed=3))
    assert result.mesh.num_faces > 0
    if dtype is torch.float32:  # the same noise, whatever the device: at most a few cells at the threshold differ
        on_cpu = NetworkStore(TINY, tmp_path / TINY.name)
        expected = generate(Image.fromarray(picture), on_cpu, GenerationOptions(preset=TINY.name, seed=3))
        ours, theirs = (set(map(tuple, r.structure.coords.tolist())) for r in (result, expected))
        assert len(ours ^ theirs) <= 0.01 * len(theirs)

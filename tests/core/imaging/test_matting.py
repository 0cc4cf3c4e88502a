"""The matting network's way from a file to an alpha, with a network of four weights."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra `matting` is not installed")

from core.checkpoints.installed import installed_matting  # noqa: E402 - needs onnxruntime
from core.config.releases import MATTING  # noqa: E402
from core.errors import CheckpointError  # noqa: E402
from core.imaging.background import remove_background  # noqa: E402
from core.imaging.load import RGBAImage  # noqa: E402
from core.imaging.matting import OnnxMatting  # noqa: E402
from tests.support.onnx_file import write_red_matting  # noqa: E402


def photograph() -> np.ndarray:
    """A red disc before colours that are anything but plain, [60, 90, 3]."""
    rows, columns = np.mgrid[:60, :90]
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    rgb[..., 0] = 20
    rgb[(rows - 30) ** 2 + (columns - 60) ** 2 < 15**2] = (230, 20, 20)
    return rgb


@pytest.mark.parametrize("side", [32, 64, "side"])
def test_the_object_is_found_at_the_picture_s_own_size(tmp_path, side):
    alpha = OnnxMatting(write_red_matting(tmp_path / "model.onnx", side))(photograph())
    assert alpha.shape == (60, 90) and alpha.dtype == np.uint8
    assert alpha[30, 60] > 250 and alpha[30, 10] < 5
    assert 0.6 < np.count_nonzero(alpha > 127) / (np.pi * 15**2) < 1.4
    again = OnnxMatting(write_red_matting(tmp_path / "model.onnx", side))(photograph())
    assert np.array_equal(alpha, again)


def test_a_picture_without_alpha_is_cut_out_where_it_is_installed(tmp_path):
    image = RGBAImage(np.dstack([photograph(), np.full((60, 90), 255, np.uint8)]), has_alpha=False, warnings=())
    assert installed_matting(tmp_path) is None
    kept = remove_background(image, "auto", installed_matting(tmp_path))
    assert not kept.has_alpha and f"s2mesh models download {MATTING}" in kept.warnings[-1]
    write_red_matting(tmp_path / MATTING / "model.onnx")
    cut = remove_background(image, "auto", installed_matting(tmp_path))
    assert cut.has_alpha and not cut.warnings and cut.pixels[30, 60, 3] > 250 and cut.pixels[30, 10, 3] < 5
    assert np.array_equal(cut.pixels[..., :3], image.pixels[..., :3])
    assert remove_background(image, "none", installed_matting(tmp_path)).pixels[..., 3].min() == 255


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"<html>not found</html>"), "is damaged"),
        (lambda path: path.write_bytes(write_red_matting(path).read_bytes()[:-30]), "is damaged"),
        (lambda path: write_red_matting(path, channels=1), "takes no picture"),
        (lambda path: write_red_matting(path, outputs=2), r"gives \[1, 2, 32, 32\]"),
        (lambda path: path.unlink(missing_ok=True), "is missing"),
    ],
)
def test_what_is_no_such_network_is_told(tmp_path, make, words):
    make(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=f"{words}.*s2mesh models download .* --replace"):
        OnnxMatting(tmp_path / "model.onnx")(photograph())


def test_without_onnxruntime_there_is_none(tmp_path, monkeypatch):
    write_red_matting(tmp_path / MATTING / "model.onnx")
    monkeypatch.setattr("core.imaging.matting.importlib.util.find_spec", lambda name: None)
    assert installed_matting(tmp_path) is None

"""The authors' preparation, to the last pixel, and its generalisation to other sizes."""

from pathlib import Path

import numpy as np
import pytest

from core.cli.golden import read_golden
from core.imaging.load import RGBAImage, load_image
from core.imaging.preprocess import cropped_to_object, preprocess, to_tensor

GOLDEN = Path(__file__).parents[2] / "golden" / "preprocess_image.safetensors.xz"


def test_equals_the_authors_result_exactly():
    header, tensors = read_golden(GOLDEN)
    rgb, mask = preprocess(load_image(tensors["in.rgba"].numpy()), header["config"]["size"])
    expected = tensors["out.image_u8"].numpy()
    np.testing.assert_array_equal(rgb.transpose(2, 0, 1), expected[:3])
    np.testing.assert_array_equal(mask, expected[3])


def test_composite_truncates_like_the_authors_arithmetic():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (112, 112, 4), dtype=np.uint8)
    pixels[..., 3] |= 1  # nothing to crop
    level = pixels / 255.0
    expected = ((level[..., :3] * level[..., 3:] + (1 - level[..., 3:])) * 255).astype(np.uint8)
    from core.imaging.preprocess import _on_white

    np.testing.assert_array_equal(_on_white(pixels)[0], expected)
    np.testing.assert_array_equal(_on_white(pixels)[1], (level[..., 3] * 255).astype(np.uint8))


@pytest.mark.parametrize("size", [28, 112, 224, 518])
def test_object_is_centred_with_a_margin_in_proportion(size):
    pixels = np.zeros((90, 200, 4), np.uint8)
    pixels[30:50, 20:60] = (200, 10, 10, 255)
    rgb, mask = preprocess(load_image(pixels), size)
    assert rgb.shape == (size, size, 3) and mask.shape == (size, size)
    assert (rgb[0] == 255).all() and not mask[0].any()
    columns = np.flatnonzero(mask.any(axis=0))
    margin = round(16 * size / 518)
    left = margin * size / (size + 2 * margin)
    assert abs(columns[0] - left) <= 1 and abs(columns[-1] - (size - 1 - left)) <= 1
    rows = np.flatnonzero(mask.any(axis=1))
    assert len(rows) == pytest.approx(len(columns) / 2, abs=1.5)


def test_nearly_invisible_object_keeps_the_whole_picture():
    pixels = np.zeros((100, 100, 4), np.uint8)
    pixels[5, 5, 3] = 255
    assert cropped_to_object(pixels).shape == (100, 100, 4)


def test_very_narrow_picture_needs_little_memory():
    pixels = np.full((2, 60_000, 4), 255, np.uint8)  # its square would have 3.6 gigapixels
    rgb, mask = preprocess(RGBAImage(pixels, has_alpha=False), 112)
    assert rgb.shape == (112, 112, 3) and mask.shape == (112, 112)


def test_tensors_lie_in_0_to_1():
    rgb = np.full((28, 28, 3), 255, np.uint8)
    mask = np.zeros((28, 28), np.uint8)
    picture, shown = to_tensor(rgb, mask)
    assert picture.shape == (1, 3, 28, 28) and shown.shape == (1, 1, 28, 28)
    assert picture.min() == 1 and shown.max() == 0

"""PNG files written by the extension, and the heads of pictures' files, against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from blender_addon.png import encode_png, read_head


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (37, 53)])
def test_png_reads_back_as_it_was(height, width):
    pixels = picture(height, width)
    pixels[0, 0, 3] = 7
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image), pixels)


def test_png_without_transparency_has_no_alpha():
    pixels = picture(9, 5)
    pixels[..., 3] = 255
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels[..., :3])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_head_tells_kind_and_size(kind):
    content = io.BytesIO()
    Image.fromarray(picture(31, 47)[..., :3]).save(content, kind)
    head = read_head(content.getvalue())
    assert head.kind == kind
    assert (head.width, head.height) == ((47, 31) if kind in ("PNG", "JPEG", "WEBP") else (0, 0))


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": b"Exif\0\0" + b"x" * 5000}, {"quality": 1}])
def test_size_of_other_jpegs(options):
    content = io.BytesIO()
    Image.fromarray(picture(31, 47)[..., :3]).save(content, "JPEG", **options)
    head = read_head(content.getvalue())
    assert (head.width, head.height) == (47, 31)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_size_of_other_webps(lossless, alpha):
    content = io.BytesIO()
    Image.fromarray(picture(31, 47)[..., : 3 + alpha]).save(content, "WEBP", lossless=lossless)
    head = read_head(content.getvalue())
    assert (head.width, head.height) == (47, 31)


@pytest.mark.parametrize("content", [b"", b"x", b"RIFF1234WAVE", b"\x89PNG\r\n\x1a\n", b"%PDF", b"\x76\x2f\x31\x01"])
def test_no_picture_has_no_head(content):
    assert read_head(content) is None


def test_heads_that_are_cut_or_senseless_do_no_harm():
    """Only what a head can hold is said; nothing is raised and nothing runs on for ever."""
    for kind in ("JPEG", "WEBP", "PNG"):
        content = io.BytesIO()
        Image.fromarray(picture(31, 47)[..., :3]).save(content, kind)
        whole = content.getvalue()[:700]
        for length in range(len(whole)):
            read_head(whole[:length])
            read_head(whole[:length] + b"\xff" * 40)
            read_head(whole[:length] + b"\0" * 40)

"""Every kind of picture a user may bring, and every way it may be bad."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from core.imaging.load import FORMATS, ImageInfo, load_image, probe_image


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    rgb = np.stack([x * 6, y * 8, x + y], axis=-1).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(kind, tmp_path):
    data = encoded(gradient(), kind)
    path = tmp_path / "picture.bin"  # the name's ending does not matter
    path.write_bytes(data)
    for source in (data, path, str(path)):
        image = load_image(source)
        assert image.pixels.shape == (30, 40, 4) and image.pixels.dtype == np.uint8
        assert not image.has_alpha and not image.warnings
        assert np.abs(image.pixels[..., :3].astype(int) - np.asarray(gradient())).mean() < 12


def test_alpha_is_kept_in_every_mode_that_has_it():
    rgba = np.dstack([np.asarray(gradient()), np.full((30, 40), 255, np.uint8)])
    rgba[:10, ..., 3] = 0
    image = Image.fromarray(rgba)
    palette = gradient().quantize(16)
    clear = palette.getpixel((0, 0))
    sources = {
        "RGBA": encoded(image, "PNG"),
        "WEBP": encoded(image, "WEBP", lossless=True),
        "LA": encoded(image.convert("LA"), "PNG"),
        "P": encoded(palette, "PNG", transparency=clear),
        "RGB key": encoded(gradient(), "PNG", transparency=(0, 0, 0)),
    }
    for name, data in sources.items():
        loaded = load_image(data)
        assert loaded.has_alpha, name
        assert loaded.pixels[0, 0, 3] == 0 and loaded.pixels[29, 39, 3] == 255, name


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for data in (encoded(Image.fromarray(values), "PNG"), encoded(Image.fromarray(values), "TIFF")):
        np.testing.assert_array_equal(load_image(data).pixels[..., 0].ravel(), np.arange(256))
    keyed = load_image(encoded(Image.fromarray(values), "PNG", transparency=0))
    assert keyed.pixels[0, 0, 3] == 0 and keyed.has_alpha


def test_floating_point_tiff_says_what_was_taken_as_white():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    image = load_image(encoded(Image.fromarray(values), "TIFF"))
    assert image.pixels[-1, -1, 0] == 255 and image.pixels[0, 0, 0] == 0
    assert "taken as white" in image.warnings[0]


def test_cmyk():
    image = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = image.pixels[4, 4, :3]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = gradient()
    data = encoded(stored, "PNG", exif=exif)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = stored.transpose(undo[orientation]) if orientation > 1 else stored
    np.testing.assert_array_equal(load_image(data).pixels[..., :3], np.asarray(upright))


def test_first_frame_of_an_animation_with_a_word_about_it():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        image = load_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
        assert image.pixels[4, 4, 0] > 200 and "first" in image.warnings[0]


def test_arrays_and_pillow_images():
    assert load_image(gradient("L")).pixels.shape == (30, 40, 4)
    gray = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert load_image(gray).pixels[2, 3].tolist() == [255, 255, 255, 255]
    source = np.zeros((3, 4, 4), np.uint8) + 9
    loaded = load_image(source)
    source[:] = 0
    assert loaded.pixels.min() == 9, "a copy"
    for bad in (np.zeros((3, 4, 2)), np.zeros((0, 4, 3), np.uint8), np.full((2, 2), 7.0), np.zeros((2, 2), np.int64)):
        with pytest.raises(InputError):
            load_image(bad)


def bad_files() -> dict[str, tuple[bytes, str]]:
    png = encoded(gradient(size=(200, 200)), "PNG")
    jpeg = encoded(gradient(size=(200, 200)), "JPEG")
    return {
        "nothing": (b"", "empty"),
        "text": (b"hello, not a picture", "not a picture"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "cut png": (png[: len(png) // 2], "damaged"),
        "cut jpeg": (jpeg[: len(jpeg) // 2], "damaged"),
        "cut header": (png[:20], "not a picture"),
        "bomb": (png_header(10_000, 10_000), "megapixels"),
        "just a bomb": (png_header(8_001, 8_000), "64 megapixels"),
        "giant bomb": (png_header(2**31 - 1, 2**31 - 1), "megapixels"),
        "zero size": (png_header(0, 10), ""),
        "transparent": (encoded(Image.new("RGBA", (9, 9)), "PNG"), "transparent"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused_in_one_line(name):
    data, words = bad_files()[name]
    with pytest.raises(InputError) as refusal:
        load_image(data)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_bad_paths(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path, "nul\0byte.png", "x" * 5000):
        with pytest.raises(InputError):
            load_image(path)


def test_size_limit_in_bytes(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(InputError, match="at most 100 MB"):
        load_image(path)


def test_flipped_bytes_never_escape_as_another_error():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = bytearray(encoded(gradient(), kind))
        for _ in range(60):
            broken = data.copy()
            for position in rng.integers(0, len(data), 4):
                broken[position] ^= int(rng.integers(1, 256))
            try:
                load_image(bytes(broken))
            except InputError as error:
                assert "\n" not in str(error)


# --- the header alone ---


@pytest.mark.parametrize("kind", FORMATS)
def test_a_probe_reads_format_and_size(kind):
    assert probe_image(encoded(gradient(), kind)) == ImageInfo(kind, 40, 30)


def test_a_probe_decodes_nothing():
    """A picture of 64 megapixels whose pixels are not there is as good to it as a small one."""
    assert probe_image(png_header(8_000, 8_000)) == ImageInfo("PNG", 8_000, 8_000)
    jpeg = encoded(gradient(size=(200, 200)), "JPEG")
    assert probe_image(jpeg[: len(jpeg) - 100]).width == 200


@pytest.mark.parametrize("name", ["nothing", "text", "svg", "eps", "cut png", "cut header", "bomb", "just a bomb",
                                  "giant bomb", "zero size"])  # fmt: skip
def test_a_probe_refuses_in_the_words_of_the_decoder(name):
    data, words = bad_files()[name]
    with pytest.raises(InputError) as refusal:
        probe_image(data)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(InputError) as decoded:
        load_image(data)
    assert str(decoded.value) == str(refusal.value)


def test_the_byte_limit_holds_for_a_probe():
    with pytest.raises(InputError, match="at most 100 MB"):
        probe_image(bytes(100_000_001))


def test_a_probe_refuses_no_picture_that_the_decoder_takes():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    for kind in FORMATS:
        data = encoded(noise, kind)
        changed = [data[:length] for length in range(len(data) - 40, len(data))]
        for _ in range(60):
            broken = bytearray(data)
            broken[int(rng.integers(len(data) // 2, len(data)))] ^= int(rng.integers(1, 256))
            changed.append(bytes(broken))
        taken = 0
        for each in changed:
            try:
                load_image(each)
            except InputError:
                continue
            taken += 1
            assert probe_image(each).width > 0
        assert taken > 0, kind


def test_probes_on_many_threads_leave_the_filters_of_warnings_alone():
    before = list(warnings.filters)
    data = png_header(10_000, 10_000)  # Pillow warns of it, our limit refuses it

    def refused(_):
        with pytest.raises(InputError, match="megapixels"):
            probe_image(data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(refused, range(200)))
    assert warnings.filters == before

"""Decode a picture safely, from anything a user may hand over to 8-bit RGBA; or look at its header alone.

H, W: height and width in pixels.
"""

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.config.generation import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from core.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # decoders that may run; Pillow knows riskier ones
ImageSource = str | Path | bytes | Image.Image | np.ndarray

_ORIENTATION_TAG = 0x0112  # of EXIF
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation to what makes the picture upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
_QUIET = threading.Lock()  # filters of warnings belong to the whole process
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error, OverflowError)


@dataclass(frozen=True)
class RGBAImage:
    """A decoded picture.

    ``pixels`` is [H, W, 4] uint8, upright; ``has_alpha`` tells whether any pixel is not opaque; ``warnings`` are
    sentences for the user about what was done to the picture.
    """

    pixels: np.ndarray  # [H, W, 4] uint8
    has_alpha: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageInfo:
    """What the header of a picture's file says."""

    format: str  # one of FORMATS
    width: int  # as stored; EXIF may turn it
    height: int


def probe_image(data: bytes) -> ImageInfo:
    """Look at a picture's file without decoding it: cheap enough for a web server, on any thread.

    What it refuses, ``load_image`` would refuse too; what it lets pass may still turn out damaged when it is decoded.

    Raises:
        InputError: for no picture, or one beyond the limits of ``core.config.generation``; for a PNG cut short too.
    """
    _check_bytes(len(data), "the picture")
    with _opened(io.BytesIO(data), "the picture") as image:
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # a JPEG with further pictures behind it
        _check_size(*image.size, "the picture")
    if kind == "PNG" and _png_is_cut(data):
        raise _damaged("the picture")
    return ImageInfo(kind, *image.size)


def load_image(source: ImageSource) -> RGBAImage:
    """Decode ``source``: a path, the bytes of a file, a Pillow image or an array.

    Arrays are [H, W], [H, W, 3] or [H, W, 4], uint8, or floating point in 0..1. Files are PNG, JPEG, WebP, BMP, TIFF
    or GIF; of several frames the first is taken. EXIF orientation is applied, 16 bits become 8, alpha is kept.

    Raises:
        InputError: for anything that is not a usable picture, within the limits of ``core.config.generation``.
    """
    if isinstance(source, np.ndarray):
        return _finished(_from_array(source), ())
    if isinstance(source, Image.Image):
        return _decoded(source, "the picture")
    if isinstance(source, bytes):
        _check_bytes(len(source), "the picture")
        with _opened(io.BytesIO(source), "the picture") as image:
            return _decoded(image, "the picture")
    path = Path(source)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder. Name a picture file.")
        _check_bytes(path.stat().st_size, str(path))
        with path.open("rb") as file, _opened(file, str(path)) as image:
            return _decoded(image, str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path of the picture.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{str(path)[:200]!r} cannot be read. Check the path and its permissions.") from error


def _opened(file: io.BufferedIOBase, name: str) -> Image.Image:
    """The picture with its header read and no pixel."""
    try:
        with _no_warnings():  # our own limit, below Pillow's, is checked next
            return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        limit = _megapixels(MAX_IMAGE_PIXELS)
        raise InputError(f"{name} has far too many pixels; at most {limit} are read. Resize it.") from None
    except _DAMAGE:
        raise InputError(
            f"{name} is not a picture that can be read. Use an undamaged PNG, JPEG, WebP, BMP, TIFF or GIF file."
        ) from None


def _png_is_cut(data: bytes) -> bool:
    """Whether the file ends inside the pixels, as a broken download does. Reads the lengths of the chunks only."""
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT" and place + 8 + length - 4 > len(data):  # pixels are whole without the last checksum
            return True
        place += 12 + length
    return False


def _decoded(image: Image.Image, name: str) -> RGBAImage:
    _check_size(*image.size, name)
    notes = []
    try:
        with _no_warnings():  # of damaged metadata that we do not use
            if image.format in ("GIF", "WEBP", "PNG", "TIFF") and getattr(image, "is_animated", False):
                notes.append(f"{name} has several frames; only the first was used.")
            image.load()
            pixels = _to_rgba(image, notes)
            orientation = _orientation(image)
    except MemoryError:
        raise InputError(f"{name} is too large for the memory of this machine. Resize it.") from None
    except (*_DAMAGE, Image.DecompressionBombError):
        raise _damaged(name) from None
    upright = _UPRIGHT.get(orientation)
    return _finished(pixels if upright is None else np.ascontiguousarray(upright(pixels)), tuple(notes), name)


def _finished(pixels: np.ndarray, notes: tuple[str, ...], name: str = "the picture") -> RGBAImage:
    alpha = pixels[..., 3]
    if not alpha.any():
        raise InputError(f"{name} is fully transparent. Give a picture that shows an object.")
    return RGBAImage(pixels, has_alpha=bool((alpha < 255).any()), warnings=notes)


def _to_rgba(image: Image.Image, notes: list[str]) -> np.ndarray:
    """The pixels as [H, W, 4] uint8. Pillow's own conversion would clip what has more than 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        opaque = np.full(values.shape, 255, np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            opaque[values == clear] = 0
        gray = _eight_bits(values, notes)
        return np.stack([gray, gray, gray, opaque], axis=-1)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    elif image.mode == "La":
        image = image.convert("LA")
    return np.array(image.convert("RGBA"))


def _eight_bits(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Gray values of 16 bits, 32 bits or floating point as uint8, white staying white."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.isfinite(values).all():
        raise InputError("the picture contains values that are not numbers. Save it with 8 bits a channel.")
    if values.dtype.kind in "iu":
        white = 65535.0 if values.max() > 255 else 255.0
    else:
        white = 255.0 if values.max() > 1 else 1.0
    notes.append(f"the picture has {values.dtype.itemsize * 8} bits a pixel; {white:g} was taken as white.")
    return (np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"the array has shape {list(array.shape)}; it must be [H, W], [H, W, 3] or [H, W, 4].")
    _check_size(array.shape[1], array.shape[0], "the picture")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError("the array of floating point must lie in 0..1. Scale it, or give uint8.")
        array = (array * 255 + 0.5).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"the array is {array.dtype}; give uint8, or floating point in 0..1.")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.shape[2] == 4:
        return array.copy()
    return np.concatenate([array, np.full((*array.shape[:2], 1), 255, np.uint8)], axis=2)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


@contextmanager
def _no_warnings() -> Iterator[None]:
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged or cut short. Save or download it again.")


def _check_bytes(size: int, name: str) -> None:
    if size == 0:
        raise InputError(f"{name} is empty. Save or download the picture again.")
    if size > MAX_IMAGE_BYTES:
        raise InputError(f"{name} has {size / 1e6:.0f} MB; at most {MAX_IMAGE_BYTES / 1e6:.0f} MB. Resize it.")


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width}x{height} pixels. Give a picture with at least one pixel.")
    if width * height > MAX_IMAGE_PIXELS:
        size = f"{name} is {width}x{height} pixels"
        raise InputError(f"{size}; at most {_megapixels(MAX_IMAGE_PIXELS)} are read. Resize it.")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:g} megapixels"

# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture for the server, from whatever an artist has: a Blender image, a file, its content. Main thread only.

What lies on disk or packed as PNG, JPEG or WebP, and is unchanged in Blender, is sent byte by byte. Everything else is
read as pixels and encoded here, so that packed, generated, painted, float and huge images all work and no image of the
user's is ever saved, scaled or converted. Pictures that have to be made first are in ``captures.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from .captures import picture_from_clipboard, picture_from_render, picture_from_viewport
from .picture import MAX_FILE_BYTES, MAX_FILE_PIXELS, Picture, PictureError, clean_title
from .picture_pixels import MOST_READ, encoded_pixels
from .png import read_head

__all__ = [
    "Picture",
    "PictureError",
    "picture_from_bytes",
    "picture_from_clipboard",
    "picture_from_file",
    "picture_from_image",
    "picture_from_render",
    "picture_from_viewport",
]

_AS_THEY_ARE = ("PNG", "JPEG", "WEBP")  # kinds that Blender shows as the server reads them


def picture_from_image(image: bpy.types.Image | None) -> Picture:
    """The picture that a Blender image shows.

    Raises:
        PictureError: for a movie, an image of tiles or layers, and where the file is missing.
    """
    if image is None:
        raise PictureError("No picture is chosen", "Choose or open a picture first.")
    _check_kind(image)
    content = _unchanged_content(image)
    if content is not None:
        return Picture(png=content, title=clean_title(image.name))
    return Picture(png=_encoded(image), title=clean_title(image.name))


def picture_from_file(path: str | os.PathLike) -> Picture:
    """The picture in a file, of any kind that Blender opens; ``//`` begins a path beside the .blend file.

    Raises:
        PictureError: where there is none, or it cannot be read.
    """
    path = Path(bpy.path.abspath(os.fspath(path)))
    if not path.name or path.is_dir():
        raise PictureError(f"{path} is a folder", "Choose a picture file.")
    try:
        with path.open("rb") as file:
            head = read_head(file.read(1 << 16))
        if head is None or path.stat().st_size > MAX_FILE_BYTES:  # EXR, HDR and others that only Blender knows
            return _loaded(path, path.name)
        content = path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"{path} is not there", "Choose the picture again.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{path} cannot be read: {reason}", "Choose another file.") from None
    if head.width * head.height > MAX_FILE_PIXELS:
        return _loaded(path, path.name)
    return Picture(png=content, title=clean_title(path.name))


def picture_from_bytes(content: bytes, title: str = "picture") -> Picture:
    """The picture in a file's content: PNG, JPEG, WebP, BMP, TIFF or GIF.

    Raises:
        PictureError: for any other content.
    """
    if read_head(content) is None:
        raise PictureError("These bytes are no picture", "Give the content of a PNG, JPEG or WebP file.")
    if len(content) > MAX_FILE_BYTES:
        raise PictureError(
            f"The picture has {len(content) >> 20} MB; at most {MAX_FILE_BYTES >> 20} MB are sent", "Make it smaller."
        )
    return Picture(png=content, title=clean_title(title))


def _check_kind(image: bpy.types.Image) -> None:
    name = image.name
    if image.source == "MOVIE":
        raise PictureError(f"{name} is a movie", "Save one of its frames as a picture and choose that.")
    if image.source == "SEQUENCE":
        raise PictureError(f"{name} is a sequence of pictures", "Open one of its files as a single image.")
    if image.source == "TILED":
        raise PictureError(f"{name} is made of UDIM tiles", "Choose an image of one piece.")
    if image.type == "RENDER_RESULT":
        raise PictureError(f"{name} is no image of its own", "Press the button Render instead.")
    if image.type == "MULTILAYER":
        raise PictureError(f"{name} has several layers", "Save the layer that you want as a picture and choose that.")


def _unchanged_content(image: bpy.types.Image) -> bytes | None:
    """The file behind the image, where that is what the image shows and the server can read it."""
    if image.source != "FILE" or image.is_dirty or image.alpha_mode in ("NONE", "CHANNEL_PACKED"):
        return None
    try:
        if image.packed_file is not None:
            content = image.packed_file.data
        else:
            path = Path(bpy.path.abspath(image.filepath_raw, library=image.library))
            if path.stat().st_size > MAX_FILE_BYTES:
                return None
            content = path.read_bytes()
    except (OSError, ValueError):  # missing: the image may still be in memory
        return None
    head = read_head(content)
    if head is None or head.kind not in _AS_THEY_ARE or len(content) > MAX_FILE_BYTES:
        return None
    if not 0 < head.width * head.height <= MAX_FILE_PIXELS:
        return None
    return content


def _encoded(image: bpy.types.Image) -> bytes:
    width, height = image.size  # loads it, if it is not yet
    if width < 1 or height < 1:
        path = bpy.path.abspath(image.filepath_raw, library=image.library)
        if path and not os.path.exists(path) and image.packed_file is None:
            raise PictureError(f"The file of {image.name} is missing: {path}", "Find it with File > External Data.")
        raise PictureError(f"{image.name} has no pixels that can be read", "Choose another picture.")
    if width * height <= MOST_READ:
        return encoded_pixels(image)
    if image.is_dirty or image.source != "FILE":  # a copy would be without what was painted
        raise PictureError(f"{image.name} has {width} x {height} pixels", "Make it smaller with Image > Resize.")
    smaller = image.copy()
    try:
        factor = (width * height / MOST_READ) ** 0.5 * 2
        smaller.scale(max(1, int(width / factor)), max(1, int(height / factor)))
        return encoded_pixels(smaller)
    finally:
        bpy.data.images.remove(smaller)


def _loaded(path: Path, title: str) -> Picture:
    """By Blender, as an image that is gone afterwards."""
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError:
        raise PictureError(f"{path} cannot be read", "Choose another file.") from None
    try:
        _check_kind(image)
        if not image.size[0]:
            raise PictureError(f"{path} is no picture that Blender can read", "Choose a PNG, JPEG or WebP file.")
        return Picture(png=_encoded(image), title=clean_title(title))
    finally:
        bpy.data.images.remove(image)

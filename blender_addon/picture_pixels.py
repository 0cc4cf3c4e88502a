# SPDX-License-Identifier: GPL-3.0-or-later
"""The pixels of a Blender image as 8-bit sRGB with straight alpha, which is what a PNG file holds.

Blender keeps images bottom row first, as bytes (as displayed, straight alpha) or as floats (scene linear, colour
premultiplied with alpha). Only reads: the image stays as it is.

H, W: height and width in pixels. C: channels.
"""

from __future__ import annotations

import math

import bpy
import numpy as np

from .picture import PictureError
from .png import encode_png

MAX_PIXELS = 2048 * 2048  # of what we encode: the models look at far fewer, and more would hold Blender up
MOST_READ = 128 << 20  # pixels that are read at once; Blender hands them out as floats, 2 GiB of them
_BLOCK_PIXELS = 1 << 20  # converted at a time, to keep memory low


def encoded_pixels(image: bpy.types.Image) -> bytes:
    """The image as a PNG file.

    Raises:
        PictureError: where nothing is to be seen, or memory does not suffice.
    """
    try:
        pixels = rgba8(image)
    except MemoryError:
        raise PictureError(f"There is not enough memory to read {image.name}", "Choose a smaller picture.") from None
    if not pixels[..., 3].any():
        raise PictureError(f"{image.name} is fully transparent", "Choose a picture that shows an object.")
    return encode_png(pixels)


def rgba8(image: bpy.types.Image) -> np.ndarray:  # [H, W, 4] uint8, top row first
    """What the image shows, made smaller by a whole factor where it has more than ``MAX_PIXELS``.

    A float image is shown with the plain sRGB curve, whites clipped, as Blender's "Standard" view does.
    """
    width, height = image.size
    channels = image.channels
    flat = np.empty(width * height * channels, np.float32)
    image.pixels.foreach_get(flat)
    pixels = flat.reshape(height, width, channels)
    linear = image.is_float and not image.colorspace_settings.is_data
    premultiplied = image.is_float and image.alpha_mode in ("STRAIGHT", "PREMUL")
    opaque = image.alpha_mode in ("NONE", "CHANNEL_PACKED")  # alpha is unused, or is no transparency
    return converted(pixels, linear=linear, premultiplied=premultiplied, opaque=opaque)


def converted(
    pixels: np.ndarray,  # [H, W, C] float32, bottom row first
    *,
    linear: bool,
    premultiplied: bool,
    opaque: bool,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:  # [H', W', 4] uint8, top row first
    """Floats as Blender holds them to what a PNG holds, averaged over areas down to at most ``max_pixels``."""
    height, width, _ = pixels.shape
    factor = max(1, math.ceil(math.sqrt(width * height / max_pixels)))
    across, down = min(factor, width), min(factor, height)
    new_width, new_height = width // across, height // down  # what is left over at two edges is cut off
    result = np.empty((new_height, new_width, 4), np.uint8)
    rows = max(1, _BLOCK_PIXELS // (width * down))
    for start in range(0, new_height, rows):
        stop = min(new_height, start + rows)
        block = _as_rgba(pixels[start * down : stop * down, : new_width * across], opaque=opaque)
        solid = bool((block[..., 3] == 1).all())
        if not (premultiplied or solid):
            block[..., :3] *= block[..., 3:]
        block = _averaged(block, down, across)
        if not solid:
            alpha = block[..., 3:]
            np.divide(block[..., :3], alpha, out=block[..., :3], where=alpha > 0)
        np.clip(block, 0, 1, out=block)
        if linear:
            block[..., :3] = _srgb(block[..., :3])
        result[new_height - stop : new_height - start] = np.rint(block * 255)[::-1]
    return result


def _as_rgba(pixels: np.ndarray, *, opaque: bool) -> np.ndarray:  # [H, W, C] -> [H, W, 4], a copy
    height, width, channels = pixels.shape
    rgba = np.empty((height, width, 4), np.float32)
    rgba[..., :3] = pixels[..., :3] if channels >= 3 else pixels[..., :1]
    rgba[..., 3] = pixels[..., -1] if channels in (2, 4) and not opaque else 1
    if not np.isfinite(rgba.sum()):
        np.nan_to_num(rgba, copy=False, nan=0.0, posinf=1e6, neginf=0.0)
    np.clip(rgba[..., 3], 0, 1, out=rgba[..., 3])
    return rgba


def _averaged(block: np.ndarray, down: int, across: int) -> np.ndarray:  # [H, W, 4] -> [H / down, W / across, 4]
    """Means of areas; several times as fast as ``mean`` of a reshaped array."""
    for axis, count in ((0, down), (1, across)):
        if count > 1:
            total = block[(slice(None),) * axis + (slice(0, None, count),)].copy()
            for first in range(1, count):
                total += block[(slice(None),) * axis + (slice(first, None, count),)]
            block = total / np.float32(count)
    return block


def _srgb(linear: np.ndarray) -> np.ndarray:
    """The curve of IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)

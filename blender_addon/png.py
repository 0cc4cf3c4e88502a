# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as PNG files, and what the head of a picture's file says. No Blender in here.

H, W: height and width in pixels. Row 0 is the top one.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_LEVEL = 3  # of zlib: higher ones take several times as long for a tenth of the size


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        pixels: [H, W, 4] uint8, sRGB with straight alpha. Without a transparent pixel, no alpha is written.
    """
    height, width, _ = pixels.shape
    if (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    colour_type = 2 if pixels.shape[2] == 3 else 6
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2  # "up": each row as its difference from the one above, which packs well
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as PNG has it
    return b"".join(
        (
            PNG_MAGIC,
            _chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, colour_type, 0, 0, 0)),
            _chunk(b"sRGB", b"\0"),
            _chunk(b"IDAT", zlib.compress(filtered, _LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@dataclass(frozen=True, kw_only=True)
class PictureHead:
    """What the first bytes of a picture's file say. Sizes are 0 where they do not stand near the start."""

    kind: str  # PNG, JPEG, WEBP, BMP, TIFF, GIF
    width: int = 0
    height: int = 0


def read_head(content: bytes) -> PictureHead | None:
    """The head of a picture that the server can read; None for any other file."""
    if content.startswith(PNG_MAGIC) and content[12:16] == b"IHDR" and len(content) >= 24:
        width, height = struct.unpack_from(">2I", content, 16)
        return PictureHead(kind="PNG", width=width, height=height)
    if content.startswith(b"\xff\xd8\xff"):
        width, height = _jpeg_size(content)
        return PictureHead(kind="JPEG", width=width, height=height)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        width, height = _webp_size(content)
        return PictureHead(kind="WEBP", width=width, height=height)
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return PictureHead(kind="GIF")
    if content[:4] in (b"II*\0", b"MM\0*"):
        return PictureHead(kind="TIFF")
    if content[:2] == b"BM":
        return PictureHead(kind="BMP")
    return None


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """From the first frame header; every other segment is stepped over."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">2H", content, place + 5)
            return width, height
        else:
            place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return 0, 0


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X" and len(content) >= 30:
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8 " and len(content) >= 30:
        width, height = struct.unpack_from("<2H", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(content) >= 25:
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0

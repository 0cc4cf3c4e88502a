# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture that is ready to be sent, and why one cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .client_errors import S2MeshError

MAX_FILE_BYTES = 30 << 20  # the server's limit for a whole request is 32 MiB
MAX_FILE_PIXELS = 64_000_000  # the server's limit for a picture
_MAX_TITLE = 200


class PictureError(S2MeshError):
    """A picture that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is sent."""

    png: bytes  # a PNG file; another kind that the server reads where the picture came as one
    title: str


def clean_title(name: str) -> str:
    """Of the job and of the object that comes of it: the name without Blender's number and a file's ending."""
    stem = re.sub(r"\.\d{3,}$", "", name)
    stem = re.sub(r"\.(png|jpe?g|webp|bmp|tiff?|gif|exr|hdr|tga|dds|psd|jp2|cin|dpx|sgi|rgb)$", "", stem, flags=re.I)
    stem = "".join(letter for letter in stem if letter.isprintable()).strip()
    return stem[:_MAX_TITLE] or "picture"

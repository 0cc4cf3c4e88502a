# SPDX-License-Identifier: GPL-3.0-or-later
"""A job as a script: the same picture, options, seed, size and place."""

from .app_state import AppState
from .session import JobRecord

_LEFT_OUT = ("formats", "turntable")  # scripts get the mesh in the scene, not its files


def script(app: AppState, record: JobRecord) -> str:
    """Python text that makes the result of ``record`` again when it is run in Blender."""
    sent = app.sent.get(record.ticket)
    options = dict(record.job.options) if record.job is not None else dict(sent.options if sent else {})
    known = sent is not None and sent.source != "image"
    lines = ["import bpy", "", f"from {__package__} import api", ""]
    if known:
        lines.append(f"picture = {sent.source}")
    else:
        lines.append(f"picture = {record.title or 'picture.png'!r}  # put the path of the picture here")
    lines += ["made = api.generate(", "    picture,"]
    for name, value in options.items():
        if value is not None and name not in _LEFT_OUT:
            lines.append(f"    {name}={value!r},")
    place = record.placement
    lines += [
        f"    size={place.size:.6g},",
        f"    location=({', '.join(f'{value:.6g}' for value in place.location)}),",
        f"    origin={place.origin!r},",
        ")",
        "print(made.name)",
    ]
    return "\n".join(lines) + "\n"

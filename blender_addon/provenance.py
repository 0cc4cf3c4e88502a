# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mesh was made from, kept on its object as the custom property `s2mesh`.

Values are text, the options JSON: Blender's whole numbers have 32 bits and seeds 63, and it has no null.
"""

from __future__ import annotations

import json
from typing import Any

import bpy

from .glb import MeshData
from .session import JobRecord

PROPERTY = "s2mesh"
_MOST_TEXT = 20_000


def write_provenance(owner: bpy.types.ID, record: JobRecord, data: MeshData) -> None:
    """Writes job id, title, seed and options; and what the file tells of settings, versions, weights and picture."""
    told = data.extras
    options = dict(record.job.options) if record.job is not None else {}
    seed = told.get("seed", options.get("seed"))
    values = {
        "job_id": record.id or str(told.get("job_id", "")),
        "title": record.title,
        "seed": "" if seed is None else str(seed),
        "options": _as_text(options),
    }
    settings = told.get("settings")
    settings = dict(settings) if isinstance(settings, dict) else {}
    parts = {
        "version": settings.pop("versions", None),
        "settings": settings,
        "weights": told.get("weights", settings.get("weights")),
        "image_sha256": told.get("image_sha256"),
    }
    owner[PROPERTY] = values | {name: _as_text(value) for name, value in parts.items() if value}


def _as_text(value: Any) -> str:
    """Text as it is, anything else as JSON; cut where a file tells stories."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= _MOST_TEXT else ""


def provenance_of(owner: bpy.types.ID) -> dict[str, Any] | None:
    """What ``write_provenance`` wrote: the seed a number or None, the options a dict; None where nothing is."""
    stored = owner.get(PROPERTY)
    if not hasattr(stored, "to_dict"):
        return None
    values = stored.to_dict()
    try:
        values["options"] = json.loads(values.get("options") or "{}")
        values["seed"] = int(values["seed"]) if values.get("seed") else None
    except (TypeError, ValueError):  # edited by hand
        return None
    return values if isinstance(values["options"], dict) else None

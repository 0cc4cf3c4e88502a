# SPDX-License-Identifier: GPL-3.0-or-later
"""From the panel's settings to the options of a job, held against what the server says it can do.

Options that are not in use are left out, so that the preset's own values and the server's hold.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .translations import t
from .words import option_words

if TYPE_CHECKING:
    from .wire import Capabilities, Option, Preset

SIMPLE = ("remove_interior", "remove_floaters", "background", "interior")
SWITCHED = ("dense_steps", "sparse_steps", "dense_guidance", "sparse_guidance", "iso_level", "faces", "max_tokens")
NAMES = ("preset", "resolution", "seed", *SWITCHED, *SIMPLE)  # those of the panel and the operator
# Approximations that save time, which cost what depends on the model, and where networks are kept. Scripts may give
# them, the panel has them not.
EXPERT = ("solver", "guided_from", "guided_until", "unconditional_every", "selection_every", "memory")


def options_from(settings: Any) -> dict[str, Any]:
    """Options of the scene's settings (S2MeshSettings)."""
    options: dict[str, Any] = {}
    if settings.preset:
        options["preset"] = settings.preset
    if settings.resolution:
        options["resolution"] = settings.resolution
    if not settings.use_random_seed:
        options["seed"] = settings.seed
    for name in SWITCHED:
        if getattr(settings, f"use_{name}"):
            options[name] = _short(getattr(settings, name))
    for name in SIMPLE:
        options[name] = getattr(settings, name)
    return options


def chosen_preset(options: Mapping[str, Any], capabilities: "Capabilities | None") -> "Preset | None":
    """The preset that these options mean on this server; None if it is not known."""
    if capabilities is None:
        return None
    return capabilities.preset(options.get("preset") or capabilities.default_preset)


def warnings(options: Mapping[str, Any], capabilities: "Capabilities | None") -> list[str]:
    """What the server would refuse, in sentences; empty when all is well or the server has not been asked yet."""
    if capabilities is None:
        return []
    found = []
    for name, value in options.items():
        option = capabilities.option(name)
        if option is None:
            found.append(t("This server has no option {name}.").format(name=option_words(name)))
        elif name not in ("preset", "resolution") and (fault := _beyond(option, value)):
            found.append(fault)
    preset = chosen_preset(options, capabilities)
    if preset is None:
        found.append(t("This server has no model {name}.").format(name=options.get("preset", "")))
        return found
    if not preset.installed:
        found.append(t("The weights of {name} are not installed on this server.").format(name=preset.name))
    resolution = options.get("resolution")
    sizes = resolutions(preset)
    if resolution and resolution not in sizes:
        text = t("{name} has no resolution {resolution}; it has {known}.")
        found.append(text.format(name=preset.name, resolution=resolution, known=", ".join(map(str, sizes))))
    return found


def resolutions(preset: "Preset") -> list[int]:
    """Voxels a side of each detail stage, in order."""
    return [stage.resolution for stage in preset.resolutions]


def limits_text(name: str, capabilities: "Capabilities | None") -> str:
    """The server's limits of a number in words; empty if it has none."""
    option = capabilities.option(name) if capabilities else None
    if option is None or option.minimum is None:
        return ""
    return t("{low} to {high} on this server").format(low=_plain(option.minimum), high=_plain(option.maximum))


def _beyond(option: "Option", value: Any) -> str:
    label = option_words(option.name)
    if option.choices and value not in option.choices:
        text = t("{name} is {value}; this server knows {known}.")
        return text.format(name=label, value=value, known=", ".join(option.choices))
    if isinstance(value, bool) or not isinstance(value, int | float) or option.minimum is None:
        return ""
    if not option.minimum <= value <= option.maximum:
        text = t("{name} is {value}; this server takes {low} to {high}.")
        return text.format(name=label, value=value, low=_plain(option.minimum), high=_plain(option.maximum))
    return ""


def _plain(number: float) -> str:
    return f"{number:g}" if abs(number) < 1e6 else f"{number:,.0f}"


def _short(value: Any) -> Any:
    """Blender keeps 32-bit floats: 7.3 comes as 7.300000190734863 and shall be sent as 7.3."""
    return float(f"{value:.6g}") if isinstance(value, float) else value

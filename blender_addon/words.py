# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages, states, times and sizes in plain words, for panel, reports and the status bar."""

from .translations import N_, t

_STAGES = {
    "load": N_("Loading the model"),
    "image": N_("Looking at the picture"),
    "structure": N_("Finding the rough shape"),
    "detail": N_("Adding detail"),
    "decode": N_("Turning detail into volume"),
    "refine": N_("Refining"),
    "surface": N_("Drawing the surface"),
    "cleanup": N_("Tidying up"),
    "export": N_("Writing the files"),
}
_STATES = {
    "queued": N_("Waiting"),
    "running": N_("Working"),
    "succeeded": N_("Done"),
    "failed": N_("Failed"),
    "cancelled": N_("Cancelled"),
    "interrupted": N_("Interrupted; goes on when the server is back"),
}
_OPTIONS = {
    "preset": N_("Model"),
    "seed": N_("Seed"),
    "resolution": N_("Resolution"),
    "dense_steps": N_("Coarse Steps"),
    "sparse_steps": N_("Detail Steps"),
    "dense_guidance": N_("Coarse Guidance"),
    "sparse_guidance": N_("Detail Guidance"),
    "iso_level": N_("Thickness"),
    "faces": N_("Faces"),
    "max_tokens": N_("Largest Shape"),
    "background": N_("Background"),
    "interior": N_("Inside"),
    "remove_floaters": N_("Remove Loose Pieces"),
    "remove_interior": N_("Remove Interior"),
}


def stage_words(stage: str) -> str:
    """ "detail 512" becomes "Adding detail (512)"; a stage that is not known here is told as it is."""
    name, _, rest = stage.partition(" ")
    words = t(_STAGES[name]) if name in _STAGES else name.replace("_", " ").capitalize()
    return f"{words} ({rest})" if rest else words


def state_words(state: str) -> str:
    return t(_STATES[state]) if state in _STATES else state.capitalize()


def option_words(name: str) -> str:
    return t(_OPTIONS[name]) if name in _OPTIONS else name.replace("_", " ").capitalize()


def queue_words(position: int | None) -> str:
    """Of a job that waits; 1 is the next."""
    if not position:
        return t("Waiting")
    if position == 1:
        return t("Waiting: next in line")
    return t("Waiting: number {position} in line").format(position=position)


def time_left(seconds: float) -> str:
    """An estimate, so it is told in steps that do not flicker."""
    if seconds < 3:
        return t("a moment left")
    if seconds < 60:
        return t("about {number} s left").format(number=-int(-seconds // 5) * 5)
    if seconds < 5400:
        return t("about {number} min left").format(number=round(seconds / 60))
    return t("about {number} h left").format(number=f"{seconds / 3600:.1f}")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def byte_size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def capital(text: str) -> str:
    """The server begins its messages in lower case, since its command line puts a name before them."""
    return text[:1].upper() + text[1:]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken at spaces; a longer word (a path) is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            while len(word) > width:
                if line:
                    lines.append(line)
                    line = ""
                lines.append(word[:width])
                word = word[width:]
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines

# SPDX-License-Identifier: GPL-3.0-or-later
"""Our texts in the artist's language. English is the source; German is in `translations_de.py` and `_long.py`.

Labels and tooltips are translated by Blender itself once the table is registered; texts that are put together here
go through ``t``. ``N_`` only marks a text that is translated later.
"""

import bpy

from .translations_de import LABELS
from .translations_de_long import SENTENCES

_CONTEXTS = ("*", "Operator")  # Blender looks for an operator's label in the second
_LOCALES = ("de", "de_DE")  # the name changed between versions of Blender


def t(text: str) -> str:
    """The text in the language of Blender's interface."""
    return bpy.app.translations.pgettext_iface(text)


def N_(text: str) -> str:  # noqa: N802 (the customary name)
    """Marks a text for translation."""
    return text


def table() -> dict[str, dict[tuple[str, str], str]]:
    """As Blender takes it: locale, then (context, English) to the translation."""
    german = {(context, english): words for english, words in {**LABELS, **SENTENCES}.items() for context in _CONTEXTS}
    return {locale: german for locale in _LOCALES}


def register() -> None:
    bpy.app.translations.register(__package__, table())


def unregister() -> None:
    bpy.app.translations.unregister(__package__)

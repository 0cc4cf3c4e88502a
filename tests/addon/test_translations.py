"""Every text that the extension shows is in the German table, and nothing else is. Read from the sources, not run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ADDON = Path(__file__).resolve().parents[2] / "blender_addon"
SHOWN_BY_KEYWORD = ("name", "description", "text", "heading", "placeholder", "title", "confirm_text", "message")
TABLES = (ADDON / "translations_de.py", ADDON / "translations_de_long.py")
_TOLD = ("view", "words", "option_checks")  # show something without speaking to Blender
# Code names and drawings of values, which no language changes.
NO_WORDS = re.compile(r"[^A-Za-z]*|\{[a-z_]+\}|s2mesh[-a-z]*|S2 Mesh")


def sources() -> list[Path]:
    """The parts that show something; those without Blender tell their errors in English."""
    files = [*ADDON.glob("*.py"), *ADDON.glob("operators/*.py")]
    return sorted(path for path in files if path not in TABLES and ("bpy" in path.read_text() or path.stem in _TOLD))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts that a file shows, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield from of_call(node)
        elif isinstance(node, ast.ClassDef):
            yield from of_class(node)
        elif isinstance(node, ast.Assign) and any(is_items(target) for target in node.targets):
            for item in getattr(node.value, "elts", ()):
                yield from ((part.lineno, part.value) for part in item.elts[1:3] if isinstance(part, ast.Constant))


def is_items(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id in ("ORIGINS", "PLACES", "BACKGROUNDS", "INTERIORS", "AUTO_START")


def of_call(call: ast.Call) -> Iterator[tuple[int, str]]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name in ("t", "N_", "poll_message_set"):
        yield from strings(call.args[0])
        return
    shows = name.endswith("Property") or name in ("dict", "label", "operator", "prop", "column", "invoke_props_dialog")
    if shows and not any(keyword.arg == "translate" for keyword in call.keywords):
        for keyword in call.keywords:
            if keyword.arg in SHOWN_BY_KEYWORD:
                yield from strings(keyword.value)


def of_class(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """Labels, and the docstring where Blender shows it as the tooltip."""
    for part in node.body:
        if isinstance(part, ast.Assign) and getattr(part.targets[0], "id", "") in ("bl_label", "image_name"):
            yield from strings(part.value)
    if "_OT_" in node.name and (tooltip := ast.get_docstring(node)):
        yield node.lineno, tooltip


def strings(node: ast.expr) -> Iterator[tuple[int, str]]:
    """The literals that an expression may be: itself, or either side of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)


def shown() -> dict[str, str]:
    """Text to where it stands."""
    found = {}
    for path in sources():
        for line, text in texts(path):
            if not NO_WORDS.fullmatch(text):
                found.setdefault(text, f"{path.relative_to(ADDON)}:{line}")
    return found


def german() -> dict[str, str]:
    """Both tables as one."""
    pairs = []
    for path in TABLES:
        (value,) = [node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.AnnAssign)]
        pairs += zip(map(ast.literal_eval, value.keys), map(ast.literal_eval, value.values), strict=True)
    assert len(dict(pairs)) == len(pairs), "a text stands twice in the tables"
    return dict(pairs)


def test_every_text_has_a_translation():
    known = german()
    missing = [f"{where}: {text!r}" for text, where in shown().items() if text not in known]
    assert not missing, "in no table of German:\n" + "\n".join(missing)


def test_nothing_is_translated_that_is_not_shown():
    stale = sorted(set(german()) - set(shown()))
    assert not stale, f"no longer in use: {stale}"


def test_a_translation_fills_the_same_places():
    fields = re.compile(r"\{[a-z_]+\}")
    for english, words in german().items():
        assert sorted(fields.findall(english)) == sorted(fields.findall(words)), english
        assert words and words == words.strip() and words.endswith(".") == english.endswith("."), english


def test_the_collector_sees_labels_tooltips_choices_and_sentences():
    found = shown()
    for text in ("Generate", "3D Cursor", "Size", "Looking at the picture", "Offline", "There is no scene", "Start"):
        assert text in found, text

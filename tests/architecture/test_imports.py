"""Which part may import which, what stays free of torch, and what of Blender."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.api import read_configuration

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_BLENDER = {  # modules of blender_addon
    "client",
    "client_connection",
    "client_errors",
    "discovery",
    "disk",
    "glb",
    "glb_file",
    "glb_scene",
    "install_archive",
    "install_python",
    "install_server",
    "placement",
    "poller",
    "poller_events",
    "poller_files",
    "poller_link",
    "poller_work",
    "server_process",
    "session",
    "wire",
    "wire_values",
}


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_import_contracts_are_kept():
    lint = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_the_contracts_see_every_module():
    """A folder that the linter overlooks would keep any contract."""
    parts = ("core", "server", "blender_addon")
    seen = grimp.build_graph(*parts, cache_dir=None).modules
    files = [path.relative_to(ROOT) for part in parts for path in (ROOT / part).rglob("*.py")]
    files = [
        file for file in files if (ROOT / file.parent / "__init__.py").exists()
    ]  # else Blender's presets
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert modules <= seen


def test_the_layers_name_every_part_of_core():
    contracts = {contract["name"]: contract for contract in read_configuration()["contracts_options"]}
    named = " ".join(contracts["core, top to bottom"]["layers"]).replace("|", " ")
    parts = {path.name for path in (ROOT / "core").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert parts <= set(named.split())


@pytest.mark.parametrize(
    "module",
    [
        "server.cli",
        "server.client",
        "server.commands.generate",
        "server.commands.jobs",
        "core.config.presets",
        "core.config.stages",
        "core.cli.generate",
    ],
)
def test_loads_no_torch(module):
    heavy = run_python(f"import sys, {module}; print(*{{'torch', 'numpy', 'transformers'}} & set(sys.modules))")
    assert heavy == ""


@pytest.mark.parametrize("module", ["server.app", "server.commands.serve"])
def test_the_web_process_loads_no_torch(module):
    """numpy comes with what looks at a picture's header."""
    heavy = run_python(f"import sys, {module}; print(*{{'torch', 'transformers', 'trimesh'}} & set(sys.modules))")
    assert heavy == ""


def test_the_light_contract_names_every_part_of_the_server():
    """But the worker, whose protocol alone is shared."""
    contracts = {contract["name"]: contract for contract in read_configuration()["contracts_options"]}
    light = next(contract for name, contract in contracts.items() if name.startswith("the web process"))
    parts = {path.stem for path in (ROOT / "server").glob("*.py")} - {"__init__"}
    parts |= {path.parent.name for path in (ROOT / "server").glob("*/__init__.py")} - {"worker"}
    assert {f"server.{part}" for part in parts} | {"server.worker.protocol"} == set(light["source_modules"])


def test_the_contract_names_all_that_works_without_blender():
    """The list here is what it must be; import-linter holds it."""
    contracts = {contract["name"]: contract for contract in read_configuration()["contracts_options"]}
    held = next(contract for name, contract in contracts.items() if name.endswith("works without Blender"))
    assert set(held["source_modules"]) == {f"blender_addon.{module}" for module in WITHOUT_BLENDER}


def test_the_extension_without_blender_loads_neither_blender_nor_requests():
    """`requests` is missing in some builds of Blender; without it the panel must still open and say so."""
    imports = ", ".join(f"blender_addon.{module}" for module in sorted(WITHOUT_BLENDER))
    heavy = run_python(f"import sys, {imports}; print(*{{'bpy', 'requests', 'torch', 'core'}} & set(sys.modules))")
    assert heavy == ""


def test_every_module_imports_silently():
    """No work, output or warning at import."""
    code = """
import contextlib, importlib, io, pathlib, sys, warnings
warnings.simplefilter("error")
import torch, transformers, trimesh, skimage  # what they say or warn at import is not ours
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    for path in sorted(p for part in ("core", "server") for p in pathlib.Path(part).rglob("*.py")):
        if path.stem != "__main__":
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
print(out.getvalue(), end="")
"""
    assert run_python(code) == ""

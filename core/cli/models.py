"""``s2mesh models``: list, download, convert, verify and remove the weights of presets."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.checkpoints.download import Plan, plan_from_folder, plan_from_hub
from core.checkpoints.install import install, remove, verify
from core.checkpoints.installed import default_models_dir
from core.checkpoints.standing import Standing, removable, standing, standings, with_companions
from core.cli.errors import describe, run_reporting
from core.cli.models_progress import shown
from core.config.releases import MATTING, RELEASES, Release, get_release
from core.errors import CheckpointError, ConfigError, CoreError

_PATIENCE_S = 10.0  # to clear up


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh models",
        description="The weights of presets: what is on this machine, and how it gets there.",
        epilog="HF_TOKEN and HF_ENDPOINT are honoured. Weights are checked by their digests and converted once to "
        "safetensors; no code that comes with them is ever run.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str) -> Any:
        added = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.add_argument("--models-dir", type=Path, metavar="DIR", help="models folder (default: the user's own)")
        return added.add_argument

    add = verb("list", "say which models there are and which are installed")
    add("--json", action="store_true", help="print one JSON object")

    add = verb("download", "fetch the weights of presets, check them and convert them; an interrupted one goes on")
    add("names", nargs="+", metavar="NAME", help=", ".join(RELEASES))
    add("--yes", action="store_true", help="accept the licences, do not ask")
    add("--from", dest="folder", type=Path, metavar="FOLDER", help="take files fetched by hand, without a network")
    add("--keep-originals", action="store_true", help="do not remove the publisher's files after the conversion")
    add(
        "--no-matting", action="store_true", help=f"do not fetch {MATTING} along, which cuts objects out of photographs"
    )
    add("--accept-changes", action="store_true", help="take what the publisher has changed since the first download")
    add("--replace", action="store_true", help="also where it is installed already")
    add("--json", action="store_true", help="print one JSON object a line, with the progress")
    add("--attended", action="store_true", help=argparse.SUPPRESS)  # end when the standard input does: a server's child

    add = verb("convert", "convert a released Direct3D-S2 folder (config.yaml and five .ckpt files) fetched by hand")
    add("folder", type=Path, metavar="FOLDER", help="the folder; it is not changed")
    add("--dinov2", type=Path, metavar="FILE", help="image encoder's weights (default: looked for in FOLDER)")
    add("--dtype", choices=("keep", "float16", "float32"), default="keep", help="of the stored weights (default: keep)")
    add("--replace", action="store_true", help="replace the preset if it is installed already")

    add = verb("verify", "read installed weights to the last byte and compare their digests")
    add("names", nargs="*", metavar="NAME", help="default: all that are installed")

    add = verb("remove", "remove downloaded weights from the disk")
    add("names", nargs="+", metavar="NAME", help="as listed by `s2mesh models list`")
    add("--yes", action="store_true", help="do not ask")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns 0 if all is well; 1 if `verify` found something."""
    arguments = build_parser().parse_args(argv)
    models_dir = (arguments.models_dir or default_models_dir()).absolute()
    return {"list": _list, "download": _download, "convert": _convert, "verify": _verify, "remove": _remove}[
        arguments.verb
    ](arguments, models_dir)


# --- list ---


def _list(arguments: argparse.Namespace, models_dir: Path) -> int:
    found = standings(models_dir)
    if arguments.json:
        print(json.dumps({"models_dir": str(models_dir), "models": [_as_json(there) for there in found]}, indent=2))
        return 0
    for there in found:
        print(f"{there.name:<18} {_state(there):<34} {there.title}")
        for source in RELEASES[there.name].sources if there.name in RELEASES else ():
            print(f"{'':<18} {source.title}: about {source.about_bytes / 1e9:.2f} GB, {source.license}, {source.page}")
    return 0


def _state(there: Standing) -> str:
    if there.bundled:
        return f"part of S2 Mesh, {there.bytes / 1e6:.0f} MB"
    kept = f"{there.kept_bytes / 1e9:.2f} GB of originals" if there.kept_bytes else ""
    if there.installed:
        return ", ".join(filter(None, (f"installed, {there.bytes / 1e9:.2f} GB", kept)))
    return f"not installed, {kept} here" if kept else "not installed"


def _as_json(there: Standing) -> dict[str, Any]:
    release = RELEASES.get(there.name)
    sources = [asdict(source) | {"page": source.page} for source in release.sources] if release else []
    return asdict(there) | {"folder": str(there.folder), "sources": sources}


# --- download ---


def _download(arguments: argparse.Namespace, models_dir: Path) -> int:
    if arguments.attended:
        signal.signal(signal.SIGTERM, _leave)
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        alone = arguments.no_matting or arguments.folder
        for name in arguments.names if alone else with_companions(arguments.names, models_dir):
            try:
                _download_one(get_release(name), arguments, models_dir)
            except CoreError as error:
                if name in arguments.names:
                    raise
                print(f"s2mesh: note: {name}, which comes along, did not come: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("what has come is kept; the same command goes on with it", file=sys.stderr)
        raise
    except Exception as error:
        if arguments.json:
            message, status = describe(error)
            failed = {"type": "error", "kind": type(error).__name__, "message": " ".join(message.split())}
            print(json.dumps(failed | {"status": status}), flush=True)
        raise
    return 0


def _download_one(release: Release, arguments: argparse.Namespace, models_dir: Path) -> None:
    if standing(release.name, models_dir).installed and not arguments.replace:
        _tell_done(release, models_dir / release.name, arguments.json, "is installed already in")
        return
    if not arguments.json:
        _tell_licences(release)
    if not arguments.yes and not sys.stdin.isatty():
        licences = " and ".join(dict.fromkeys(source.license for source in release.sources))
        raise ConfigError(f"nobody can be asked here whether the licences ({licences}) are accepted. Add --yes if so.")
    if arguments.folder:
        plan = plan_from_folder(release, arguments.folder)
    else:
        plan = plan_from_hub(release, models_dir, accept_changes=arguments.accept_changes)
    if not arguments.json:
        print(_sizes(plan, arguments.keep_originals), file=sys.stderr)
    if not arguments.yes and not _agreed("Accept the licences and go on?"):
        raise ConfigError("nothing was downloaded.")
    with shown(release.name, plan, as_json=arguments.json) as told:
        folder = install(plan, models_dir, told, keep_originals=arguments.keep_originals)
    _tell_done(release, folder, arguments.json, "is installed in")


def _tell_licences(release: Release) -> None:
    for source in release.sources:
        size = f"about {source.about_bytes / 1e9:.2f} GB"
        print(f"{source.title}: {size}, licence {source.license}, {source.page}", file=sys.stderr)


def _sizes(plan: Plan, keep: bool) -> str:
    after = plan.total_bytes * (2 if keep and plan.release.is_preset else 1)
    return (
        f"{plan.release.name}: {plan.bytes_to_fetch / 1e9:.2f} GB to fetch; {plan.disk_bytes / 1e9:.1f} GB of disk "
        f"while it is made, {after / 1e9:.1f} GB in the end."
    )


def _tell_done(release: Release, folder: Path, as_json: bool, words: str) -> None:
    done = {"type": "done", "name": release.name, "folder": str(folder)}
    print(json.dumps(done) if as_json else f"{release.name} {words} {folder}", flush=True)


def _agreed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _end_with_input() -> None:
    """Ends the process with its parent, as a cancel does."""
    while os.read(0, 1):  # not sys.stdin: a thread that waits in it keeps Python from ending
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_S)
    os._exit(1)


def _leave(*_: object) -> None:
    """Ends a download: what has come stays and is continued, half a conversion is cleared away."""
    raise SystemExit(1)


# --- convert, verify, remove ---


def _convert(arguments: argparse.Namespace, models_dir: Path) -> int:
    from core.checkpoints.convert_direct3d_s2 import CONFIG_NAME, matching_preset, read_config
    from core.config.presets import PRESETS

    found = matching_preset(read_config(arguments.folder / CONFIG_NAME), PRESETS.values())
    target = models_dir / found.name
    if standing(found.name, models_dir).installed and not arguments.replace:
        raise CheckpointError(f"{target} exists. Remove it with `s2mesh models remove {found.name}`, or add --replace.")
    plan = plan_from_folder(get_release(found.name), arguments.folder, arguments.dinov2)
    dtype = None if arguments.dtype == "keep" else arguments.dtype
    with shown(found.name, plan) as told:
        print(install(plan, models_dir, told, dtype=dtype))
    return 0


def _verify(arguments: argparse.Namespace, models_dir: Path) -> int:
    names = arguments.names or [there.name for there in standings(models_dir) if there.installed]
    status = 0
    for name in names:
        with shown(name) as told:
            problems = verify(name, models_dir, told)
        for problem in problems:
            print(f"s2mesh: error: {problem}", file=sys.stderr)
            status = 1
        if not problems:
            print(f"{name} is whole", flush=True)
    return status


def _remove(arguments: argparse.Namespace, models_dir: Path) -> int:
    for name in arguments.names:
        files = removable(name, models_dir)
        if not files:
            print(f"nothing of {name} is in {models_dir}")
            continue
        size = sum(path.stat().st_size for path in files) / 1e9
        if not arguments.yes and not sys.stdin.isatty():
            raise ConfigError(f"nobody can be asked here whether {name} shall go. Add --yes if so.")
        if not arguments.yes and not _agreed(f"Remove {len(files)} files of {name} ({size:.2f} GB)?"):
            raise ConfigError("nothing was removed.")
        remove(name, models_dir)
        left = models_dir / name
        print(f"{name} is removed" + (f"; {left} holds files that are not ours" if left.exists() else ""))
    return 0


if __name__ == "__main__":
    sys.exit(run_reporting(main))

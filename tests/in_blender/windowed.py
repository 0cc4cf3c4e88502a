"""An artist's session in Blenders with a window: the tab, a picture, Generate by a click, the mesh in the viewport.

    .venv/bin/python tests/in_blender/windowed.py --root /tmp/blender43 --make trixie --screenshots /tmp/seen

A root is a folder with a Debian that holds Blender; `--make trixie` (Blender 4.3) or `--make sid` (the newest) builds
it first: 2 GB, a minute. Several roots are done one after the other. Needs root for chroot; the first time debootstrap.
The server with the real starter model runs outside, as `s2mesh serve` does; Blender finds it by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import windowed_pixels  # noqa: E402 (beside this file)
import windowed_tree  # noqa: E402
from run import starter  # noqa: E402
from servers import Server  # noqa: E402

PICTURE = ROOT / "packaging" / "examples" / "sofa.png"  # which the starter model can make
END_S = 30.0  # for Blender's own end


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, action="append", required=True, metavar="DIR", help="may be repeated")
    parser.add_argument("--make", choices=windowed_tree.SUITES, action="append", default=[], help="one for each root")
    parser.add_argument(
        "--screenshots", type=Path, required=True, metavar="DIR", help="gets the pictures of the screen"
    )
    parser.add_argument("--readme", type=Path, metavar="DIR", help="gets the README's two pictures, of the last root")
    parser.add_argument("--zip", type=Path, help="the extension; default: built now")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="that is chosen; default: %(default)s")
    parser.add_argument("--limit", type=float, default=1200.0, metavar="SECONDS", help="of one Blender")
    parser.add_argument("--freeze", type=float, default=1.0, metavar="SECONDS", help="that Blender may stand still")
    given = parser.parse_args(arguments)
    if given.make and len(given.make) != len(given.root):
        parser.error("give --make once for each --root, in their order, or not at all")
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        parser.error("this needs root, for chroot")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Blender and server end, too
    for suite, root in zip(given.make, given.root, strict=False):
        print(f"{root}: {suite}, {windowed_tree.SUITES[suite]}")
        windowed_tree.make(suite, root)
    with tempfile.TemporaryDirectory(prefix="s2mesh-windowed-") as folder:
        archive = given.zip or build(Path(folder))
        failed = [root for root in given.root if not one(root, archive, given)]
    return 1 if failed else 0


def build(folder: Path) -> Path:
    command = [sys.executable, str(ROOT / "packaging" / "build_extension.py"), "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.zip"))


def one(root: Path, archive: Path, given: argparse.Namespace) -> bool:
    """The whole session in one Blender; whether all of it went well."""
    version = windowed_tree.version(root)
    print(f"Blender {version} in {root}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="s2mesh-windowed-", dir=root / "tmp"))
    shots = given.screenshots / version
    shutil.rmtree(shots, ignore_errors=True)  # what an earlier run saw
    try:
        inside = prepare(work, root, archive, given)
        data_dir = work / "home" / ".local" / "share" / "s2mesh"  # where the extension looks by itself
        server = Server(command=starter(data_dir), data_dir=str(data_dir), log=str(work / "server.log")).start()
        try:
            log = work / "blender.log"
            script, task = inside / "windowed_script.py", str(inside / "task.json")
            blender = windowed_tree.start_blender(root, inside, script, [task], log)
            try:
                found = follow(blender, work, server, given.limit)
            finally:
                windowed_tree.end(blender)
        finally:
            server.kill()
        if not found:
            found = windowed_pixels.problems(work / "shots")
        if not found and given.readme:
            windowed_pixels.for_readme(work / "shots", given.readme)
        if found:
            print("    the end of Blender's log:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
    finally:
        shutil.copytree(work / "shots", shots, dirs_exist_ok=True)
        for name in ("blender.log", "server.log"):
            if (work / name).exists():
                shutil.copy(work / name, shots)
        shutil.rmtree(work)
    for problem in found:
        print("    FAILED  " + problem.rstrip().replace("\n", "\n            "))
    print(f"  {'FAILED' if found else 'passed'}; pictures and logs are in {shots}", flush=True)
    return not found


def prepare(work: Path, root: Path, archive: Path, given: argparse.Namespace) -> Path:
    """What Blender reads, inside of the tree; returns the folder's path as it is in there."""
    work.chmod(0o755)
    for name in ("shots", "asks", "home", "tmp"):
        (work / name).mkdir()
    for path in (archive, given.picture, HERE / "windowed_script.py", HERE / "windowed_hand.py"):
        shutil.copy(path, work)
    inside = Path("/") / work.resolve().relative_to(root.resolve())
    task = {name: str(inside / name) for name in ("shots", "asks")}
    task |= {"results": str(inside / "results.jsonl"), "zip": str(inside / archive.name)}
    task |= {"picture": str(inside / given.picture.name), "freeze_s": str(given.freeze)}
    (work / "task.json").write_text(json.dumps(task))
    (work / "results.jsonl").touch()
    return inside


def follow(blender: subprocess.Popen, work: Path, server: Server, limit_s: float) -> list[str]:
    """Tells what happens in there, does what is asked from there; returns what went wrong."""
    deadline, done = time.monotonic() + limit_s, False
    with (work / "results.jsonl").open(encoding="utf-8") as lines:
        while True:
            ended = blender.poll() is not None  # asked before reading: then nothing that was written is missed
            while (line := lines.readline()).endswith("\n"):
                fact = json.loads(line)
                if "problem" in fact:
                    return [fact["problem"]]
                if "step" in fact:
                    print(f"    ok      {fact['step']} {fact['s']:.1f} s", flush=True)
                if "note" in fact:
                    print(f"            {fact['note']}", flush=True)
                if "done" in fact:
                    done, deadline = True, min(deadline, time.monotonic() + END_S)
            if ended:
                break
            if time.monotonic() > deadline:
                return ["Blender does not end" if done else f"Blender still runs after {limit_s:.0f} s"]
            for asked in (work / "asks").iterdir():
                {"kill": server.kill, "start": server.start}[asked.name]()
                asked.unlink()
            time.sleep(0.05)
    if not done:
        return [f"Blender ended in the middle, with status {blender.returncode}"]
    if blender.returncode != 0:
        return [f"Blender ended with status {blender.returncode}"]
    print("    ok      end, with status 0", flush=True)
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

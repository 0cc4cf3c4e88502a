"""A Debian tree with a Blender in it that can open a window, and one program run in it. Needs root and debootstrap.

The wheels of bpy have no window, and Debian stable's own Blender is older than extensions are. A tree is about 2 GB
and takes a minute to make. It shares no mounts with the machine but sees its loopback network: Blender inside reaches
a server outside.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SUITES = {"trixie": "Blender 4.3", "sid": "the newest Blender that Debian has"}
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    *("blender", "xvfb", "xauth", "imagemagick", "libgl1-mesa-dri", "libegl1", "libegl-mesa0"),
    *("python3-numpy", "python3-requests", "python3-zstandard", "python3-attr", "python3-typing-extensions"),
)
SCREEN = (1280, 800)


def make(suite: str, root: Path) -> None:
    """Build the tree; one that is there already is only completed."""
    if shutil.which("debootstrap") is None:
        raise SystemExit("s2mesh: error: debootstrap is missing. Install it: apt-get install debootstrap")
    if not (root / "etc/debian_version").exists():
        run(["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(root), mirror()])
    for source in [Path("/etc/resolv.conf"), *Path("/etc/apt/apt.conf.d").glob("*proxy*")]:
        if source.exists():
            shutil.copy(source, root / source.relative_to("/"))
    if suite == "sid":  # a mirror's stored copy may be past its date; signatures are still checked
        (root / "etc/apt/apt.conf.d/98valid").write_text('Acquire::Check-Valid-Until "false";\n')
    apt = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    run([*apt, "update"])
    run([*apt, "install", "-y", "--no-install-recommends", *PACKAGES])
    add_cattrs(root)


def add_cattrs(root: Path) -> None:
    """Blender 5 handles extensions with cattrs, which Debian does not have. Pure Python, so ours will do."""
    folder = root / "usr/lib/python3/dist-packages"
    if not (folder / "cattrs").exists():
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--no-compile",
                "--target",
                str(folder),
                "cattrs",
            ]
        )


def mirror() -> str:
    """The one that this machine uses, if it is a Debian."""
    sources = [*Path("/etc/apt").glob("sources.list.d/*.sources"), *Path("/etc/apt").glob("sources.list")]
    for path in sources:
        if found := re.search(
            r"^(?:URIs:|deb)\s+(?:\[.*?\]\s*)?(\S*debian)/?\s*(?:\s|$)", path.read_text(), re.MULTILINE
        ):
            return found.group(1)
    return MIRROR


def run(command: list[str]) -> None:
    print("  " + " ".join(command[:8]) + (" ..." if len(command) > 8 else ""), flush=True)
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"s2mesh: error: this failed: {' '.join(command)}")


def version(root: Path) -> str:
    """Such as 4.3.2."""
    command = ["chroot", str(root), "blender", "--version"]
    found = re.search(r"Blender (\d+\.\d+\.\d+)", subprocess.run(command, capture_output=True, text=True).stdout)
    if found is None:
        raise SystemExit(f"s2mesh: error: there is no Blender in {root}. Make it: --make trixie or --make sid.")
    return found.group(1)


def start_blender(root: Path, work: Path, script: Path, arguments: list[str], log: Path) -> subprocess.Popen:
    """Blender on a screen of its own, at its factory settings. Paths are those inside of the tree, but the log's."""
    width, height = SCREEN
    command = [
        *(
            "chroot",
            str(root),
            "env",
            "-i",
            "PATH=/usr/bin:/bin",
            "LANG=C.UTF-8",
            f"HOME={work}/home",
            f"TMPDIR={work}/tmp",
        ),
        *("LIBGL_ALWAYS_SOFTWARE=1", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"),
        *("xvfb-run", "-n", str(free_display()), "-s", f"-screen 0 {width}x{height}x24"),
        *("blender", "--factory-startup", "--enable-event-simulate", "--window-geometry", "0", "0"),
        *(str(width), str(height), "--python-exit-code", "3", "--python", str(script), "--", *arguments),
    ]
    with log.open("w") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def free_display() -> int:
    """A number that no X server of this machine has. Trees see each other's, since their network is one."""
    taken = {int(number) for number in re.findall(r"/tmp/\.X11-unix/X(\d+)", Path("/proc/net/unix").read_text())}
    return next(number for number in range(120 + os.getpid() % 200, 2000) if number not in taken)


def end(process: subprocess.Popen) -> None:
    """Blender and its screen, if they are still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""Which build of PyTorch fits a machine, and the calls of pip that install everything. Decides, does nothing."""

import shutil
import subprocess
import sys
from dataclasses import dataclass

from environment import CONSTRAINTS, ROOT, SetupError

PYTORCH_INDEX = "https://download.pytorch.org/whl/"  # + cpu, cu126, cu130


@dataclass(frozen=True)
class Machine:
    """What decides which packages are right."""

    system: str  # sys.platform: linux, win32, darwin
    driver: int | None = None  # lowest major version of the NVIDIA driver; None without one
    capability: float | None = None  # lowest compute capability of the GPUs, such as 7.5
    newest: float | None = None  # highest compute capability


@dataclass(frozen=True)
class Step:
    """One call of pip."""

    what: str  # for the progress line
    arguments: tuple[str, ...]


def detect_machine() -> Machine:
    """Asks the NVIDIA driver's own tool; a machine without it has no GPU that torch could use."""
    tool = shutil.which("nvidia-smi") or shutil.which(r"C:\Windows\System32\nvidia-smi.exe")
    if tool is None:
        return Machine(sys.platform)
    query = [tool, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Machine(sys.platform)
    return parse_machine(sys.platform, answer.stdout if answer.returncode == 0 else "")


def parse_machine(system: str, answer: str) -> Machine:
    """From nvidia-smi's lines, `580.65.06, 9.0` per GPU; anything else counts as no GPU."""
    drivers, capabilities = [], []
    for line in answer.splitlines():
        driver, _, capability = line.partition(",")
        try:
            found = int(driver.split(".")[0]), float(capability)
        except ValueError:
            continue
        drivers.append(found[0])
        capabilities.append(found[1])
    if not drivers:
        return Machine(system)
    return Machine(system, min(drivers), min(capabilities), max(capabilities))


def choose_build(machine: Machine, wanted: str | None) -> tuple[str, str | None]:
    """(cpu or cuda, a warning or None)."""
    if wanted == "cuda" and machine.system == "darwin":
        raise SetupError("there is no CUDA on macOS. Leave --cuda away; Apple's GPU is used as device mps.")
    if wanted:
        return wanted, None
    if machine.driver is None or machine.system == "darwin":
        return "cpu", None
    oldest_driver = 580 if (machine.newest or 0) >= 10 else 525  # Blackwell has no CUDA 12.6 build
    if machine.driver < oldest_driver:
        return "cpu", (
            f"the NVIDIA driver is version {machine.driver}; PyTorch needs {oldest_driver} or newer for this GPU. "
            "Taking the CPU build; after a driver update run `setup --cuda`"
        )
    return "cuda", None


def torch_index(machine: Machine, build: str) -> str | None:
    """Folder of PyTorch's index that has the build, or None where pip's own index has it.

    CUDA 13 needs driver 580 and compute capability 7.5; CUDA 12.6 serves older ones.
    """
    if machine.system == "darwin":
        return None
    if build == "cpu":
        return "cpu" if machine.system == "linux" else None
    old = machine.driver is not None and (machine.driver < 580 or (machine.capability or 9.0) < 7.5)
    if old:
        return "cu126"
    return None if machine.system == "linux" else "cu130"


def plan(sets: tuple[str, ...], build: str, index: str | None, replace_torch: bool = False) -> list[Step]:
    """The calls of pip for the named sets; ``replace_torch`` where another build of it may be there already."""
    wheels = ("install", "--only-binary=:all:")  # a package that would have to be compiled is an error
    steps = []
    if "runtime" in sets:
        steps.append(Step("installing the libraries (about 300 MB)", (*wheels, "-r", str(CONSTRAINTS / "common.txt"))))
        if replace_torch:  # pip takes any build of the same version for satisfied
            steps.append(Step("removing the other build of PyTorch", ("uninstall", "-y", "torch")))
        source = ("--index-url", PYTORCH_INDEX + index) if index else ()
        size = "about 3 GB" if build == "cuda" else "about 200 MB"
        steps.append(Step(f"installing PyTorch ({size})", (*wheels, *source, "-r", str(CONSTRAINTS / "torch.txt"))))
    if "dev" in sets:
        steps.append(Step("installing the test tools", (*wheels, "-r", str(CONSTRAINTS / "dev.txt"))))
    if "runtime" in sets:
        project = ("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        steps.append(Step("installing s2mesh itself, in place", project))
    return steps

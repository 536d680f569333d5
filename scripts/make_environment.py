"""Make `.venv` from the locked requirements in `envs/`, and Poppler where that can be had.

Run by `make env` with the Python that the environment shall have (3.11 or later), before anything
is installed: the standard library only. Run again, it brings the environment up to date; one that
was left half-made, or made with another Python or another torch, is made from nothing.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

VENV = Path(".venv")
# What the environment was made with, read by the Makefile.
CHOICES = VENV / "choices.mk"
# Exists while packages are being written: if it is still there, they were not all written.
UNFINISHED = VENV / "unfinished"
PIP_LOG = VENV / "pip.log"

# Free space needed, GB. Measured: 6.3 GB with torch's CUDA libraries, which make up 5.
FREE_GB = {"pypi": 8.0, "cuda": 8.0, "cpu": 3.0, "installed": 2.0}
# What every part of Scanmill rests on: if these import, the environment works.
MODULES = (
    "torch, torchvision, timm, detectron2, cv2, pyarrow, pypdfium2, pdf2image, snakemake, scanmill"
)

NETWORK_ERRORS = (
    "NewConnectionError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "Connection refused",
    "Max retries exceeded",
    "Read timed out",
    "ProxyError",
    "SSLError",
)


class SetupError(Exception):
    """What stops the set-up, with the remedy, as the user shall read it."""


def check_venv_module() -> None:
    """Raise SetupError where Python came without what makes virtual environments (Debian)."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"{sys.executable} cannot make virtual environments.\n"
            f"On Debian or Ubuntu: apt-get install python{version}-venv\n"
            "Or take another Python: make PYTHON=python3.12"
        )


def check_disk_space(torch: str, free: int) -> None:
    """Raise SetupError if `free` bytes do not hold the environment with that choice of torch."""
    needed = FREE_GB.get(torch, FREE_GB["cuda"])
    if free < needed * 1e9:
        raise SetupError(
            f"{VENV.resolve()} has {free / 1e9:.1f} GB; the environment needs {needed:.0f} GB.\n"
            "Free some, put the repository on another disk, or, without a GPU, take the small\n"
            "build of torch: make TORCH=cpu"
        )


def explain_pip_failure(log: str) -> str:
    """Cause and remedy for what pip wrote into its log before it gave up."""
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return (
            "The disk is full. pip also needs room for its downloads (3 GB) in TMPDIR and in its\n"
            "cache: set TMPDIR and PIP_CACHE_DIR to folders on a disk with room, then run make "
            "again."
        )
    if any(error in log for error in NETWORK_ERRORS):
        return (
            "The package index could not be reached. Check the network; behind a proxy set\n"
            "https_proxy, with a mirror set PIP_INDEX_URL, then run make again: what was "
            "downloaded is kept."
        )
    unbuilt = re.search(r"Failed (?:to build|building wheel for) '?([\w.-]+)", log)
    if unbuilt:
        return (
            f"{unbuilt.group(1)} has no ready-made package for this Python, and could not be "
            "compiled.\nPython 3.11, 3.12 and 3.13 need no compiler: make PYTHON=python3.13"
        )
    return f"pip failed as it says above; {PIP_LOG} has all of it. Run make again to go on."


def run_pip(*arguments: str) -> None:
    """Run the environment's pip; raise SetupError with cause and remedy if it fails."""
    PIP_LOG.unlink(missing_ok=True)
    # -I: packages on PYTHONPATH or in the home folder do not count as installed.
    command = [VENV / "bin" / "python", "-I", "-m", "pip", "--log", PIP_LOG, *arguments]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    if subprocess.run(command, env=os.environ | quiet).returncode == 0:
        return
    log = PIP_LOG.read_text(errors="replace") if PIP_LOG.exists() else ""
    if "Installing collected packages" not in log:
        # pip fetches everything before it writes anything: the environment is still whole.
        UNFINISHED.unlink(missing_ok=True)
    raise SetupError(explain_pip_failure(log))


def read_choices() -> dict[str, str]:
    """What the present environment was made with; empty if there is none."""
    if not CHOICES.exists():
        return {}
    return dict(line.split(" ?= ", 1) for line in CHOICES.read_text().splitlines() if "?=" in line)


def has_own_detectron2() -> bool:
    """Whether the user put a Detectron2 of their own into the environment."""
    found = {path.name for path in VENV.glob("lib/python*/site-packages/*detectron2*")}
    return bool(found) and not any(name.startswith("sal_detectron2") for name in found)


def reason_to_start_anew(torch: str) -> str | None:
    """Why the environment that is there cannot be brought up to date; None if it can.

    It cannot if it was left half-made, if it is of another Python or another folder, or has another
    build of torch.
    """
    if UNFINISHED.exists():
        return "was left half-made"
    config = VENV / "pyvenv.cfg"
    text = config.read_text() if config.exists() else ""
    settings = dict(re.findall(r"^(\S+) = (.*)$", text, re.MULTILINE))
    version = ".".join(settings.get("version", "").split(".")[:2])
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        return f"has Python {version or '?'}"
    # The Python below the environment's, also where this very script runs in that environment.
    base = Path(sys._base_executable).resolve().parent
    if Path(settings["home"]).resolve() != base:
        return f"has the Python of {settings['home']}"
    # Its scripts hold the path of the folder that it was made in.
    if not settings["command"].endswith(f" {VENV.absolute()}"):
        return "was made in another folder"
    if not has_working_pip():
        return "has no working pip"
    made_with = read_choices().get("TORCH", torch)
    return f"has torch from {made_with}" if made_with != torch else None


def has_working_pip() -> bool:
    """Whether the environment's Python starts and finds its pip."""
    python = VENV / "bin" / "python"
    if not python.exists():
        return False
    return subprocess.run([python, "-I", "-m", "pip", "-V"], capture_output=True).returncode == 0


def prepare_venv(torch: str, detectron2: str, python: str) -> None:
    """Make the virtual environment, unless there is one that can be brought up to date."""
    reason = reason_to_start_anew(torch) if VENV.exists() else "is not there"
    if reason:
        if detectron2 == "installed" and has_own_detectron2():
            raise SetupError(
                f"{VENV} {reason} and must be made from nothing, but holds a Detectron2 of your "
                f"own.\nRemove it (rm -r {VENV}), and after make env DETECTRON2=pypi install "
                "yours again."
            )
        print(f"{VENV} {reason}: making it.", flush=True)
        # Torch or Detectron2 of the Python below can only be kept if they can be seen.
        see_below = ["--system-site-packages"] if "installed" in (torch, detectron2) else []
        # Where this script runs in the environment itself, the venv module of the Python below.
        command = [sys._base_executable, "-m", "venv", "--clear", *see_below, VENV]
        if subprocess.run(command).returncode:
            raise SetupError(f"{VENV} could not be made: see above.")
    for stamp in VENV.glob("made-*"):
        stamp.unlink()
    CHOICES.write_text(f"TORCH ?= {torch}\nDETECTRON2 ?= {detectron2}\nPYTHON ?= {python}\n")


def torch_requirements(torch: str) -> list[str]:
    """Arguments of pip for a choice of torch: `pypi`, or a folder of PyTorch's own index.

    That index has not every release for every CUDA: there, the newest up to the pinned one.
    """
    if torch == "pypi":
        return ["-r", "envs/torch.txt"]
    pins = re.findall(r"^(\w+)==(\S+)", Path("envs/torch.txt").read_text(), re.MULTILINE)
    newest = [f"{name}<={version}" for name, version in pins]
    return ["--index-url", f"https://download.pytorch.org/whl/{torch}", "torch>=2.6", *newest]


def python_says(code: str) -> str:
    """What the environment's Python prints for `code`; empty if it fails."""
    command = [VENV / "bin" / "python", "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def install_detectron2() -> None:
    """Install the Detectron2 of `envs/detectron2.txt` in place of whatever one there is.

    Its wheel is tagged for CPython 3.10, though it holds plain Python: pip takes it for another
    version only with --target, as if for 3.10.
    """
    pins = re.findall(r"^([\w-]+)==(\S+)", Path("envs/detectron2.txt").read_text(), re.MULTILINE)
    [(name, pinned)] = pins
    installed = dict(
        line.split("==")
        for line in python_says(
            "from importlib.metadata import distributions as d\n"
            "print(*{f'{x.name}=={x.version}' for x in d()}, sep='\\n')"
        ).splitlines()
    )
    if installed.get(name) == pinned and "detectron2" not in installed:
        return
    others = sorted({name, "detectron2"} & set(installed))
    if others:
        run_pip("uninstall", "--yes", "--quiet", *others)
    run_pip(
        *("install", "--quiet", "--upgrade", "--no-deps", "--only-binary=:all:"),
        *(
            "--python-version",
            "3.10",
            "--target",
            python_says("import sysconfig; print(sysconfig.get_path('purelib'))"),
        ),
        *("--require-hashes", "-r", "envs/detectron2.txt"),
    )


def install_packages(torch: str, detectron2: str) -> None:
    """Bring the environment's packages to what is locked; raise SetupError if that fails."""
    installed = python_says(
        "from importlib.util import find_spec as f; print(*filter(f, ('snakemake', 'torch')))"
    )
    if installed != "snakemake torch":
        check_disk_space(torch, shutil.disk_usage(VENV).free)
    UNFINISHED.touch()
    # Locked versions cannot conflict; what pip would warn of is Detectron2's stale list.
    install = ("install", "--no-warn-conflicts", "--use-pep517")
    print("Installing what envs/requirements.txt and development.txt lock.", flush=True)
    run_pip(*install, "--quiet", "-r", "envs/requirements.txt", "-r", "envs/development.txt")
    if torch != "installed":
        # Several GB the first time: pip shows its progress.
        quiet = ("--quiet",) if "torch" in installed else ()
        run_pip(*install, *quiet, *torch_requirements(torch))
    if detectron2 != "installed":
        install_detectron2()
    run_pip("install", "--quiet", "--no-deps", "--require-hashes", "-r", "envs/timm.txt")
    run_pip("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", ".")
    UNFINISHED.unlink()


def check_torch_build(torch: str) -> None:
    """Raise SetupError if torch is not the build that was asked for.

    An index in pip's configuration may offer another one, under a higher version.
    """
    if not re.fullmatch(r"cpu|cu\d+", torch):
        return
    cuda = python_says("import torch; print(torch.version.cuda)")
    built_for = "cpu" if cuda == "None" else f"cu{cuda.replace('.', '')}"
    if built_for != torch:
        UNFINISHED.touch()
        raise SetupError(
            f"TORCH={torch}, but pip took a torch for {built_for} from another index: see the "
            "extra-index-url\nand find-links of `pip config list`, and run make again without them."
        )


def check_imports(torch: str, detectron2: str) -> None:
    """Raise SetupError if a part that Scanmill rests on does not import."""
    command = [VENV / "bin" / "python", "-W", "ignore", "-c", f"import {MODULES}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return
    error = result.stderr.strip().splitlines()[-1]
    if "installed" in (torch, detectron2):
        remedy = (
            f"TORCH={torch} DETECTRON2={detectron2}: `installed` keeps what {VENV}, or the Python "
            "named by PYTHON=, has.\nInstall it there first, or take ours: make env TORCH=pypi "
            "DETECTRON2=pypi"
        )
    else:
        remedy = f"Remove it (rm -r {VENV}) and run make env again."
    raise SetupError(f"{VENV} does not work: {error}\n{remedy}")


def install_tools() -> None:
    """Install Poppler and jpegtran where that needs no password; otherwise say what serves instead.

    Never an error: PDFium, which pip installs, renders too, and turned JPEGs can become PNGs.
    """
    if shutil.which("pdftoppm") and shutil.which("jpegtran"):
        return
    packages = ["poppler-utils", "libjpeg-turbo-progs"]
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    allowed = not as_root or (
        shutil.which("sudo")
        and not subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode
    )
    if allowed and shutil.which("apt-get"):
        print(f"Installing Poppler and jpegtran ({' '.join(packages)}).", flush=True)
        apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        subprocess.run([*apt, "update"])
        install = [*apt, "install", "-y", "--no-install-recommends", *packages]
        subprocess.run(install, stdout=subprocess.DEVNULL)
    if not shutil.which("pdftoppm"):
        print(
            "Poppler is not installed: PDFs are rendered by PDFium. To have Poppler: apt-get "
            "install poppler-utils,\ndnf install poppler-utils, brew install poppler, or conda "
            "install -c conda-forge poppler."
        )
    if not shutil.which("jpegtran"):
        print(
            "jpegtran is not installed: scans that lie on their side in a PDF become PNGs, which are "
            "larger.\nTo have it: apt-get install libjpeg-turbo-progs, dnf install "
            "libjpeg-turbo-utils, or conda install -c conda-forge libjpeg-turbo."
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make or update .venv; `make env` runs this.")
    parser.add_argument("--torch", default="pypi", help="pypi, installed, cpu, cu126, ...")
    parser.add_argument("--detectron2", default="pypi", choices=("pypi", "installed"))
    parser.add_argument("--python", default="python3", help="how the user called this Python")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"pypi|installed|cpu|cu\d+|rocm[\d.]+|xpu", options.torch):
        parser.error(f"TORCH={options.torch}: take pypi, installed, cpu, or a CUDA such as cu126")
    return options


def main() -> int:
    """Make the environment of the current folder; 1 and a message if it cannot be made."""
    options = parse_arguments()
    start = time.monotonic()
    try:
        check_venv_module()
        prepare_venv(options.torch, options.detectron2, options.python)
        install_packages(options.torch, options.detectron2)
        check_torch_build(options.torch)
        check_imports(options.torch, options.detectron2)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    PIP_LOG.unlink(missing_ok=True)
    install_tools()
    print(f"Environment ready in {time.monotonic() - start:.0f} s: source .venv/bin/activate")
    return 0


if __name__ == "__main__":
    sys.exit(main())

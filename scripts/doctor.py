"""Say what this machine has for Scanmill, what is wrong, and the remedy: ten lines.

Each line begins with `ok`, `note` (works, but worth knowing) or `PROBLEM`; exit status 1 if there
is a PROBLEM. It imports nothing at the top that has to be installed: it must speak where the
environment is broken.
"""

import argparse
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# Lowest NVIDIA driver by CUDA's major version: table 1 of NVIDIA's "CUDA Compatibility", section
# "Minor Version Compatibility".
LOWEST_DRIVER = {11: 450, 12: 525, 13: 580}
# Processor flags of bfloat16 arithmetic; without them it is slower than float32.
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
# A grey scan at 300 dpi as JPEG.
MEGABYTES_PER_PAGE = 1.5


class Line(NamedTuple):
    """One finding: its state, what it is about, what was found, and what to do about it."""

    state: str
    topic: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        """Give the line as it is printed."""
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.state:<8} {self.topic:<10} {self.text}{remedy}"


def try_import(name: str) -> tuple[ModuleType | None, str]:
    """Return the module, or None and why it does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    # A broken installation fails in many ways (OSError of a library, RuntimeError of a check);
    # whichever it is becomes a line.
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def run_tool(*command: str) -> str:
    """What a program prints, on either stream; empty if it is missing, fails or hangs."""
    if not shutil.which(command[0]):
        return ""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return ""
    return (result.stdout or result.stderr).strip() if result.returncode == 0 else ""


def read_text(path: str) -> str:
    """Content of a file of the kernel; empty where there is none (not Linux)."""
    return Path(path).read_text(errors="replace") if Path(path).exists() else ""


def check_python() -> Line:
    """Python's version and place."""
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
        return Line("note", "Python", f"{text}, no environment", "source .venv/bin/activate")
    return Line("ok", "Python", text)


def find_version(name: str) -> str:
    """Version of an installed package; `missing` if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def check_packages(requirements: str, lock: str) -> Line:
    """Snakemake, and whether the other packages are there, and in their locked versions.

    Args:
        requirements: text of `envs/requirements.in`: what Scanmill itself imports.
        lock: text of `envs/requirements.txt`. Lines with a marker are for some systems only.
    """
    needed = re.findall(r"^([\w.-]+)", requirements, re.MULTILINE)
    missing = [name for name in needed if find_version(name) == "missing"]
    if missing:
        few = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        text = f"{len(missing)} of {len(needed)} missing: {few}"
        return Line("PROBLEM", "packages", text, "make env, then source .venv/bin/activate")
    text = f"Snakemake {find_version('snakemake')}"
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)(?! ;)\s", lock, re.MULTILINE))
    other = [f"{n} {found} ({v})" for n, v in locked.items() if (found := find_version(n)) != v]
    if other:
        few = ", ".join(other[:3]) + (", ..." if len(other) > 3 else "")
        return Line("note", "packages", f"{text}; {len(other)} not as locked: {few}", "make env")
    return Line("ok", "packages", f"{text}; {len(locked)} packages as locked")


def check_torch(torch: ModuleType | None, error: str) -> Line:
    """Version of torch and what it was built for."""
    if torch is None:
        return Line("PROBLEM", "torch", error, "make env")
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if getattr(torch.version, "hip", None):
        built_for = f"ROCm {torch.version.hip}"
    torchvision, error = try_import("torchvision")
    if torchvision is None:
        return Line("PROBLEM", "torch", f"{torch.__version__}, torchvision: {error}", "make env")
    text = f"{torch.__version__} for {built_for}, torchvision {torchvision.__version__}"
    return Line("ok", "torch", text)


def list_gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, whether or not a driver is there."""
    names = run_tool("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if names:
        return names.splitlines()
    gpus = []
    for device in Path("/sys/bus/pci/devices").glob("*"):
        vendor, kind = read_text(f"{device}/vendor"), read_text(f"{device}/class")
        # PCI's number of NVIDIA; classes 0x0300.. and 0x0302.. are display and 3D controllers.
        if vendor.startswith("0x10de") and kind.startswith("0x03"):
            gpus.append(f"NVIDIA GPU at {device.name}")
    return gpus


def find_driver() -> str:
    """Version of the NVIDIA driver, such as 535.183.01; empty if none is loaded."""
    version = run_tool("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    loaded = version or read_text("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", loaded)
    return found.group() if found else ""


def try_cuda(torch: ModuleType) -> str:
    """Compute something on every GPU; return the error, empty if all is well."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if not torch.cuda.is_available():
                said = [str(warning.message).splitlines()[0] for warning in caught]
                return said[0] if said else "torch sees no GPU"
            for device in range(torch.cuda.device_count()):
                torch.ones(2, device=f"cuda:{device}").sum().item()
    # An old GPU, a broken driver, a GPU that another process holds alone.
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def judge_gpu(gpus: list[str], driver: str, cuda: str | None, error: str) -> Line:
    """Whether torch can use the GPUs.

    Args:
        gpus: names of the NVIDIA GPUs.
        driver: version of the driver, empty if there is none.
        cuda: the CUDA that torch was built for, None for a build without.
        error: why computing on the GPU failed, empty if it did not.
    """
    if not gpus:
        return Line("note", "GPU", "no NVIDIA GPU: pages are detected on the CPU")
    found = f"{len(gpus)} x {gpus[0]}" if len(set(gpus)) == 1 else "; ".join(gpus)
    text = f"{found}, driver {driver or 'missing'}"
    if cuda and not error:
        return Line("ok", "GPU", text)
    otherwise = "or accept the CPU: detection.device: cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        remedy = f"unset CUDA_VISIBLE_DEVICES, {otherwise}"
        return Line("PROBLEM", "GPU", f"{text}, hidden by CUDA_VISIBLE_DEVICES", remedy)
    if not driver:
        return Line("PROBLEM", "GPU", text, f"install NVIDIA's driver, {otherwise}")
    major = int(driver.split(".")[0])
    remedy = "make env TORCH=cu126" if major >= LOWEST_DRIVER[12] else "install a newer driver"
    if not cuda:
        if major >= LOWEST_DRIVER[13]:
            remedy = "make env TORCH=pypi"
        return Line("PROBLEM", "GPU", f"{text}; torch is built without CUDA", remedy)
    wanted = LOWEST_DRIVER.get(int(cuda.split(".")[0]))
    if wanted and major < wanted:
        text += f"; torch's CUDA {cuda} wants driver {wanted} or later"
        return Line("PROBLEM", "GPU", text, f"{remedy}, {otherwise}")
    if "no kernel image" in error:
        text += f"; too old for torch's CUDA {cuda}"
        return Line("PROBLEM", "GPU", text, "make env TORCH=cu126")
    remedy = f"see whether nvidia-smi works and /dev/nvidia* may be read, {otherwise}"
    return Line("PROBLEM", "GPU", f"{text}; {error}", remedy)


def check_gpu(torch: ModuleType | None) -> Line:
    """GPUs, driver, and whether torch can use them."""
    error = try_cuda(torch) if torch else "torch is missing"
    cuda = torch.version.cuda if torch else None
    return judge_gpu(list_gpus(), find_driver(), cuda, error)


def check_cpu() -> Line:
    """Processor, cores this process may use, and its bfloat16 arithmetic."""
    information = read_text("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", information, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", information, re.MULTILINE)
    known = flags.group(1).split() if flags else []
    bfloat16 = ", ".join(flag for flag in BFLOAT16_FLAGS if flag in known) or "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = model.group(1) if model else platform.processor() or platform.machine()
    return Line("ok", "CPU", f"{name}, {cores} cores, bfloat16: {bfloat16}")


def check_memory() -> Line:
    """Memory of the machine, or of the container if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        total = min(total, int(limit))
    text = f"{total / 1e9:.1f} GB"
    if total < 8e9:
        return Line("note", "memory", text, "few cores at a time: snakemake --cores 2")
    return Line("ok", "memory", text)


def describe_origin(distribution: metadata.Distribution) -> str:
    """Where a distribution's code comes from: a repository, a folder, conda, or an index."""
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "vcs_info" in direct:
        return f"{direct['url']}@{direct['vcs_info']['commit_id'][:8]}"
    if direct:
        return direct["url"]
    installer = (distribution.read_text("INSTALLER") or "?").strip()
    name = distribution.metadata["Name"]
    return f"{'PyPI' if installer == 'pip' else installer}'s {name} {distribution.version}"


def check_detectron2() -> Line:
    """Detectron2's version, where its code comes from, and whether its operators are compiled."""
    detectron2, error = try_import("detectron2")
    if detectron2 is None:
        return Line("PROBLEM", "detectron2", error, "make env")
    names = [n for n in ("sal-detectron2", "detectron2") if find_version(n) != "missing"]
    origins = [describe_origin(metadata.distribution(name)) for name in names]
    compiled, _ = try_import("detectron2._C")
    operators = "compiled operators" if compiled else "torchvision's operators, no _C"
    place = Path(detectron2.__file__).parent
    text = f"{detectron2.__version__} from {' and '.join(origins) or '?'} in {place}, {operators}"
    if len(origins) > 1:
        remedy = "uninstall both, then install one: pip uninstall sal-detectron2 detectron2"
        return Line("PROBLEM", "detectron2", text, remedy)
    return Line("ok", "detectron2", text)


def check_pdf_engines() -> Line:
    """Poppler, which renders, and PDFium, which looks inside and can render."""
    pdfium, error = try_import("pypdfium2")
    if pdfium is None:
        return Line("PROBLEM", "PDF", f"PDFium: {error}", "make env")
    text = f"PDFium {pdfium.PDFIUM_INFO} (pypdfium2 {pdfium.PYPDFIUM_INFO})"
    poppler = re.search(r"version (\S+)", run_tool("pdftoppm", "-v"))
    if not poppler:
        remedy = "apt-get install poppler-utils, or conda install -c conda-forge poppler"
        return Line("note", "PDF", f"no Poppler: {text} renders", remedy)
    if not shutil.which("jpegtran"):
        remedy = (
            "apt-get install libjpeg-turbo-progs, or conda install -c conda-forge libjpeg-turbo"
        )
        text = f"Poppler {poppler.group(1)}, {text}, no jpegtran: turned JPEGs become PNGs"
        return Line("note", "PDF", text, remedy)
    return Line("ok", "PDF", f"Poppler {poppler.group(1)}, {text}, jpegtran")


def check_ocr_engines() -> Line:
    """RapidOCR, and Tesseract with its languages: either recognizes text."""
    rapidocr = find_version("rapidocr")
    tesseract = re.search(r"tesseract v?(\S+)", run_tool("tesseract", "--version"))
    if rapidocr == "missing" and not tesseract:
        return Line("note", "OCR", "no engine: text is not recognized", "make env")
    languages = ", ".join(run_tool("tesseract", "--list-langs").splitlines()[1:])
    other = f"Tesseract {tesseract.group(1)} ({languages})" if tesseract else "no Tesseract"
    return Line("ok", "OCR", f"RapidOCR {rapidocr}, {other}")


def check_model(folder: Path) -> str:
    """What is wrong with a model folder; empty if its files have the sha256 of its model.json."""
    try:
        expected = json.loads((folder / "model.json").read_text())["sha256"]
    except (ValueError, KeyError) as error:
        return f"{folder}/model.json cannot be read ({type(error).__name__}: {error})"
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                return f"{file} is damaged (its sha256 is another)"
    return ""


def check_models(directories: Iterable[Path]) -> Line:
    """Models in `models/` of the working directory and of the repository, and their digests."""
    folders = {
        path.parent.resolve(): None
        for directory in directories
        for path in sorted(directory.glob("models/*/model.json"))
    }
    wrong = [problem for folder in folders if (problem := check_model(folder))]
    if wrong:
        remedy = "take the folder from the repository again (git restore models), or copy it again"
        return Line("PROBLEM", "models", "; ".join(wrong), remedy)
    if not folders:
        return Line("PROBLEM", "models", "none in models/", "git restore models")
    return Line("ok", "models", ", ".join(folder.name for folder in folders))


def check_disk(directory: Path) -> Line:
    """Free space where the results go."""
    free = shutil.disk_usage(directory).free
    pages = free / 1e6 / MEGABYTES_PER_PAGE
    text = f"{free / 1e9:.0f} GB free in {directory.resolve()}, for about {pages:,.0f} page images"
    if free < 2e9:
        return Line("PROBLEM", "disk", text, "free some, or take another --directory")
    return Line("ok", "disk", text)


def main() -> int:
    """Print the lines; 1 if there is a PROBLEM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path(), help="the working directory")
    directory = parser.parse_args().directory
    if not directory.is_dir():
        parser.error(f"--directory {directory} is not a folder")
    torch, error = try_import("torch")
    lines = [
        check_python(),
        check_packages(
            (ROOT / "envs" / "requirements.in").read_text(),
            (ROOT / "envs" / "requirements.txt").read_text(),
        ),
        check_torch(torch, error),
        check_gpu(torch),
        check_cpu(),
        check_memory(),
        check_detectron2(),
        check_pdf_engines(),
        check_ocr_engines(),
        check_models([directory, ROOT]),
        check_disk(directory),
    ]
    print(*lines, sep="\n")
    return int(any(line.state == "PROBLEM" for line in lines))


if __name__ == "__main__":
    sys.exit(main())

"""Which processors this machine has, told without torch."""

from __future__ import annotations

import contextlib
import shutil
import subprocess


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver of a machine that has such a GPU, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False)
    return said.stdout.split("\n")[0].strip() or None if said.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name as the kernel tells it, or an empty text."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""

"""Which processors this machine has, told without torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver of a machine that has such a GPU, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False)
    return said.stdout.split("\n")[0].strip() or None if said.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name as the kernel tells it, or an empty text."""
    return _cpuinfo("model name")


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 itself: AVX512-BF16, AMX, or Arm's extension.

    Where it does not, oneDNN imitates it, slower than float32.
    """
    flags = f"{_cpuinfo('flags')} {_cpuinfo('Features')}".split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _cpuinfo(key: str) -> str:
    """What the kernel says of the first processor under `key`, or an empty text."""
    with contextlib.suppress(OSError), CPUINFO.open(encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


#: The GPU that this process has locked, by its lock file.
_HELD: dict[Path, int] = {}


def lock_gpu(count: int, say: Callable[[str], None]) -> int:
    """The number of a GPU of `count` that no other job of this user has, locked until this process
    ends; 0 without a lock where there is one alone, or CUDA_VISIBLE_DEVICES says which are ours.

    Where all are taken, waits for one, and says so.
    """
    if count == 1 or "CUDA_VISIBLE_DEVICES" in os.environ:
        return 0
    waiting = False
    while True:
        for index in range(count):
            path = Path(tempfile.gettempdir(), f"scanmill-{os.getuid()}-gpu-{index}.lock")
            if path in _HELD:  # A training validates: one process, one GPU.
                return _HELD[path]
            # Left open, and not passed on to the processes that this one starts.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _HELD[path] = index
                return index
            except BlockingIOError:
                os.close(lock)
        if not waiting:
            say(f"all {count} GPUs are taken by other jobs; waiting for one")
        waiting = True
        time.sleep(1)

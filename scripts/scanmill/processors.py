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


#: The GPUs that this process has locked, and their lock files.
_HELD: dict[int, int] = {}


def lock_gpus(count: int, wanted: int, say: Callable[[str], None]) -> list[int]:
    """The numbers of `wanted` GPUs of `count` that no other job of this user has, locked until this
    process ends; the first ones without a lock where there is one alone, or CUDA_VISIBLE_DEVICES says
    which are ours.

    Where too few are free, waits for them, and says so; it takes none before it can have all.
    """
    if count == 1 or "CUDA_VISIBLE_DEVICES" in os.environ:
        return list(range(wanted))
    waiting = False
    while True:
        taken: dict[int, int] = {}
        for index in range(count):
            # What this process has, it keeps: a training validates.
            if index in _HELD or len(_HELD) + len(taken) >= wanted:
                continue
            path = Path(tempfile.gettempdir(), f"scanmill-{os.getuid()}-gpu-{index}.lock")
            # Left open, and not passed on to the processes that this one starts.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[index] = lock
            except BlockingIOError:
                os.close(lock)
        if len(_HELD) + len(taken) >= wanted:
            _HELD.update(taken)
            return sorted(_HELD)[:wanted]
        for lock in taken.values():
            os.close(lock)
        if not waiting:
            say(f"other jobs have the GPUs: waiting for {wanted} of {count}")
        waiting = True
        time.sleep(1)

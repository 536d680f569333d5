"""What the machine has: GPUs that jobs share out among themselves, arithmetic of the processor."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from scanmill import processors
from scanmill.processors import has_bfloat16, lock_gpus

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """Locks of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(processors.tempfile, "tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processors, "_HELD", {})
    return tmp_path


def start_job(count, wanted=1):
    """Another process that takes GPUs, says which, and keeps them until it is ended."""
    program = f"""
        import sys, time
        sys.path.insert(0, {str(SCRIPTS)!r})
        from scanmill.processors import lock_gpus
        print(*lock_gpus({count}, {wanted}, lambda text: print(text, flush=True)), flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_each_job_takes_a_gpu_of_its_own(locks):
    jobs = [start_job(2)]
    try:
        assert jobs[0].stdout.readline() == "0\n"
        jobs.append(start_job(2))
        assert jobs[1].stdout.readline() == "1\n"
        jobs.append(start_job(2))
        assert jobs[2].stdout.readline() == "other jobs have the GPUs: waiting for 1 of 2\n"
        time.sleep(0.2)
        jobs[1].kill()
        assert jobs[2].stdout.readline() == "1\n"
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    # A process that asks again, as a training that validates, keeps the one that it has.
    assert [lock_gpus(2, 1, pytest.fail) for _ in range(3)] == [[0], [0], [0]]


def test_job_of_several_gpus_takes_none_before_it_can_have_all(locks):
    jobs = [start_job(3)]
    try:
        assert jobs[0].stdout.readline() == "0\n"
        jobs.append(start_job(3, 3))
        assert jobs[1].stdout.readline() == "other jobs have the GPUs: waiting for 3 of 3\n"
        jobs.append(start_job(3, 2))
        assert jobs[2].stdout.readline() == "1 2\n"
        jobs[2].kill()
        jobs[0].kill()
        assert jobs[1].stdout.readline() == "0 1 2\n"
    finally:
        for job in jobs:
            job.kill()
            job.wait()
    assert lock_gpus(3, 2, pytest.fail) == [0, 1]
    assert lock_gpus(3, 1, pytest.fail) == [0]
    assert lock_gpus(3, 3, pytest.fail) == [0, 1, 2]


def test_one_gpu_and_chosen_ones_are_not_locked(locks, monkeypatch):
    assert lock_gpus(1, 1, pytest.fail) == [0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert lock_gpus(2, 1, pytest.fail) == [0]
    assert list(locks.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 sve\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_processor_says_whether_it_has_bfloat16(tmp_path, monkeypatch, said, expected):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + said)
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "cpuinfo")
    assert has_bfloat16() == expected

"""Experiments through their script: killed and repeated, nothing is trained twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_experiments.py"
ARMS = ("mask", "faster", "start")
RUNS = [f"{arm}-{seed}" for seed in range(2) for arm in ARMS]
SMALL = [
    *("SOLVER.IMS_PER_BATCH", "2", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "60"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"),
]
#: Enough for any run here on a machine that is busy with something else.
PATIENCE = 300


def start(folder):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--output", "out"]
    command += ["--pages", "4", "2", "2", "--seeds", "2", "--iterations", "2", "--size", "96"]
    return subprocess.Popen(
        [*command, *SMALL],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return output, said


def kill(process):
    """The script and its loaders."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_killed_experiment_goes_on_and_nothing_is_trained_twice(tmp_path):
    out = tmp_path / "out"
    first = start(tmp_path)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (out / "results.json").exists():
            assert first.poll() is None, first.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        kill(first)
    done = {path.stem: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}
    assert 0 < len(done) < len(RUNS)
    models = {name: (out / "models" / name / "model.json").stat().st_mtime_ns for name in done}

    output, said = finish(start(tmp_path))
    for name in RUNS:
        assert (f"model {name} is in place" in said) == (name not in done), said
    for name, modified in models.items():
        assert (out / "models" / name / "model.json").stat().st_mtime_ns == modified
    assert output == (out / "results.md").read_text()
    for heading in ("### Masks help boxes", "### `start` against `mask`"):
        assert heading in output
    results = json.loads((out / "results.json").read_text())
    runs = results["runs"]
    assert [f"{each['arm']}-{each['seed']}" for each in runs] == RUNS
    assert all(each["curve"][-1][0] == 2 and "box_AP" in each["metrics"] for each in runs)
    assert results["masks"][0]["seeds"] == results["start"][0]["seeds"] == [0, 1]
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob("training/*/*/last.pth"))

"""The benchmark measures what it says, on a few pages."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_benchmark_measures_every_way_to_detect(tmp_path):
    command = [sys.executable, ROOT / "scripts/benchmark.py", "--pages", "3", "--repeat", "1"]
    command += ["--default-pages", "1", "--batch-sizes", "1", "2", "--device", "cpu", "--workflow"]
    command += ["--json", tmp_path / "figures.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pages"] == 3
    assert figures["device"].startswith("cpu")
    assert [run["batch_size"] for run in figures["runs"]] == [1, 2]
    for run in figures["runs"]:
        base = figures["a_default_predictor"]
        assert base > 0
        assert run["c_over_a"] == run["c_engine"] / base
        assert run["c_over_b"] == run["c_engine"] / run["b_forward"]
        assert run["gpu_busy"] is None
        stages = run["stages_ms_per_page"]
        inside = ("normalize", "backbone", "rpn", "heads", "masks")
        assert stages["forward"] >= sum(stages[name] for name in inside) > 0
        assert min(stages[name] for name in ("decode", "resize", "outlines", "rows")) > 0
        assert run["peak_gb"]["process"] > 0.2
    assert figures["d_workflow"] > 0
    for part in ("(a) DefaultPredictor", "(b) forward pass", "(c) page images", "(d) whole"):
        assert part in done.stdout

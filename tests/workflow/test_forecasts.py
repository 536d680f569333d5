"""A forecast is made of nothing but the plan, changes nothing, and comes true."""

import re
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, Finished, contents, planned_jobs, rows, write_archive


def forecast(directory, *options):
    command = [sys.executable, REPOSITORY / "scripts/forecast_run.py", "--directory", directory]
    done = subprocess.run(
        [*command, "--cores", "2", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def disk(text):
    """What -> files, bytes, of the forecast's table."""
    table = text.partition("Disk in the end")[2].partition("\n\n")[0]
    lines = re.findall(r"^  (.+?) +(\d+) +([\d.e+]+) (\w+)$", table, re.MULTILINE)
    power = {"B": 1, "KB": 1e3, "MB": 1e6}
    return {what: (int(files), float(size) * power[unit]) for what, files, size, unit in lines}


def test_a_forecast_comes_true(tmp_path):
    planned = Finished(tmp_path / "archive", tmp_path / "run")
    write_archive(planned.archive)
    planned.settings(detection={"device": "cpu"})
    planned.run(target="plan")
    before = contents(planned.directory, "**/*")

    said = forecast(planned.directory, "--gpus", "3")
    left = contents(planned.directory, "**/*")
    assert {name for name in left if left[name] != before.get(name)} == set()
    assert not list(planned.directory.glob(".forecast-*"))
    assert "Pages: 8, all counted\n" in said
    assert "Documents that do not open: 1\n" in said
    assert "Tried: 8 pages of 5 documents, 0 failed; detection on cpu" in said
    assert "No GPU was measured, but a CPU" in said
    assert re.search(r"on 3 machines, each with 2 cores: [\d.]+ (s|min)\n", said)
    for stage in ("page images", "detection", "regions", "crops"):
        assert re.search(rf"^  {stage} +2 +\d+\.\d s", said, re.MULTILINE), said

    profile = tmp_path / "profile"
    profile.mkdir()
    block = said[said.index("set-resources:") :]
    assert yaml.safe_load(block)["set-resources"].keys() >= {"render_pages", "detect_layout"}
    (profile / "config.yaml").write_text(block)
    jobs = planned_jobs(planned.directory, *planned.config, "--profile", profile)
    assert jobs["render_pages"] == 2

    planned.run()
    pages = rows(planned.directory, "pages", "page", "status")
    assert len([row for row in pages if row["page"]]) == 8
    results = planned.directory / "results"
    patterns = {
        "page images": ["store/**/images/[0-9]*"],
        "tables by page": ["store/**/regions/[0-9]*"],
        "crops": ["store/**/crops.parquet"],
        "tables": ["*/[0-9]*.parquet", "*.parquet"],
    }
    for what, (files, size) in disk(said).items():
        if what in patterns:
            found = [path for each in patterns[what] for path in results.glob(each)]
            assert files == pytest.approx(len(found), abs=2 * (what == "tables"))
            assert size == pytest.approx(sum(path.stat().st_size for path in found), rel=0.2), what
    stored = [path for path in results.glob("store/**/*") if path.is_file()]
    together = sum(
        files for what, (files, _) in disk(said).items() if what not in ("tables", "together")
    )
    assert together == pytest.approx(len(stored), abs=1)

    said = forecast(planned.directory)
    assert "Done already: 8 pages\n" in said
    assert "Nothing is left to try" in said

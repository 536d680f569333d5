"""Results that were simulated are those that a run would have made."""

import subprocess
import sys

from conftest import PATIENCE, REPOSITORY, planned_jobs, rows, run_workflow

from scanmill.simulation import page_pdf

ADDED = "collection-000/1700/added.pdf"


def tool(name, *arguments):
    command = [sys.executable, REPOSITORY / f"scripts/{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_simulated_archive_is_finished_and_takes_another_document(tmp_path):
    # Two shards of 16 and one that has room.
    simulate = ("--output", tmp_path, "--documents", "40", "--finished", "--stored-shards", "3")
    tool("simulate_archive", *simulate)
    directory, archive = tmp_path / "run", tmp_path / "archive"
    config = ("--config", f"archive={archive}")
    assert planned_jobs(directory, "all", *config) == {}
    assert "40 of 40 documents" in tool("verify_results", "--directory", directory)
    assert len(rows(directory, "documents.parquet")) == 40
    (archive / ADDED).write_bytes(page_pdf())
    run = run_workflow(directory, "all", *config)
    stages = ("render_pages", "detect_layout", "select_regions", "crop_regions")
    assert run.made == {stage: {ADDED} for stage in stages}
    assert {len(shards) for rule, shards in run.jobs.items() if rule in stages} == {1}
    # What was simulated is what that run made, but for the name.
    regions = rows(directory, "regions")
    made = [{**row, "document": None} for row in regions if row["document"] == ADDED]
    first = [
        {**row, "document": None} for row in regions if row["document"].endswith("0000001.pdf")
    ]
    assert made
    assert made == first

"""Every stage has a target; each is asked for in a fresh folder."""

import pytest
from conftest import SMALL, demo, run_workflow, write_settings

RENDER = {"plan_shards", "render_pages"}
DETECT = RENDER | {"fetch_model", "detect_layout"}
RULES = {  # `all` is what nearly every other test asks for.
    "plan": {"plan_shards"},
    "images": RENDER,
    "models": {"fetch_model"},
    "detections": DETECT,
    "regions": DETECT | {"select_regions"},
    "crops": DETECT | {"select_regions", "crop_regions"},
    # Who asks for it gets it, `ocr.enabled` or not.
    "ocr": DETECT | {"select_regions", "crop_regions", "recognize_text"},
}
MADE = {
    "plan": "shards/00000.tsv",
    "images": "images/00000.parquet",
    "models": "models/scanmill-layout/model.json",
    "detections": "detections/00000.parquet",
    "regions": "regions/00000.parquet",
    "crops": "crops/00000.parquet",
    "ocr": "ocr/00000.parquet",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    demo.write_vector_pdf(folder / "page.pdf", 1, 1, SMALL)
    return folder


@pytest.mark.parametrize("target", RULES)
def test_a_target_makes_its_stage_and_what_that_needs(archive, tmp_path, target):
    write_settings(tmp_path)
    run = run_workflow(tmp_path, target, "--config", f"archive={archive}")
    assert run.jobs.keys() == RULES[target]
    assert (tmp_path / "results" / MADE[target]).exists()


def test_a_dry_run_says_that_there_is_no_plan_yet(archive, tmp_path):
    write_settings(tmp_path)
    config = ("--config", f"archive={archive}")
    dry_run = (tmp_path, "crops", *config, "--dry-run")
    assert run_workflow(*dry_run).output.count("Not planned yet") == 1
    run_workflow(tmp_path, "plan", *config)
    planned = run_workflow(*dry_run).output
    assert "Not planned yet" not in planned
    assert "render_pages" in planned

"""From folders of texts and pictures to a model, by one call: pages are made, once, and trained on."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, run_workflow

sys.path.append(str(REPOSITORY / "tests/unit"))
import typeset
from typeset import needs_chromium


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("materials")
    tiny = [
        *("INPUT.MIN_SIZE_TRAIN", [160], "INPUT.MAX_SIZE_TRAIN", 280),
        *("INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 280),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
        *("SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_PERIOD", 3),
    ]
    given = yaml.safe_load((REPOSITORY / "config/shipped-model.yaml").read_text())
    given["synthesis"] |= {
        "texts": [str(typeset.write_texts(folder / "texts"))],
        "translations": [],
        "pictures": [str(typeset.write_pictures(folder / "pictures"))],
        "train": 40,
        "val": 3,
        "test": 3,
    }
    given["training"]["overrides"] = tiny
    given["detection"] = {"device": "cpu"}
    return given


@needs_chromium
def test_the_shipped_models_settings_make_pages_and_a_model_of_them(tmp_path, settings):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run = run_workflow(tmp_path, "train")
    assert {"gather_materials", "synthesize_pages", "prepare_dataset", "train_detector"} <= set(
        run.jobs
    )
    results = tmp_path / "results"
    pages = {
        path.stem: len(json.loads(path.read_text())["images"])
        for path in sorted((results / "synthesis").glob("*.json"))
    }
    assert pages == {"train-000": 40, "val-000": 3, "test-000": 3}
    for split, count in (("train", 40), ("val", 3), ("test", 3)):
        assert len(json.loads((results / f"dataset/{split}.json").read_text())["images"]) == count
    card = json.loads((results / "models/scanmill-layout-again/model.json").read_text())
    assert card["classes"] == ["text", "title", "list", "table", "figure"]
    assert card["color"] == "grey"
    assert (results / "evaluation/scanmill-layout-again/report.html").exists()

    again = run_workflow(tmp_path, "train")
    assert not again.jobs

    # More pages are made beside those that are there, which stay.
    before = (results / "synthesis/train-000.json").stat().st_mtime_ns
    settings["synthesis"]["test"] = 4
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    more = run_workflow(tmp_path, "synthesis")
    assert set(more.jobs) == {"synthesize_pages"}
    assert (results / "synthesis/train-000.json").stat().st_mtime_ns == before


@needs_chromium
def test_without_texts_the_run_says_which_settings_to_look_at(tmp_path, settings):
    settings = {
        **settings,
        "synthesis": {**settings["synthesis"], "texts": [str(Path("/nowhere"))]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run = run_workflow(tmp_path, "synthesis", ok=False)
    assert run.code
    assert "synthesis.texts" in run.output

"""Models of the registry through Snakemake, and the tools that use models without it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
import yaml
from conftest import (
    DOCUMENTS,
    PATIENCE,
    REPOSITORY,
    contents,
    planned_jobs,
    rows,
    run_workflow,
    tables,
    write_settings,
)

sys.path.insert(0, str(REPOSITORY / "tests" / "unit"))

from mirrors import running_mirrors
from scores import between

SHIPPED = REPOSITORY / "models" / "scanmill-layout"
CLASSES = ["text", "title", "list", "table", "figure"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The shipped model as a trainer of Detectron2 leaves one."""
    path = tmp_path_factory.mktemp("published") / "model_final.pth"
    weights = safetensors.torch.load_file(SHIPPED / "model.safetensors")
    torch.save({"model": {k: v.float() for k, v in weights.items()}, "iteration": 9}, path)
    return path


@pytest.fixture
def mirrors(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_mirrors() as server:
        yield server


def register(directory, **entry):
    """An entry `mine` in the registry of a working directory."""
    shutil.copyfile(SHIPPED / "config.yaml", directory / "layout.yaml")
    known = {"config": "layout.yaml", "classes": CLASSES, "color": "grey", "licence": "CC0-1.0"}
    (directory / "models.yaml").write_text(yaml.safe_dump({"mine": known | entry}))


def card(directory):
    return json.loads((directory / "results/models/mine/model.json").read_text())


def test_model_of_the_registry_is_fetched_once_and_detects(finished, mirrors, checkpoint):
    """It is the shipped one in another place: the same regions."""
    before = rows(finished.directory, "regions")
    gone = mirrors.address("/gone.pth")
    good = mirrors.add("/model_final.pth", checkpoint.read_bytes()) + "?download=true"
    register(finished.directory, weights=[gone, good])
    finished.settings(model="mine")
    assert planned_jobs(finished.directory, "models", *finished.config) == {
        "fetch_model": 1,
        "models": 1,
    }
    assert not mirrors.requests
    run = finished.run()
    assert set(run.jobs) >= {"fetch_model", "detect_layout"}
    assert "render_pages" not in run.made
    assert run.made["detect_layout"] == DOCUMENTS
    assert f"{gone} answered 404" in run.output
    assert "nobody has published a sha256 for mine: from now on it is" in run.output
    assert card(finished.directory)["provenance"]["weights"] == good
    assert rows(finished.directory, "regions") == before
    kept = tables(finished.directory)
    assert finished.run().jobs == {}
    # Another licence, another mirror: the same model.
    register(finished.directory, weights=[good], licence="MIT")
    assert finished.run().jobs == {}
    assert tables(finished.directory) == kept
    assert len(mirrors.requests) == 2


def test_model_stays_where_its_weights_are_others_by_now(tmp_path, mirrors, checkpoint):
    run = tmp_path / "run"
    write_settings(run, model="mine", archive=str(tmp_path / "archive"))
    (tmp_path / "archive").mkdir()
    good = mirrors.add("/model_final.pth", checkpoint.read_bytes())
    register(run, weights=[good])
    run_workflow(run, "models")
    before = contents(run, "results/models/mine/*")
    assert len(before) == 3

    weights = torch.load(checkpoint)
    torch.save({"model": {k: v * 2 for k, v in weights["model"].items()}}, tmp_path / "other.pth")
    mirrors.files["/model_final.pth"] = (tmp_path / "other.pth").read_bytes()
    shutil.rmtree(run / "models" / "downloads")
    failed = run_workflow(run, "models", "--forcerun", "fetch_model", ok=False)
    assert "The weights of mine are not those of the first time: their sha256 is" in failed.output
    assert contents(run, "results/models/mine/*") == before

    shutil.rmtree(run / "models" / "downloads")
    mirrors.ways["/model_final.pth"] = "page"
    mirrors.files["/model_final.pth"] = b"<html><title>Deleted</title></html>"
    failed = run_workflow(run, "models", "--forcerun", "fetch_model", ok=False)
    assert 'is a web page ("Deleted"), not weights' in failed.output
    place = run / "models" / "downloads" / "mine.pth"
    assert f"by hand, put it here as {place}, and run the same command again" in failed.output
    assert contents(run, "results/models/mine/*") == before

    shutil.copyfile(checkpoint, place)
    run_workflow(run, "models", "--forcerun", "fetch_model")
    assert run_workflow(run, "models").jobs == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mime"}, "There is no model `mime`.*Did you mean mine?"),
        ({"model": "ImageNet-R-50"}, "ImageNet-R-50 is a backbone"),
        ({"model": "mine", "crops": {"classes": ["tables"]}}, "tables"),
    ],
)
def test_mistake_is_told_before_anything_is_fetched(tmp_path, mirrors, settings, message):
    run = tmp_path / "run"
    write_settings(run, archive=str(tmp_path), **settings)
    register(run, weights=[mirrors.add("/model_final.pth", b"")])
    output = run_workflow(run, "models", ok=False).output
    for part in message.split(".*"):
        assert part in output
    assert not mirrors.requests


# Without the workflow -----------------------------------------------------------------------------


def tool(directory, name, *arguments, ok=True):
    """A tool, called in a directory; returns what it said on stdout and stderr."""
    line = [sys.executable, REPOSITORY / "scripts" / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(
        line, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, env=os.environ
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def pages(undisturbed, tmp_path):
    """Page images of the finished run, as files."""
    table = pyarrow.parquet.read_table(undisturbed.directory / "results/images")
    images = [row["image"] for row in table.to_pylist() if row["image"]][:3]
    (tmp_path / "pages").mkdir()
    paths = []
    for number, image in enumerate(images, 1):
        path = tmp_path / "pages" / f"{number}{Path(image).suffix}"
        shutil.copyfile(undisturbed.directory / "results" / image, path)
        paths.append((path, image))
    return paths


def test_prediction_is_what_the_workflow_finds(undisturbed, pages, tmp_path):
    table = rows(undisturbed.directory, "regions")
    images = {row["image"]: row for row in rows(undisturbed.directory, "pages")}
    inputs = [path.relative_to(tmp_path) for path, _ in pages]
    report = tmp_path / "out" / "report.json"
    options = ["--input", *inputs, "--output", report, "--draw", "drawn"]
    _, said = tool(tmp_path, "predict", "--model", "scanmill-layout", *options)
    found = json.loads(report.read_text())
    assert found["model"]["classes"] == CLASSES
    assert [each["image"] for each in found["images"]] == [str(path) for path in inputs]
    for each, (_, image) in zip(found["images"], pages, strict=True):
        page = images[image]
        expected = [
            row
            for row in table
            if (row["document"], row["page"]) == (page["document"], page["page"])
        ]
        assert (each["width"], each["height"]) == (page["width"], page["height"])
        assert [(r["region"], r["class"], r["polygon"]) for r in each["regions"]] == [
            (r["region"], r["class_name"], r["polygon"]) for r in expected
        ]
        for region, row in zip(each["regions"], expected, strict=True):
            assert region["score"] == pytest.approx(row["score"], abs=1e-6)
            assert region["box"][0] == pytest.approx(row["x_min"], abs=1e-3)
    assert f"3 images, {sum(len(each['regions']) for each in found['images'])} regions" in said
    drawn = cv2.imread(str(tmp_path / "drawn" / "1.jpg"))
    assert drawn.shape[:2] == (found["images"][0]["height"], found["images"][0]["width"])


def test_prediction_as_detectron2_names_models(undisturbed, pages, checkpoint, tmp_path):
    """A config, MODEL.WEIGHTS, KEY VALUE; without --output, the JSON goes to stdout."""
    shutil.copyfile(SHIPPED / "config.yaml", tmp_path / "x.yaml")
    (path, name), *_ = pages
    [page] = [row for row in rows(undisturbed.directory, "pages") if row["image"] == name]
    known = [
        row["score"]
        for row in rows(undisturbed.directory, "regions")
        if (row["document"], row["page"]) == (page["document"], page["page"])
    ]
    least = between(known)
    out, _ = tool(
        tmp_path,
        "predict",
        *("--config-file", "x.yaml", "--input", path, "--classes", *CLASSES, "--device", "cpu"),
        *("MODEL.WEIGHTS", checkpoint, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", least),
    )
    [image] = json.loads(out)["images"]
    found = sorted(region["score"] for region in image["regions"])
    assert found == pytest.approx(sorted(score for score in known if score > least), abs=1e-6)
    _, said = tool(
        tmp_path,
        "predict",
        "--config-file",
        "x.yaml",
        "--input",
        path,
        "INPUT.SEEED",
        "1",
        ok=False,
    )
    assert "error: Detectron2 has no key INPUT.SEEED." in said


def test_image_that_failed_is_told_and_the_others_are_done(pages, tmp_path):
    (path, _), *_ = pages
    (tmp_path / "bad.jpg").write_text("text")
    out, said = tool(
        tmp_path,
        "predict",
        "--model",
        "scanmill-layout",
        "--input",
        "bad.jpg",
        path,
        "none.png",
        ok=False,
    )
    assert [each["status"] for each in json.loads(out)["images"]] == ["failed", "ok", "failed"]
    assert "bad.jpg failed: " in said
    assert "none.png failed: No such file" in said


def test_model_that_cannot_be_fetched_is_explained(mirrors, pages, tmp_path):
    register(tmp_path, weights=[mirrors.address("/gone.pth")])
    (path, _), *_ = pages
    _, said = tool(tmp_path, "predict", "--model", "mine", "--input", path, ok=False)
    assert "answered 404" in said
    assert f"put it here as {tmp_path / 'models' / 'downloads' / 'mine.pth'}" in said


def test_models_are_listed(checkpoint, tmp_path):
    size = round(checkpoint.stat().st_size / 1e6, 1)
    register(tmp_path, weights=[str(checkpoint)], size_mb=size, quality="AP 12")
    out, _ = tool(REPOSITORY, "list_models", "--directory", tmp_path)
    assert "scanmill-layout  [here: " in out
    assert f"mine  [to be fetched, {size} MB]" in out
    assert "quality: AP 12" in out
    assert "PubLayNet-mask_rcnn_X_101_32x8d_FPN_3x  [to be fetched, 856 MB]" in out
    assert "5 classes: Text, Title, List, Table, Figure" in out
    assert "107.4 million parameters" in out
    assert "80 classes: person, bicycle" in out
    assert "a backbone, to train detectors from" in out
    out, _ = tool(tmp_path, "predict", "--model", "mine", "--input", "none.png", ok=False)
    out, _ = tool(tmp_path, "list_models", "mine")
    assert out.startswith("mine  [here: models/mine]")
    assert "scanmill-layout" not in out
    _, said = tool(tmp_path, "list_models", "x-y", ok=False)
    assert "error: No model is called so. There are mine, scanmill-layout, PubLayNet" in said


def test_checkpoint_becomes_a_model_folder(checkpoint, finished, tmp_path):
    target = finished.directory / "models" / "converted"
    options = [
        "--weights",
        checkpoint,
        "--config-file",
        SHIPPED / "config.yaml",
        "--output",
        target,
    ]
    tool(tmp_path, "convert_model", *options, "--classes", *CLASSES, "--color", "grey", "--half")
    stored = safetensors.torch.load_file(target / "model.safetensors")
    shipped = safetensors.torch.load_file(SHIPPED / "model.safetensors")
    assert all(torch.equal(stored[name], shipped[name]) for name in shipped)
    finished.settings(model="converted")
    before = rows(finished.directory, "regions")
    assert "detect_layout" in finished.run().jobs
    assert rows(finished.directory, "regions") == before
    _, said = tool(tmp_path, "convert_model", *options, "--classes", *CLASSES, ok=False)
    assert "is there already" in said
    shutil.rmtree(target)
    _, said = tool(tmp_path, "convert_model", *options, "--classes", "a", "b", ok=False)
    assert "names 2 classes, but" in said
    assert not target.exists()

"""A forecast begins with what is known of a working directory: plan, settings, what is done."""

import os
import shutil

import numpy as np
import pytest
import yaml
from finished_run import DOCUMENTS, GOOD, STAGES, directory, finished, plan, tool
from rendered import write_pages

from scanmill import forecast_job
from scanmill.archive import list_archive
from scanmill.errors import UserError
from scanmill.maintenance import forget_results, read_plan
from scanmill.trial import _link_model

__all__ = ["directory", "finished"]


def settings_of(tmp_path, **overrides):
    path = tmp_path / "results" / "settings.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(overrides))
    return forecast_job.find_settings(tmp_path, None)


# Plan and settings --------------------------------------------------------------------------------


def test_without_a_plan_the_command_that_makes_it_is_said(tmp_path):
    with pytest.raises(UserError, match="--config archive=/path/to/scans") as error:
        forecast_job.find_plan(tmp_path)
    assert f"snakemake plan --cores 1 --directory {tmp_path}" in str(error.value)
    (tmp_path / "config.yaml").write_text("archive: /scans\n")
    with pytest.raises(UserError, match=rf"--directory {tmp_path}$"):
        forecast_job.find_plan(tmp_path)
    settings_of(tmp_path, archive={"path": "/scans"})
    with pytest.raises(UserError, match=r"--configfile .*settings\.yaml$"):
        forecast_job.find_plan(tmp_path)
    said = tool("forecast_run", tmp_path)
    assert said.returncode == 1
    assert said.stderr.startswith("error: There is no plan in")


def test_the_settings_are_those_of_the_last_call_and_of_the_configfile(tmp_path):
    (tmp_path / "config.yaml").write_text("images: {dpi: 100, jpeg_quality: 50}\n")
    more = tmp_path / "more.yaml"
    more.write_text("crops: {store: files}\n")
    assert forecast_job.find_settings(tmp_path, None)["images"]["dpi"] == 100
    settings_of(tmp_path, images={"dpi": 200})
    settings = forecast_job.find_settings(tmp_path, more)
    assert settings["images"]["dpi"] == 200
    assert settings["images"]["jpeg_quality"] == 50
    assert settings["crops"]["store"] == "files"
    assert settings["crops"]["padding"] == 8


def test_options_that_cannot_be_are_refused(tmp_path):
    for options in (("--sample", "0"), ("--cores", "0"), ("--gpus", "2", "0")):
        said = tool("forecast_run", tmp_path, *options)
        assert said.returncode == 2
        assert f"{options[0]} must be at least 1" in said.stderr


# What is done -------------------------------------------------------------------------------------


def left(directory):
    results = directory / "results"
    found = forecast_job.left_to_do(results, read_plan(results), STAGES)
    return {stage: {DOCUMENTS[i] for i in np.flatnonzero(own)} for stage, own in found.items()}


def every(*documents):
    return {stage: set(documents) for stage in STAGES}


def test_nothing_is_left_of_a_finished_run_and_everything_of_a_plan(finished, tmp_path):
    assert left(finished) == every()
    plan(tmp_path)
    assert left(tmp_path) == every(*DOCUMENTS)


def test_what_was_forgotten_is_left(directory):
    forget_results(directory, {("detections", "00000"): ["box"]})
    assert left(directory) == every() | {"detections": {"box"}}


def test_a_document_that_joins_a_finished_shard_is_left(directory):
    os.utime(directory / "results" / "shards" / "00001.tsv")
    shutil.rmtree(directory / "results" / "store" / "bad.pdf")
    assert left(directory) == every("bad.pdf")


def test_pages_of_what_is_done_are_read_from_the_tables(finished):
    results = finished / "results"
    known = forecast_job.known_pages(results, read_plan(results))
    assert known == dict.fromkeys([*GOOD, "bad.pdf"], 2)


def test_counted_documents_stand_for_those_of_their_stratum_that_were_not():
    pages = np.array([5.0, 10, 30, 0, 7])
    counted = np.array([True, True, False, True, True])
    weights = forecast_job.sample_weights(pages, counted, np.arange(4), np.array([0, 0, 0, 1]))
    # 45 pages of the first stratum, 15 of them counted; the last document was known before.
    assert list(weights) == [3, 3, 0, 0, 1]


def test_documents_are_counted_and_what_is_no_document_has_no_pages(tmp_path):
    archive, results = tmp_path / "archive", tmp_path / "run" / "results"
    archive.mkdir()
    for name, count in (("a.pdf", 4), ("b.pdf", 2)):
        write_pages(archive / name, count)
    (archive / "c.pdf").write_text("nothing")
    (archive / "d.pdf").symlink_to("/nowhere/d.pdf")
    settings = settings_of(results.parent, archive={"path": str(archive)})
    documents = list_archive(archive, settings["archive"]).documents
    found = forecast_job.look_at(results, {"00000": documents}, archive, settings, 1)
    assert list(found.pages.expected) == [4, 2, 0, 0]
    assert (found.pages.low, found.pages.high, found.pages.unopened) == (6, 6, 2)
    assert list(found.weights) == [1, 1, 0, 0]
    assert found.counted.all()


def test_when_time_is_up_the_others_are_estimated(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast_job, "COUNTING", 0)
    monkeypatch.setattr(forecast_job, "AT_LEAST", 4)
    archive, results = tmp_path / "archive", tmp_path / "run" / "results"
    archive.mkdir()
    truth = [1 + number * 7 % 12 for number in range(90)]
    for number, count in enumerate(truth):
        write_pages(archive / f"{number:02d}.pdf", count)
    settings = settings_of(results.parent, archive={"path": str(archive)})
    documents = list_archive(archive, settings["archive"]).documents
    found = forecast_job.look_at(results, {"00000": documents}, archive, settings, 2)
    assert np.count_nonzero(found.counted) == 8 * 4
    assert found.pages.low < sum(truth) < found.pages.high
    assert found.archive.pages.sum() == pytest.approx(sum(truth), rel=0.1)
    assert found.archive.pages[found.counted] == pytest.approx(np.array(truth)[found.counted])
    # The sample is of those that were counted, which stand for all.
    assert not found.weights[~found.counted].any()
    assert found.weights @ found.archive.pages == pytest.approx(found.archive.pages.sum())


# The trial's model --------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path):
    folder = tmp_path / "trial"
    folder.mkdir()
    return folder


def make_model(folder):
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")


def test_the_trial_has_the_model_of_the_working_directory(tmp_path, trial):
    make_model(tmp_path / "models" / "mine")
    _link_model(tmp_path, trial, settings_of(tmp_path, model="mine"))
    assert (trial / "models" / "mine").resolve() == tmp_path / "models" / "mine"


def test_a_model_that_was_made_by_the_run_is_used(tmp_path, trial):
    settings = settings_of(tmp_path, model="mine", training={"name": "mine"})
    with pytest.raises(UserError, match=r"still to be trained.*snakemake models --cores all"):
        _link_model(tmp_path, trial, settings)
    shutil.rmtree(trial / "models")
    make_model(tmp_path / "results" / "models" / "mine")
    _link_model(tmp_path, trial, settings)
    assert (trial / "models" / "mine" / "model.json").exists()


def test_what_is_fetched_for_the_trial_stays_for_the_run(tmp_path, trial):
    name = "PubLayNet-mask_rcnn_R_50_FPN_3x"
    _link_model(tmp_path, trial, settings_of(tmp_path, model=name))
    (trial / "models" / "downloads" / "part").touch()
    assert (tmp_path / "models" / "downloads" / "part").exists()

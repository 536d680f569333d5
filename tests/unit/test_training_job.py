"""From annotated pages to a model folder: configs, judging, classes by name."""

import os

import pytest
import safetensors.torch
import torch
from detecting import SHIPPED, SIZES

from scanmill import training_job
from scanmill.errors import UserError
from scanmill.model_folders import read_card
from scanmill.training_job import (
    TrainingJob,
    _base_config,
    _color,
    _digest,
    _take_gpus,
    _visible,
    find_start,
)

CLASSES = ["text", "title", "list", "table", "figure"]


def job(**changed):
    plain = TrainingJob("mine", {"train": {}, "val": {}}, SHIPPED, None, (), 1)
    return plain._replace(**changed)


def test_config_is_that_of_the_model_to_start_from_or_the_one_that_is_named():
    card = read_card(SHIPPED)
    own = _base_config(job(overrides=("SEED", 3)), card)
    assert own.SEED == 3
    assert [own.INPUT[f"{side}_SIZE_TEST"] for side in ("MIN", "MAX")] == list(SIZES)
    named = _base_config(job(config="mask_rcnn_R_50_FPN_3x.yaml", start=None), None)
    assert named.MODEL.RESNETS.DEPTH == 50
    with pytest.raises(UserError, match=r"training\.config is not set"):
        _base_config(job(start=None), None)
    with pytest.raises(UserError, match=r"training\.config is not set"):
        _base_config(job(), {**card, "kind": "backbone"})
    wrong = ("MODEL.PIXEL_STD", [57.375, 57.12, 58.395])
    with pytest.raises(UserError, match="the backbone ImageNet-R-50 needs"):
        _base_config(job(config="mask_rcnn_R_50_FPN_3x.yaml", overrides=wrong), card)


def test_a_detector_that_learns_from_grey_pages_alone_is_shown_grey_pages():
    grey, mixed = ({"images": [{"grey": True}, {"grey": each}]} for each in (True, False))
    card = read_card(SHIPPED)
    assert _color(None, grey) == "grey"
    assert _color(None, mixed) == _color({**card, "kind": "backbone"}, mixed) == "config"
    assert _color({**card, "kind": "backbone"}, grey) == "grey"
    assert _color(card, mixed) == "grey"
    assert _color({**card, "color": "config"}, grey) == "config"


def test_weights_of_a_config_become_a_model_to_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(SHIPPED / "config.yaml")

    def start(weights, classes=CLASSES):
        return find_start(config, ("MODEL.WEIGHTS", weights), classes, tmp_path / "start")

    assert start("") is None
    assert start("scanmill-layout") == start(str(SHIPPED)) == SHIPPED
    tensors = safetensors.torch.load_file(SHIPPED / "model.safetensors")
    torch.save({"model": tensors, "iteration": 7}, tmp_path / "model_final.pth")
    assert read_card(start("model_final.pth"))["classes"] == CLASSES
    # Of other classes nothing is known but their number: they are drawn anew.
    other = read_card(start("model_final.pth", ["letter", "seal"]))
    assert other["classes"] == [f"class {i}" for i in range(5)]
    named = "backbone.bottom_up."
    body = {k.removeprefix(named): v for k, v in tensors.items() if k.startswith(named)}
    torch.save(body, tmp_path / "R-18.pth")
    assert read_card(start("R-18.pth"))["kind"] == "backbone"
    with pytest.raises(UserError, match=r"no model `model_fnal\.pth`"):
        start("model_fnal.pth")
    with pytest.raises(UserError, match="not in the registry"):
        start("detectron2://nothing/model.pkl")


def test_several_gpus_are_taken_or_said_to_be_missing(monkeypatch):
    assert _take_gpus("auto", 1) == []
    with pytest.raises(UserError, match=r"use 2 GPUs, and there are 0 \(detection.device: cpu\)"):
        _take_gpus("cpu", 2)
    monkeypatch.setattr(training_job.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(training_job, "lock_gpus", lambda count, wanted, say: [1, 3][:wanted])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _take_gpus("auto", 2) == [1, 3]
    with _visible([1, 3]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with _visible([0, 1]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"


def test_digest_is_of_what_decides_the_model(tmp_path):
    card = read_card(SHIPPED)
    config = _base_config(job(), card)
    one = _digest(job(), config, card)
    assert _digest(job(name="other", strict=True, start=tmp_path), config, card) == one
    for other in (
        _digest(job(seed=1), config, card),
        _digest(job(truth={"train": {"images": [1]}, "val": {}}), config, card),
        _digest(job(), _base_config(job(overrides=("SEED", 3)), card), card),
        _digest(job(), config, None),
    ):
        assert other != one

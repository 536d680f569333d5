"""Checkpoints become model folders that find what Detectron2 finds with the checkpoint."""

import logging
import pickle

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from benchmark import random_network
from detecting import (
    SETTINGS,
    SHIPPED,
    SIZES,
    assert_same_detections,
    detect,
    draw_pages,
    pixels,
)
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from scanmill import network, preprocessing
from scanmill.configs import OWN, load_config
from scanmill.conversion import check_backbone, convert_model
from scanmill.detector import Detector
from scanmill.downloads import Expected
from scanmill.errors import UserError
from scanmill.fetching import fetch_model
from scanmill.model_folders import CONFIG, WEIGHTS, check_model, read_card
from scanmill.progress import logger
from scanmill.registry import REGISTRY, read_registry, resolve_address

ENTRIES = read_registry(REGISTRY)
R50 = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
#: A network as those of the registry, with less to compute.
LESS = [
    *("INPUT.MIN_SIZE_TEST", 224, "INPUT.MAX_SIZE_TEST", 320),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 200, "MODEL.RPN.POST_NMS_TOPK_TEST", 60),
]
#: One entry of each architecture: some lie as .pth, some as .pkl.
ARCHITECTURES = {entry.config: entry.name for entry in reversed(ENTRIES.values()) if entry.classes}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return cv2.cvtColor(draw_pages(tmp_path_factory.mktemp("pages"), 1)[0], cv2.COLOR_GRAY2BGR)


@pytest.fixture(autouse=True)
def as_detectron2(monkeypatch):
    monkeypatch.setattr(preprocessing, "REDUCTIONS", ())  # The same resized page for both.
    monkeypatch.setattr(network, "PROPOSALS_PER_REGION", 0)  # No page is looked at again.


def save(model, path):
    """As the models of the registry lie: by Detectron2's checkpointer, or as its zoo has them."""
    if path.suffix == ".pth":
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        DetectionCheckpointer(model, str(path.parent), optimizer=optimizer).save(
            path.stem, iteration=9
        )
    else:
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        data = {"model": weights, "__author__": "Detectron2 Model Zoo"}
        path.write_bytes(pickle.dumps(data, protocol=2))


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_model_of_the_registry_finds_what_detectron2_finds(name, page, tmp_path):
    """The same boxes (IoU 0.99) and scores (1e-3) as DefaultPredictor with the original file."""
    entry = ENTRIES[name]
    config = load_config(entry.config, [*entry.overrides, *LESS])
    path = tmp_path / entry.file
    save(random_network(config, [page]), path)
    here = entry._replace(
        weights=(str(path),), expected=Expected(), overrides=(*entry.overrides, *LESS)
    )
    fetch_model(here, tmp_path / "model", tmp_path / "downloads")
    detector = Detector(tmp_path / "model", {**SETTINGS, "max_detections": 100}, "cpu")
    assert detector.classes == list(entry.classes)
    theirs = detector.config.clone()
    theirs.MODEL.WEIGHTS = str(path)
    expected = DefaultPredictor(theirs)(page)["instances"]
    expected = [
        each.numpy()
        for each in (expected.pred_boxes.tensor, expected.scores, expected.pred_classes)
    ]
    _, (mine,) = detect(detector, [pixels(detector, page)], [page])
    assert_same_detections(mine[:3], expected, 0.05)


# Backbones ----------------------------------------------------------------------------------------


def names_of_caffe(name):
    """A name of Detectron2's backbone as MSRA's files have it."""
    name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
    for number, letter in (("1", "a"), ("2", "b"), ("3", "c")):
        name = name.replace(f".conv{number}.", f".branch2{letter}.")
    name = name.replace(".shortcut.", ".branch1.").replace(".norm.", ".bn.")
    for theirs, mine in (("gamma", "weight"), ("beta", "bias")):
        name = name.replace(f"bn.{mine}", f"bn.{theirs}").replace(f"bn_{mine}", f"bn_{theirs}")
    return name.replace(".weight", "_w").replace("_weight", "_w").replace(".", "_")


@pytest.mark.parametrize("name", ["ImageNet-R-50", "ImageNet-X-101-32x8d"])
def test_backbone_of_detectron_is_read_as_detectron2_reads_it(name, tmp_path):
    entry = ENTRIES[name]
    config = load_config(entry.config, [*entry.overrides, "MODEL.DEVICE", "cpu"])
    source = build_model(config).backbone.bottom_up.state_dict()
    blobs = {names_of_caffe(each): torch.rand_like(t).numpy() for each, t in source.items()}
    assert "conv1_w" in blobs
    assert "res2_0_branch2a_bn_gamma" in blobs
    blobs |= {"fc1000_w": np.zeros((1000, 2048), "f"), "fc1000_b": np.zeros(1000, "f")}
    path = tmp_path / entry.file
    path.write_bytes(pickle.dumps(blobs, protocol=2))
    here = entry._replace(weights=(str(path),), expected=Expected())
    fetch_model(here, tmp_path / name, tmp_path / "downloads")
    card = check_model(tmp_path / name)
    assert (card["kind"], card["classes"]) == ("backbone", [])
    assert card["input"]["pixel_std"] == list(config.MODEL.PIXEL_STD)
    tensors = safetensors.torch.load_file(tmp_path / name / WEIGHTS)
    assert tensors.keys() == source.keys()
    model = build_model(config)
    DetectionCheckpointer(model).load(str(path))
    for each, theirs in model.backbone.bottom_up.state_dict().items():
        assert torch.equal(tensors[each], theirs), each
    with pytest.raises(UserError, match="is a backbone, which detectors are trained from"):
        Detector(tmp_path / name, SETTINGS, "cpu")


def test_other_weights_are_not_the_backbone(tmp_path):
    entry = ENTRIES["ImageNet-R-50"]
    config = load_config(entry.config, entry.overrides)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": np.zeros((64, 3, 3, 3), "f")}))
    with pytest.raises(UserError, match=r"is not this backbone: .*stem\.conv1\.weight"):
        convert_model(path, config, tmp_path / "model", {"name": "x", "classes": []})


# Weights that do not fit --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def convert(tmp_path, weights, *overrides, classes=None, half=False):
    torch.save({"model": weights}, tmp_path / "model_final.pth")
    card = {
        "name": "mine",
        "classes": classes or read_card(SHIPPED)["classes"],
        "licence": "CC0-1.0",
    }
    config = load_config(SHIPPED / CONFIG, overrides)
    convert_model(tmp_path / "model_final.pth", config, tmp_path / "mine", card, "grey", half)
    return tmp_path / "mine"


def test_converted_checkpoint_is_the_shipped_model(tmp_path, shipped):
    target = convert(tmp_path, shipped, half=True)
    card = read_card(target)
    assert (card["licence"], card["kind"], card["color"]) == ("CC0-1.0", "detector", "grey")
    assert card["input"] == {
        "format": "BGR",
        "pixel_mean": [220.0, 220.0, 220.0],
        "pixel_std": [60.0, 60.0, 60.0],
        "min_size": SIZES[0],
        "max_size": SIZES[1],
    }
    assert card["parameters"] == sum(tensor.numel() for tensor in shipped.values())
    assert yaml.safe_load((target / CONFIG).read_text()) == yaml.safe_load(
        (SHIPPED / CONFIG).read_text()
    )
    assert safetensors.torch.load_file(target / WEIGHTS).keys() == shipped.keys()
    mine = safetensors.torch.load_file(target / WEIGHTS)
    stored = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    assert all(torch.equal(mine[k], stored[k]) and mine[k].dtype == stored[k].dtype for k in stored)


def test_weights_are_stored_as_they_are(tmp_path, shipped):
    mine = safetensors.torch.load_file(convert(tmp_path, shipped) / WEIGHTS)
    assert all(torch.equal(mine[k], shipped[k]) and mine[k].dtype == shipped[k].dtype for k in mine)


def test_tensors_that_are_missing_left_over_or_of_another_shape_are_named(tmp_path, shipped):
    missing = {k: v for k, v in shipped.items() if "anchor_deltas" not in k}
    extra = shipped | {"semantic_head.weight": torch.ones(1)}
    for weights, overrides, classes, says in (
        (missing, [], None, r"it lacks proposal_generator\.rpn_head\.anchor_deltas\.weight"),
        (extra, [], None, r"it has beside semantic_head\.weight"),
        (shipped, ["MODEL.RESNETS.DEPTH", 34], None, r"it lacks backbone\.\S+.* and \d+ more"),
        (
            shipped,
            ["MODEL.ROI_HEADS.NUM_CLASSES", 2],
            ["a", "b"],
            r"cls_score\.weight is \(6, 512\) and should be \(3, 512\)",
        ),
    ):
        with pytest.raises(UserError, match=rf"model_final\.pth does not fit.*{says}"):
            convert(tmp_path, weights, *overrides, classes=classes)
    with pytest.raises(
        UserError, match=r"names 2 classes, but .* has MODEL\.ROI_HEADS\.NUM_CLASSES 5"
    ):
        convert(tmp_path, shipped, classes=["a", "b"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model_final.pth"]


def test_folder_is_replaced_in_one_step(tmp_path, shipped):
    target = convert(tmp_path, shipped)
    before = read_card(target)
    with pytest.raises(UserError):
        convert(tmp_path, {})
    assert check_model(target) == before
    changed = {k: v * 2 if v.is_floating_point() else v for k, v in shipped.items()}
    assert read_card(convert(tmp_path, changed))["sha256"] != before["sha256"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "model_final.pth"]


# Values that belong to a backbone -----------------------------------------------------------------


def test_mean_and_deviation_that_a_checkpoint_holds_are_compared(tmp_path, shipped):
    old = shipped | {
        "pixel_mean": torch.full((3, 1, 1), 220.0),
        "pixel_std": torch.full((3, 1, 1), 60.0),
    }
    assert convert(tmp_path, old)
    with pytest.raises(UserError, match=r"PIXEL_STD \[60\.0, 60\.0, 60\.0\], and .* \[1\.0, 1\.0"):
        convert(tmp_path, old, "MODEL.PIXEL_STD", [1.0, 1.0, 1.0])
    with pytest.raises(UserError, match=r"trained with MODEL\.PIXEL_MEAN"):
        convert(tmp_path, old, "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53])


def test_resnext_with_the_values_of_a_resnet_is_warned_of(tmp_path, page, caplog):
    config = load_config(
        "faster_rcnn_X_101_32x8d_FPN_3x.yaml",
        [*LESS, "MODEL.RESNETS.DEPTH", 50, "MODEL.DEVICE", "cpu"],
    )
    torch.save(build_model(config).state_dict(), tmp_path / "a.pth")
    card = {"name": "x", "classes": ["a", "b", "c", "d", "e"]}
    with caplog.at_level(logging.WARNING, logger.name):
        convert_model(tmp_path / "a.pth", config, tmp_path / "right", card)
    assert not caplog.records
    config.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    with caplog.at_level(logging.WARNING, logger.name):
        convert_model(tmp_path / "a.pth", config, tmp_path / "wrong", card)
    assert "MODEL.PIXEL_STD [1.0, 1.0, 1.0]" in caplog.text
    assert "want [57.375, 57.12, 58.395] and False" in caplog.text


@pytest.mark.parametrize("path", sorted(OWN.glob("*_3x.yaml")), ids=lambda path: path.stem)
def test_our_configs_go_with_the_weights_that_they_name(path):
    config = load_config(path)
    if "TIMM" in path.read_text():
        assert config.MODEL.WEIGHTS == ""
    else:
        check_backbone(config, resolve_address(config.MODEL.WEIGHTS, ENTRIES), path.name)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]],
            r"MODEL\.PIXEL_STD \[57\.375.*\(not \[1\.0, 1\.0",
        ),
        (
            ["MODEL.RESNETS.STRIDE_IN_1X1", True],
            r"MODEL\.RESNETS\.STRIDE_IN_1X1 False \(not True\)",
        ),
        (["MODEL.RESNETS.WIDTH_PER_GROUP", 4], r"MODEL\.RESNETS\.WIDTH_PER_GROUP 8 \(not 4\)"),
        (["INPUT.FORMAT", "RGB"], r"INPUT\.FORMAT BGR \(not RGB\)"),
    ],
)
def test_values_that_do_not_go_with_a_backbone_are_refused(overrides, says):
    config = load_config("mask_rcnn_X_101_32x8d_FPN_3x.yaml", overrides)
    with pytest.raises(
        UserError, match=rf"a\.yaml: the backbone ImageNet-X-101-32x8d needs {says}"
    ):
        check_backbone(config, ENTRIES["ImageNet-X-101-32x8d"], "a.yaml")

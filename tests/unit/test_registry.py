"""The registry of models: what stands in it, and what names stand for."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from scanmill.configs import load_config
from scanmill.conversion import check_backbone, count_parameters
from scanmill.downloads import Expected
from scanmill.errors import UserError
from scanmill.registry import (
    MODELS,
    REGISTRY,
    Entry,
    find_model,
    model_classes,
    own_registry,
    read_registry,
    resolve_address,
)

ENTRIES = read_registry(REGISTRY)
FETCHED = [entry for entry in ENTRIES.values() if not entry.folder]
LINE = "{config: a.yaml, weights: [https://example.org/a.pth], licence: MIT%s}"


def registry(folder, **entries):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "models.yaml"
    path.write_text("\n".join(f"{name}: {block}" for name, block in entries.items()))
    return path


# What is in it ------------------------------------------------------------------------------------


def test_registry_has_what_it_should():
    assert find_model("scanmill-layout", [], ENTRIES) == MODELS / "scanmill-layout"
    documents = {
        "PubLayNet": ["faster_rcnn_R_50", "mask_rcnn_R_50", "mask_rcnn_X_101_32x8d"],
        "PrimaLayout": ["mask_rcnn_R_50"],
        "NewspaperNavigator": ["faster_rcnn_R_50"],
        "HJDataset": ["faster_rcnn_R_50", "mask_rcnn_R_50"],
        "TableBank": ["faster_rcnn_R_50", "faster_rcnn_R_101"],
        "COCO": [f"{k}_rcnn_{b}" for k in ("faster", "mask") for b in ("R_50", "R_101", "X_101_32x8d")],
    }  # fmt: skip
    names = {f"{name}-{each}_FPN_3x" for name, models in documents.items() for each in models}
    backbones = {"ImageNet-R-50", "ImageNet-R-101", "ImageNet-X-101-32x8d"}
    assert {entry.name for entry in FETCHED} == names | backbones
    assert {entry.name for entry in FETCHED if not entry.classes} == backbones


@pytest.mark.parametrize("entry", FETCHED, ids=lambda entry: entry.name)
def test_entry_is_whole(entry):
    assert entry.licence
    assert entry.source.startswith("https://")
    assert entry.quality
    for mirror in entry.weights:
        assert mirror.startswith("https://")
        assert "?" not in mirror
        assert Path(mirror).suffix in (".pth", ".pkl")
    if "fbaipublicfiles" in entry.weights[0] and entry.classes:
        assert f"model_final_{entry.expected.md5}.pkl" in entry.weights[0]


@pytest.mark.parametrize("entry", FETCHED, ids=lambda entry: entry.name)
def test_entry_is_of_its_config(entry):
    """Its architecture is what its name says, its size that of its parameters, its backbone's values
    those that belong to the weights it was trained from."""
    config = load_config(entry.config, entry.overrides)
    count = count_parameters(config, not entry.classes)
    if entry.classes:
        assert len(entry.classes) == config.MODEL.ROI_HEADS.NUM_CLASSES
        assert ("mask" in entry.name) == config.MODEL.MASK_ON
        assert str(config.MODEL.RESNETS.DEPTH) in entry.name
        backbone = resolve_address(config.MODEL.WEIGHTS, ENTRIES)
        assert not backbone.classes
        check_backbone(config, backbone, entry.name)
    if entry.expected.size_mb:
        # A training's checkpoint holds the optimizer's momentum, too, of all that was trained.
        bare = entry.weights[0].endswith(".pkl")
        share = entry.expected.size_mb / (4e-6 * count)
        assert (0.99 < share < 1.01) if bare else (1.98 < share < 2.01), share


# Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "ImageNet-R-50"),
        ("detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl", "ImageNet-X-101-32x8d"),
        (
            "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
            "COCO-mask_rcnn_R_50_FPN_3x",
        ),
        ("lp://PubLayNet/mask_rcnn_R_50_FPN_3x/config", "PubLayNet-mask_rcnn_R_50_FPN_3x"),
        ("lp://HJDataset/faster_rcnn_R_50_FPN_3x/weight", "HJDataset-faster_rcnn_R_50_FPN_3x"),
        ("lp://detectron2/TableBank/faster_rcnn_R_101_FPN_3x", "TableBank-faster_rcnn_R_101_FPN_3x"),
        (ENTRIES["PrimaLayout-mask_rcnn_R_50_FPN_3x"].weights[1], "PrimaLayout-mask_rcnn_R_50_FPN_3x"),
    ],
)  # fmt: skip
def test_address_stands_for_an_entry(address, name):
    assert resolve_address(address, ENTRIES).name == name
    assert find_model(address, [], ENTRIES).name == name


@pytest.mark.parametrize(
    ("address", "nearest"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-51.pkl", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"),
        ("lp://PubLayNet/mask_rcnn_R_52_FPN_3x/config", "lp://PubLayNet/mask_rcnn_R_50_FPN_3x"),
        ("https://example.org/evil.pkl", None),
        ("catalog://ImageNetPretrained/MSRA/R-50", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"),
    ],
)  # fmt: skip
def test_unknown_address_is_not_fetched(address, nearest):
    with pytest.raises(
        UserError, match="not in the registry of models, and nothing is fetched"
    ) as raised:
        resolve_address(address, ENTRIES)
    assert ("Did you mean" in str(raised.value)) == bool(nearest)
    assert (nearest or "") in str(raised.value)


# Entries of one's own -----------------------------------------------------------------------------


def test_own_entries_are_added_and_replace(tmp_path):
    (tmp_path / "a.yaml").write_text("VERSION: 2")
    registry(
        tmp_path,
        mine="{config: a.yaml, weights: [w/b.pth, 'https://example.org/b.pth?download=true'],"
        " licence: MIT, classes: [x, y], overrides: [SEED, 1], color: grey, size_mb: 3}",
        **{"ImageNet-R-50": LINE % ""},
    )
    entries = own_registry(tmp_path)
    assert len(entries) == len(ENTRIES) + 1
    mine = entries["mine"]
    assert mine.weights == (str(tmp_path / "w/b.pth"), "https://example.org/b.pth?download=true")
    assert mine.config == str(tmp_path / "a.yaml")
    assert mine.overrides == ("MODEL.ROI_HEADS.NUM_CLASSES", 2, "SEED", 1)
    assert mine.expected == Expected(3)
    assert (mine.color, mine.file) == ("grey", "mine.pth")
    assert entries["ImageNet-R-50"].licence == "MIT"
    assert own_registry(tmp_path / "none") == ENTRIES


def test_folder_of_ones_own(tmp_path):
    shutil.copytree(MODELS / "scanmill-layout", tmp_path / "shared" / "x")
    entries = read_registry(registry(tmp_path, mine="{folder: shared/x}", gone="{folder: y}"))
    assert find_model("mine", [], entries) == tmp_path / "shared" / "x"
    with pytest.raises(
        UserError, match=r"model gone lies in .*/y, and there is no model\.json there"
    ):
        find_model("gone", [], entries)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("3", "mine: "),
        ("{config: a.yaml}", "mine: an entry has config, weights and licence"),
        (LINE % ", more: 1", "mine: an entry has config, weights and licence"),
        (LINE % ", sha256: abc", r"mine\.sha256: must be 64 hexadecimal digits"),
        (LINE % ", md5: 280758", r"mine\.md5: must be at least 6 hexadecimal digits in quotes"),
        (LINE % ", size_mb: 0", r"mine\.size_mb: must be megabytes"),
        (LINE % ", classes: []", r"mine\.classes: must be a list of class names"),
        (LINE % ", classes: [a, a]", r"mine\.classes: must be a list of class names"),
        (LINE % ", classes: [yes]", r"mine\.classes\.0: must be a class name, in quotes"),
        (LINE % ", color: blue", r"mine\.color: must be grey or config"),
        ("{config: a, licence: x, weights: []}", r"mine\.weights: must be a list"),
        ("{config: a, licence: x, weights: ['ftp://a/b']}", r"mine\.weights\.0: must be an address"),
        ("{folder: x, licence: y}", "an entry with a folder has nothing else"),
        ("{config: a, licence: x, weights: ['http://a.org/b.pth']}", "b.pth is not encrypted"),
    ],
)  # fmt: skip
def test_mistake_in_an_entry_is_named(tmp_path, block, says):
    path = registry(tmp_path, mine=block)
    with pytest.raises(UserError, match=says) as raised:
        read_registry(path)
    assert str(path) in str(raised.value)


def test_name_that_is_no_folders_is_refused(tmp_path):
    for name in ("a/b", "..", "'a b'", "downloads"):
        path = registry(tmp_path, **{name: LINE % ""})
        with pytest.raises(UserError, match="a model's name is a folder's"):
            read_registry(path)


def test_address_that_is_not_encrypted_needs_a_digest(tmp_path):
    block = "{config: a, licence: x, weights: ['http://a.org/b.pth'], sha256: '%s'}" % ("0" * 64)
    assert read_registry(registry(tmp_path, mine=block))["mine"].expected.sha256 == "0" * 64


# Looking up ---------------------------------------------------------------------------------------


def test_folder_comes_before_an_entry_and_the_first_folder_wins(tmp_path):
    for name in ("one", "two"):
        shutil.copytree(MODELS / "scanmill-layout", tmp_path / name / "ImageNet-R-50")
    folders = [tmp_path / "none", tmp_path / "one", tmp_path / "two"]
    assert find_model("ImageNet-R-50", folders, ENTRIES) == tmp_path / "one" / "ImageNet-R-50"
    assert find_model("ImageNet-R-101", folders, ENTRIES) is ENTRIES["ImageNet-R-101"]


def test_unknown_model_is_answered_with_those_there_are(tmp_path):
    shutil.copytree(MODELS / "scanmill-layout", tmp_path / "large")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError) as raised:
        find_model("larg", [tmp_path, MODELS], ENTRIES)
    message = str(raised.value)
    assert f"no larg/model.json in {tmp_path} or {MODELS}" in message
    assert "Did you mean large?" in message
    assert (
        "Models found: large, scanmill-layout; the registry's: scanmill-layout, PubLayNet-faster"
        in message
    )
    assert "ImageNet" not in message
    with pytest.raises(UserError, match="Models found: none; the registry's: none"):
        find_model("x", [], {})


def test_backbone_is_no_detector(tmp_path):
    shutil.copytree(MODELS / "scanmill-layout", tmp_path / "bare")
    card = json.loads((tmp_path / "bare" / "model.json").read_text())
    card |= {"kind": "backbone", "classes": []}
    (tmp_path / "bare" / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="bare is a backbone"):
        model_classes(tmp_path / "bare")
    with pytest.raises(UserError, match="ImageNet-R-50 is a backbone"):
        model_classes(ENTRIES["ImageNet-R-50"])
    assert model_classes(ENTRIES["TableBank-faster_rcnn_R_50_FPN_3x"]) == ["Table"]
    assert model_classes(MODELS / "scanmill-layout")[0] == "text"


def test_digest_is_of_what_decides_the_model():
    entry = ENTRIES["PubLayNet-mask_rcnn_R_50_FPN_3x"]
    for same in ({"licence": "x"}, {"quality": "x"}, {"weights": ("https://a.org/b.pth",)}):
        assert entry._replace(**same).digest == entry.digest
    for other in (
        {"classes": ("x",)},
        {"config": "x"},
        {"expected": Expected()},
        {"color": "grey"},
    ):
        assert entry._replace(**other).digest != entry.digest


def test_file_is_called_after_the_entry():
    assert ENTRIES["COCO-faster_rcnn_R_50_FPN_3x"].file == "COCO-faster_rcnn_R_50_FPN_3x.pkl"
    assert Entry("a", ("https://b.org/c.pth?dl=1",)).file == "a.pth"


def test_registry_is_plain_yaml():
    assert yaml.safe_load(REGISTRY.read_text()).keys() == ENTRIES.keys()


def test_model_that_was_trained_here_before_is_to_be_kept_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(MODELS / "scanmill-layout", tmp_path / "results/models/mine")
    with pytest.raises(UserError, match=r"mkdir -p models && cp -r results/models/mine models/"):
        find_model("mine", [Path("models"), MODELS], ENTRIES)

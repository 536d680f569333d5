"""Model folders are checked before anything in them is opened."""

import json
from pathlib import Path

import pytest
import yaml

from scanmill import model_folders
from scanmill.errors import UserError
from scanmill.model_folders import (
    CARD,
    CONFIG,
    WEIGHTS,
    check_model,
    install_model,
    model_digest,
    read_card,
    read_config,
    write_card,
)

SHIPPED = Path(__file__).parents[2] / "models" / "scanmill-layout"
CLASSES = ["text", "table"]


@pytest.fixture
def folder(tmp_path):
    """A model folder whose weights nobody opens."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    config = {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 2}}}
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    (folder / WEIGHTS).write_bytes(b"weights")
    write_card(folder, name="tiny", classes=CLASSES, color="grey", licence="CC0-1.0")
    return folder


def change_card(folder, **entries):
    card = json.loads((folder / CARD).read_text())
    card.update(entries)
    (folder / CARD).write_text(json.dumps(card))


def test_shipped_model_is_whole():
    card = check_model(SHIPPED)
    assert card["name"] == "scanmill-layout"
    assert card["classes"] == ["text", "title", "list", "table", "figure"]
    assert card["licence"]
    assert card["provenance"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 40_000_000


def test_card_says_what_was_written(folder):
    card = check_model(folder)
    assert card["classes"] == CLASSES
    assert card["licence"] == "CC0-1.0"
    assert set(card["sha256"]) == {CONFIG, WEIGHTS}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{folder / name} is missing"):
        check_model(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_changed_file_is_not_opened(folder, name, monkeypatch):
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    monkeypatch.setattr(model_folders, "read_config", lambda path: pytest.fail(f"opened {path}"))
    with pytest.raises(UserError, match="nothing was opened") as raised:
        check_model(folder)
    assert str(folder / name) in str(raised.value)
    assert read_card(folder)["sha256"][name] in str(raised.value)


def test_class_list_of_another_length_is_refused(folder):
    for classes in (["text"], ["text", "table", "figure"]):
        change_card(folder, classes=classes)
        with pytest.raises(UserError, match=rf"names {len(classes)} classes.*NUM_CLASSES 2"):
            check_model(folder)


@pytest.mark.parametrize(
    "config", [{}, {"MODEL": None}, {"MODEL": {"ROI_HEADS": 3}}, {"MODEL": {"ROI_HEADS": {}}}]
)
def test_config_without_classes_is_refused(folder, config):
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    write_card(folder, name="tiny", classes=CLASSES, color="grey")
    with pytest.raises(UserError, match=r"has no MODEL\.ROI_HEADS\.NUM_CLASSES"):
        check_model(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds no JSON object"),
        ("{}", "`classes` must be a list.*`color` must be.*`sha256` must give.*`name` must be"),
    ],
)
def test_malformed_card_is_explained(folder, text, says):
    (folder / CARD).write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        read_card(folder)
    assert str(folder / CARD) in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["text", "text"]}, "classes"),
        ({"classes": ["text", ""]}, "classes"),
        ({"classes": ["text", 3]}, "classes"),
        ({"classes": "text"}, "classes"),
        ({"color": "blue"}, "color"),
        ({"sha256": {CONFIG: "0"}}, "sha256"),
        ({"sha256": "0"}, "sha256"),
        ({"name": None}, "name"),
    ],
)
def test_wrong_entry_is_named(folder, entry, says):
    change_card(folder, **entry)
    with pytest.raises(UserError, match=f": `{says}` must"):
        read_card(folder)


def test_card_that_is_no_text_is_explained(folder):
    (folder / CARD).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        read_card(folder)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "MODEL: !!python/object/new:os.system ['touch {marker}']",
        "MODEL: !!python/name:os.system",
    ],
)
def test_unsafe_yaml_is_refused_and_not_executed(folder, tmp_path, text):
    marker = tmp_path / "executed"
    (folder / CONFIG).write_text(text.format(marker=marker))
    write_card(folder, name="tiny", classes=CLASSES, color="grey")
    with pytest.raises(UserError, match="is not plain YAML, and is not loaded: it has a tag"):
        check_model(folder)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "- 1\n- 2", "", "text"])
def test_yaml_that_is_no_mapping_is_refused(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"is not plain YAML|holds no mapping"):
        read_config(folder / CONFIG)


def test_digest_is_of_what_decides_detections(folder):
    card = read_card(folder)
    digest = model_digest(card)
    assert model_digest({**card, "name": "other", "licence": "MIT", "quality": {}}) == digest
    for entry in (
        {"classes": CLASSES[::-1]},
        {"color": "config"},
        {"sha256": {**card["sha256"], WEIGHTS: "0"}},
        {"sha256": {**card["sha256"], CONFIG: "0"}},
    ):
        assert model_digest({**card, **entry}) != digest


def test_model_is_installed_whole_and_checked(folder, tmp_path):
    target = tmp_path / "results" / "models" / "tiny"
    install_model(folder, target)
    assert check_model(target) == check_model(folder)
    assert sorted(path.name for path in target.iterdir()) == sorted([CONFIG, WEIGHTS, CARD])
    (folder / WEIGHTS).write_bytes(b"retrained")
    with pytest.raises(UserError, match="nothing was opened"):
        install_model(folder, target)
    assert (target / WEIGHTS).read_bytes() == b"weights"
    write_card(folder, name="tiny", classes=CLASSES, color="grey")
    install_model(folder, target)
    assert (target / WEIGHTS).read_bytes() == b"retrained"
    assert check_model(target)


def test_interrupted_installation_leaves_no_temporary_file(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folders.shutil, "copyfile", fail)
    with pytest.raises(OSError, match="No space left"):
        install_model(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_folder_in_use_is_whole_at_every_moment(folder, tmp_path, monkeypatch):
    """It is moved, not filled: what reads it meanwhile finds the old files or the new ones."""
    target = tmp_path / "target"
    install_model(folder, target)
    seen = []
    rename = model_folders.os.rename

    def look(source, to):
        seen.append(sorted(path.name for path in Path(source).iterdir()))
        rename(source, to)

    monkeypatch.setattr(model_folders.os, "rename", look)
    install_model(folder, target)
    assert seen == [sorted([CONFIG, WEIGHTS, CARD])] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "target"]


def test_backbone_has_no_classes(folder):
    change_card(folder, kind="backbone")
    with pytest.raises(UserError, match="`classes` of a backbone must be an empty list"):
        read_card(folder)
    change_card(folder, classes=[])
    assert check_model(folder)["classes"] == []
    change_card(folder, kind="detector")
    with pytest.raises(UserError, match="`classes` must be a list"):
        read_card(folder)

"""Models of the registry become model folders, and stay what they were the first time."""

import logging
import os
import shutil

import pytest
import safetensors.torch
import torch
from detecting import SETTINGS, SHIPPED
from mirrors import running_mirrors

from scanmill import downloads
from scanmill.detector import Detector
from scanmill.downloads import Expected
from scanmill.errors import UserError
from scanmill.fetching import fetch_model
from scanmill.model_folders import CARD, CONFIG, WEIGHTS, check_model, read_card
from scanmill.progress import logger
from scanmill.registry import Entry
from scanmill.store import file_digest

CLASSES = ("text", "title", "list", "table", "figure")


@pytest.fixture
def mirrors(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_mirrors() as server:
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "model_final.pth"
    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    torch.save({"model": {k: v.float() for k, v in weights.items()}}, path)
    return path


@pytest.fixture
def entry(mirrors, checkpoint):
    address = mirrors.add("/a/model_final.pth", checkpoint.read_bytes())
    return Entry(
        "mine",
        (f"{address}?download=true",),
        str(SHIPPED / CONFIG),
        classes=CLASSES,
        color="grey",
        licence="CC0-1.0",
    )


@pytest.fixture
def fetch(tmp_path, caplog):
    def fetched(entry):
        with caplog.at_level(logging.INFO, logger.name):
            fetch_model(entry, tmp_path / "models" / entry.name, tmp_path / "downloads")
        return tmp_path / "models" / entry.name

    return fetched


def test_fetched_model_says_where_it_came_from_and_detects(entry, fetch, checkpoint):
    folder = fetch(entry)
    card = check_model(folder)
    assert card["name"] == "mine"
    assert (card["licence"], card["color"], card["classes"]) == ("CC0-1.0", "grey", list(CLASSES))
    assert card["provenance"] == {
        "weights": entry.weights[0],
        "weights_sha256": file_digest(checkpoint),
        "config": entry.config,
        "overrides": [],
    }
    assert Detector(folder, SETTINGS, "cpu").classes == list(CLASSES)


def test_digest_that_nobody_published_is_pinned_by_the_first_fetch(
    entry, fetch, mirrors, checkpoint, tmp_path, caplog
):
    folder = fetch(entry)
    assert "nobody has published a sha256 for mine: from now on it is" in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "downloads")
    before = (folder / CARD).read_bytes()
    fetch(entry)
    assert "nobody has published" not in caplog.text
    assert (folder / CARD).read_bytes() == before

    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    torch.save({"model": {k: v.float() * 2 for k, v in weights.items()}}, tmp_path / "other.pth")
    mirrors.files["/a/model_final.pth"] = (tmp_path / "other.pth").read_bytes()
    shutil.rmtree(tmp_path / "downloads")
    with pytest.raises(
        UserError, match="mine are not those of the first time: their sha256"
    ) as raised:
        fetch(entry)
    assert file_digest(checkpoint) in str(raised.value)
    assert file_digest(tmp_path / "other.pth") in str(raised.value)
    assert (folder / CARD).read_bytes() == before
    # As the message says.
    (folder / CARD).unlink()
    fetch(entry)
    assert read_card(folder)["provenance"]["weights_sha256"] == file_digest(tmp_path / "other.pth")


def test_published_digest_is_what_counts(entry, fetch, checkpoint, caplog):
    entry = entry._replace(expected=Expected(sha256=file_digest(checkpoint)))
    fetch(entry)
    assert "nobody has published" not in caplog.text
    with pytest.raises(UserError, match="its sha256 is"):
        fetch(entry._replace(expected=Expected(sha256="0" * 64)))


def test_weights_put_there_by_hand_are_taken(entry, fetch, mirrors, checkpoint, tmp_path):
    mirrors.files.clear()
    with pytest.raises(UserError, match="by hand, put it here as") as raised:
        fetch(entry)
    place = tmp_path / "downloads" / "mine.pth"
    assert str(place) in str(raised.value)
    shutil.copyfile(checkpoint, place)
    assert check_model(fetch(entry))


def test_nothing_is_opened_that_is_not_what_it_should_be(entry, fetch, mirrors, tmp_path):
    marker = tmp_path / "ran"

    class Command:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"model": {"x": Command()}}, tmp_path / "evil.pth")
    mirrors.files["/a/model_final.pth"] = (tmp_path / "evil.pth").read_bytes()
    with pytest.raises(UserError, match=r"mine\.pth is not opened: it asks for posix\.system"):
        fetch(entry)
    with pytest.raises(UserError, match="another file: its sha256 is"):
        fetch(entry._replace(name="b", expected=Expected(sha256="0" * 64)))
    assert not marker.exists()
    assert not list(tmp_path.glob("models/*"))


def test_model_of_other_classes_is_not_put_in_place(entry, fetch, tmp_path):
    wrong = entry._replace(classes=("a", "b"), overrides=("MODEL.ROI_HEADS.NUM_CLASSES", 2))
    with pytest.raises(
        UserError, match=r"cls_score\.weight is \(6, 512\) and should be \(3, 512\)"
    ):
        fetch(wrong)
    assert not list(tmp_path.glob("models/*"))


def test_pin_survives_where_the_model_was_lost(entry, fetch, tmp_path):
    """The card alone is left, as where the other files were removed."""
    folder = fetch(entry)
    before = read_card(folder)
    (folder / WEIGHTS).unlink()
    (folder / CONFIG).unlink()
    shutil.rmtree(tmp_path / "downloads")
    assert read_card(fetch(entry)) == before

"""Pages are counted as the run will make rows of them, whatever the files are."""

import os

import pytest
from PIL import Image
from rendered import LIMITS, SETTINGS, needs_poppler, write_encrypted, write_pages

from scanmill import page_counts
from scanmill.archive import list_archive, page_files
from scanmill.page_counts import count_pages

LISTING = {"include": ["**"], "exclude": [], "image_folders": "document", "follow_links": False}


def count(archive, seconds=60, at_least=0, renderer="auto", **limits):
    documents = list_archive(archive, LISTING).documents
    boundary = None if archive.suffix == ".csv" else os.fsencode(archive.resolve())
    images = {**SETTINGS, "renderer": renderer, "limits": {**LIMITS, **limits}}
    return count_pages(documents, archive, boundary, images, 2, seconds, at_least)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    write_pages(folder / "three.pdf", 3)
    write_pages(folder / "one.pdf", 1)
    write_encrypted(folder / "secret.pdf")
    (folder / "text.pdf").write_text("no PDF at all")
    lost = (folder / "three.pdf").read_bytes().replace(b"startxref", b"nothing")
    (folder / "half.pdf").write_bytes(lost)
    frames = [Image.new("L", (20, 20), shade) for shade in (0, 99)]
    frames[0].save(folder / "two.tif", save_all=True, append_images=frames[1:])
    (folder / "album").mkdir()
    for name in ("1.png", "2.png", "10.jpg"):
        frames[0].save(folder / "album" / name)
    return folder


@pytest.mark.parametrize("renderer", [pytest.param("poppler", marks=needs_poppler), "pdfium"])
def test_every_kind_of_document_is_counted(archive, renderer):
    assert count(archive, renderer=renderer) == {
        "album": 3,
        "half.pdf": 3,  # Its cross-references are lost, and found again.
        "one.pdf": 1,
        "secret.pdf": 0,
        "text.pdf": 0,
        "three.pdf": 3,
        "two.tif": 2,
    }


def test_selected_pages_are_counted_of_what_opens(archive, tmp_path):
    path = tmp_path / "documents.csv"
    rows = ["document,path,pages", f"a,{archive}/three.pdf,2-3", f"b,{archive}/text.pdf,1-9"]
    path.write_text("\n".join([*rows, f'c,{archive}/album,"1,3"']))
    assert count(path) == {"a": 2, "b": 0, "c": 2}


def test_no_more_are_begun_when_time_is_up_but_as_many_as_must_be(archive):
    assert count(archive, seconds=0) == {}
    assert list(count(archive, seconds=0, at_least=3)) == ["album", "half.pdf", "one.pdf"]


def test_files_are_opened_in_processes_with_limits_alone(archive, monkeypatch):
    monkeypatch.setattr(page_counts, "PdfDocument", None)  # The worker has its own.
    assert count(archive)["three.pdf"] == 3


class Dying:
    """A worker of which every child dies."""

    def __init__(self):
        self.tasks = []

    def run(self, task):
        self.tasks.append((task["engine"], task["inspect"], task["forms"]))
        yield {"event": "end", "how": "closed", "code": -11}


def test_a_file_that_kills_each_process_that_opens_it_has_no_pages(archive):
    (document,) = [d for d in list_archive(archive, LISTING).documents if d.path == "one.pdf"]
    worker, engines = Dying(), ["poppler 1", "pdfium 2"]
    pages = page_counts._count(worker, document, archive, None, {"limits": LIMITS}, engines)
    assert pages == 0
    assert len(worker.tasks) == len(set(worker.tasks)) > 2


def test_a_folder_that_is_gone_since_the_plan_has_no_pages(archive, monkeypatch):
    def gone(folder, boundary):
        if folder.endswith(b"album"):
            raise FileNotFoundError
        return page_files(folder, boundary)

    monkeypatch.setattr("scanmill.rendering.page_files", gone)
    assert count(archive)["album"] == 0

"""Page images that were dropped come out as they were, or stop who needs them."""

import os
import shutil

import pytest
from rendered import LIMITS, SETTINGS, write_pages
from test_rendering import describe, shard

from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.store import are_dropped, document_folder, drop_images, file_digest

NAMES = ("a.pdf", "b.pdf", "scans")


class Run:
    """An archive and the results of its images stage, of which images were dropped."""

    def __init__(self, folder):
        self.archive, self.directory = folder / "archive", folder / "run"
        self.results = self.directory / "results"
        (self.archive / "scans").mkdir(parents=True)
        write_pages(self.archive / "a.pdf", 3)
        write_pages(self.archive / "b.pdf", 1)
        self.documents = [
            describe(self.archive, "a.pdf", pages="1,3"),
            describe(self.archive, "b.pdf"),
        ]
        _, _, self.store, _ = shard(self.archive, self.results, self.documents)
        scans = self.results / "store/a.pdf/images"
        shutil.copy(scans / "0001.jpg", self.archive / "scans/1.jpg")
        shutil.copy(scans / "0003.jpg", self.archive / "scans/2.jpg")
        self.documents.append(describe(self.archive, "scans", "images"))
        shard(self.archive, self.results, self.documents)
        for name in NAMES:
            drop_images(self.results, name)

    def rows(self, name):
        return self.store.read(name, "images").to_pylist()

    def renderer(self, **images):
        limits = images.pop("limits", LIMITS)
        settings = {
            "archive": {"path": str(self.archive), "follow_links": False},
            "images": {**SETTINGS, **images, "limits": limits},
        }
        return Renderer(self.directory, self.documents, 2, settings)

    def files(self, name):
        return sorted(path.name for path in (self.results / "store" / name).rglob("*"))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_images_are_there_while_they_are_needed(run, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with run.renderer() as renderer:
        for name in NAMES:
            rows = run.rows(name)
            with renderer.images(rows, work) as readable:
                assert [file_digest(row["image"]) for row in readable] == [
                    row["sha256"] for row in rows
                ]
                assert [row["page"] for row in readable] == [row["page"] for row in rows]
            assert list(work.iterdir()) == []
        # Of one page, that page alone.
        with renderer.images(run.rows("a.pdf")[1:], work) as (row,):
            assert os.path.basename(row["image"]) == "0003.jpg"
            assert [path.name for path in work.rglob("*.*g")] == ["0003.jpg"]
    assert all(are_dropped(run.results, name) for name in NAMES)


def test_images_that_are_there_are_taken_as_they_are(run, tmp_path):
    with run.renderer() as renderer:
        renderer.restore([run.rows("a.pdf")])
        shutil.rmtree(run.archive)
        rows = run.rows("a.pdf")
        with renderer.images(rows, tmp_path) as readable:
            assert readable == rows
        with renderer.images([], tmp_path) as readable:
            assert readable == []


def test_restored_images_are_those_of_the_record(run):
    left = document_folder(run.results, "a.pdf") / ".tmp-again-killed"
    left.mkdir()
    with run.renderer() as renderer:
        renderer.restore([run.rows(name) for name in NAMES])
    for name in NAMES:
        assert not are_dropped(run.results, name)
        for row in run.rows(name):
            assert file_digest(run.results / row["image"]) == row["sha256"]
    assert run.files("b.pdf") == ["0001.jpg", "images", "images.parquet", "source.json"]
    assert not left.exists()
    outcomes, *_ = shard(run.archive, run.results, run.documents)
    assert set(outcomes.values()) == {"reused"}


def change(run):
    write_pages(run.archive / "a.pdf", 2)
    return {}


def remove(run):
    (run.archive / "a.pdf").unlink()
    return {}


def damage(run):
    (run.archive / "a.pdf").write_bytes(b"%PDF-1.4 no more")
    return {}


@pytest.mark.parametrize(
    ("happen", "cause", "remedy"),
    [
        (change, "the archive's file has changed since", "planning anew"),
        (damage, "the archive's file has changed since", "planning anew"),
        (remove, r"a\.pdf cannot be opened \(No such file or directory\)", "disk not mounted"),
        (
            lambda run: {"jpeg_quality": 50},
            r"page 1 comes out differently now \(rendered by pdfium",
            r"forget_results\.py --directory \S*run --stage images --documents a\.pdf",
        ),
        (
            lambda run: {"limits": {**LIMITS, "max_pixels": 10}},
            r"page 1 comes out differently now \(.*max_pixels",
            r"forget_results\.py",
        ),
    ],
)
def test_what_comes_out_differently_is_refused(run, tmp_path, happen, cause, remedy):
    images = happen(run)
    said = rf"The page images of a\.pdf were dropped .*{cause}.*{remedy}"
    with run.renderer(**images) as renderer:
        with pytest.raises(UserError, match=said):
            renderer.restore([run.rows("a.pdf"), run.rows("b.pdf")])
        assert are_dropped(run.results, "a.pdf")
        assert run.files("a.pdf") == ["dropped", "images", "images.parquet", "source.json"]
    with (
        run.renderer(**images) as renderer,
        pytest.raises(UserError, match=said),
        renderer.images(run.rows("a.pdf"), tmp_path),
    ):
        pass


def test_tools_need_the_settings_of_the_last_run(run, tmp_path):
    with (
        Renderer(run.directory, run.documents, 1) as renderer,
        pytest.raises(UserError, match=r"settings\.yaml is missing"),
        renderer.images(run.rows("a.pdf"), tmp_path),
    ):
        pass

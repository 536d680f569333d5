"""A shard's documents become page images: once, in parallel, in every way there is."""

import concurrent.futures
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image
from rendered import (  # noqa: F401
    ENGINES,
    LIMITS,
    MARKS,
    SETTINGS,
    add_page,
    content_of,
    load,
    needs_poppler,
    outcomes,
    pool,
    render,
    task,
    worker,
    write_encrypted,
    write_pages,
    write_pdf,
)

from scanmill import rendering
from scanmill.archive import Document
from scanmill.errors import UserError
from scanmill.progress import Progress
from scanmill.rendering import (
    FIRST_PAGES,
    Outcome,
    render_document,
    render_shard,
    run_task,
)
from scanmill.store import StageStore, document_folder, read_record_metadata
from scanmill.tables import SCHEMAS, failed
from scanmill.workers import Worker, WorkerPool

#: Ends of many lines, for pages that are large as JPEGs.
PLACES = np.random.default_rng(0).integers(0, 300, (3000, 4)).tolist()

# A shard ------------------------------------------------------------------------------------------


def shard(archive, results, documents, limits=None, workers=1, **settings):
    """Run render_shard as the rule does; returns the outcome of each document, and the digests."""
    store = StageStore(
        results, "images", {**SETTINGS, **settings}, "code", limits={**LIMITS, **(limits or {})}
    )
    outcomes = {}

    class Recorder(Progress):
        def document(self, name, outcome, work, pages=0):
            outcomes[name] = outcome
            super().document(name, outcome, work, pages)

    progress = Recorder("render_pages", len(documents), 1)
    digests = render_shard(documents, archive, None, store, workers, progress)
    return outcomes, digests, store, progress


def describe(archive, name, kind="pdf", pages="", **columns):
    """A manifest's row of a file."""
    status = os.stat(archive / name)
    return Document(name, kind, name, status.st_size, status.st_mtime_ns, pages, **columns)


@pytest.fixture
def archive(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    return archive


def test_shard_makes_records_once(tmp_path, archive):
    write_pages(archive / "a.pdf", 3)
    (archive / "sub").mkdir()
    write_pages(archive / "sub" / "b.pdf", 1)
    write_encrypted(archive / "c.pdf")
    documents = [describe(archive, name) for name in ("a.pdf", "sub/b.pdf", "c.pdf")]
    results = tmp_path / "results"
    outcome, digests, store, progress = shard(archive, results, documents, workers=2)
    assert set(outcome.values()) == {"computed"}
    assert progress.done_pages == 4
    table = store.read("a.pdf", "images")
    assert table.schema.remove_metadata().equals(SCHEMAS["images"])
    rows = table.to_pylist()
    assert [row["image"] for row in rows] == [f"store/a.pdf/images/000{i}.jpg" for i in (1, 2, 3)]
    assert {row["document"] for row in rows} == {"a.pdf"}
    for row in rows:
        load(results, row)
    (row,) = store.read("c.pdf", "images").to_pylist()
    assert (row["document"], row["page"], row["reason"]) == ("c.pdf", None, "encrypted")
    again, same_digests, _, _ = shard(archive, results, documents, workers=2)
    assert set(again.values()) == {"reused"}
    assert same_digests == digests
    # Touched: hashed again, not rendered again.
    os.utime(archive / "a.pdf")
    documents[0] = describe(archive, "a.pdf")
    assert shard(archive, results, documents)[0]["a.pdf"] == "reused"
    write_pages(archive / "a.pdf", 2)
    documents[0] = describe(archive, "a.pdf")
    outcome, _, store, _ = shard(archive, results, documents)
    assert outcome == {"a.pdf": "computed", "sub/b.pdf": "reused", "c.pdf": "reused"}
    assert store.read("a.pdf", "images").num_rows == 2
    assert sorted(os.listdir(results / "store" / "a.pdf" / "images")) == ["0001.jpg", "0002.jpg"]
    assert set(shard(archive, results, documents, dpi=80)[0].values()) == {"computed"}


def test_raised_limit_tries_the_failed_pages_again_and_only_those(tmp_path, archive):
    results = tmp_path / "results"
    large = {"media": (0, 0, 900, 900)}
    write_pdf(archive / "a.pdf", {}, large, {}, {"media": (0, 0, 1300, 1300)})
    document = [describe(archive, "a.pdf")]
    low, middle, high = ({"max_pixels": limit} for limit in (100_000, 1_000_000, 2_000_000))
    outcome, _, store, _ = shard(archive, results, document, low)
    assert outcome == {"a.pdf": "computed"}
    reasons = store.read("a.pdf", "images")["reason"].to_pylist()
    assert reasons == [None, "too_large", None, "too_large"]
    kept = {
        name: os.stat(results / f"store/a.pdf/images/{name}") for name in ("0001.jpg", "0003.jpg")
    }
    assert shard(archive, results, document, low)[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, {"max_pixels": 50_000})[0] == {"a.pdf": "reused"}
    # More memory does not help a page that is too large.
    assert shard(archive, results, document, {**low, "memory_mb": 9000})[0] == {"a.pdf": "reused"}
    outcome, _, store, progress = shard(archive, results, document, middle)
    assert outcome == {"a.pdf": "retried"}
    assert progress.done_pages == 2
    rows = store.read("a.pdf", "images").to_pylist()
    assert [row["reason"] for row in rows] == [None] * 4
    # The last one is smaller than wanted, and says so.
    assert [row["dpi_x"] for row in rows] == pytest.approx([72, 72, 72, 55], rel=0.01)
    assert [row["message"] is None for row in rows] == [True, True, True, False]
    assert "rendered at 55 dpi instead of 72" in rows[3]["message"]
    for row in rows:
        load(results, row)
    for name, before in kept.items():
        now = os.stat(results / f"store/a.pdf/images/{name}")
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert shard(archive, results, document, middle)[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, high)[0] == {"a.pdf": "retried"}
    assert read_record_metadata(results, "a.pdf", "images").get("limits", "{}") == "{}"
    assert shard(archive, results, document, {"max_pixels": 9e9})[0] == {"a.pdf": "reused"}


def test_raised_limit_leaves_pages_alone_that_failed_under_another(tmp_path, archive, monkeypatch):
    tried = []

    def render(worker, task, on_page):
        """Page 1 is too large, page 2 takes too long."""
        tried.append(task["pages"])
        reasons = {1: "too_large", 2: "timeout"}
        return [{"page": n, **failed("images", reasons[n], "")} for n in task["pages"] or reasons]

    monkeypatch.setattr(rendering, "render_document", render)
    write_pdf(archive / "a.pdf", {}, {})
    document, results = [describe(archive, "a.pdf")], tmp_path / "results"
    low = {"max_pixels": 100, "cpu_seconds": 1, "wall_seconds": 1}
    shard(archive, results, document, low)
    assert shard(archive, results, document, {**low, "memory_mb": 9000})[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, {**low, "max_pixels": 200})[0] == {"a.pdf": "retried"}
    assert shard(archive, results, document, {**low, "max_pixels": 200})[0] == {"a.pdf": "reused"}
    raised = {"max_pixels": 200, "cpu_seconds": 1, "wall_seconds": 2}
    assert shard(archive, results, document, raised)[0] == {"a.pdf": "retried"}
    assert tried == [None, [1], [2]]


def test_raised_limit_works_without_hard_links(tmp_path, archive, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_pdf(archive / "a.pdf", {}, {"media": (0, 0, 900, 900)})
    document, results = [describe(archive, "a.pdf")], tmp_path / "results"
    shard(archive, results, document, {"max_pixels": 100_000})
    before = (results / "store/a.pdf/images/0001.jpg").read_bytes()
    outcome, _, store, _ = shard(archive, results, document)
    assert outcome == {"a.pdf": "retried"}
    assert store.read("a.pdf", "images")["status"].to_pylist() == ["ok", "ok"]
    assert (results / "store/a.pdf/images/0001.jpg").read_bytes() == before


def test_folder_of_images_is_in_natural_order(tmp_path, archive):
    (archive / "book").mkdir()
    for number in (1, 2, 10):
        image = Image.new("L", (100 + number, 50))
        image.save(archive / "book" / f"page-{number}.png")
    document = describe(archive, "book", "images", listing="1")
    _, digests, store, _ = shard(archive, tmp_path / "results", [document])
    assert store.read("book", "images")["width"].to_pylist() == [101, 102, 110]
    os.rename(archive / "book" / "page-1.png", archive / "book" / "page-30.png")
    document = describe(archive, "book", "images", listing="2")
    outcome, changed, store, _ = shard(archive, tmp_path / "results", [document])
    assert outcome == {"book": "computed"}
    assert changed != digests
    assert store.read("book", "images")["width"].to_pylist() == [102, 110, 101]


def test_selection_of_pages_is_part_of_a_document(tmp_path, archive):
    write_pages(archive / "a.pdf", 3)
    results = tmp_path / "results"
    _, _, store, _ = shard(archive, results, [describe(archive, "a.pdf", pages="2,5")])
    rows = store.read("a.pdf", "images").to_pylist()
    assert outcomes(rows) == [(2, "ok", None), (5, "failed", "unsupported")]
    outcome, _, store, _ = shard(archive, results, [describe(archive, "a.pdf", pages="1-2")])
    assert outcome == {"a.pdf": "computed"}
    assert store.read("a.pdf", "images")["page"].to_pylist() == [1, 2]


def test_what_the_plan_refused_is_a_row(tmp_path, archive):
    documents = [
        Document("outside.pdf", "outside", "outside.pdf", 0, 0),
        Document("missing.pdf", "missing", "missing.pdf", 0, 0),
        Document("pipe.pdf", "unsupported", "pipe.pdf", 0, 0),
        # Gone, or a folder that cannot be read, since the plan was made.
        Document("gone.pdf", "pdf", "gone.pdf", 100, 1),
        Document("gone", "images", "gone", 100, 1, listing="1"),
    ]
    outcome, digests, store, _ = shard(archive, tmp_path / "results", documents)
    assert set(outcome.values()) == {"computed"}
    assert set(digests.values()) == {None}
    found = {name: store.read(name, "images").to_pylist() for name in outcome}
    assert all(len(rows) == 1 and rows[0]["page"] is None for rows in found.values())
    reasons = {name: rows[0]["reason"] for name, rows in found.items()}
    assert reasons == {
        "outside.pdf": "unsupported",
        "missing.pdf": "io",
        "pipe.pdf": "unsupported",
        "gone.pdf": "io",
        "gone": "io",
    }
    assert "archive.follow_links" in found["outside.pdf"][0]["message"]
    assert set(shard(archive, tmp_path / "results", documents)[0].values()) == {"reused"}
    write_pages(archive / "gone.pdf", 1)
    outcome, _, store, _ = shard(archive, tmp_path / "results", [describe(archive, "gone.pdf")])
    assert store.read("gone.pdf", "images")["status"].to_pylist() == ["ok"]


def test_image_that_cannot_be_written_ends_the_job(pool, tmp_path):
    request = task(write_pages(tmp_path / "a.pdf", 2), tmp_path / "images")
    with pytest.raises(UserError, match="Cannot write"):
        render_document(pool, {**request, "folder": str(tmp_path / "nowhere")}, lambda: None)
    # All its messages but the last were read: the next one has another worker.
    assert outcomes(render_document(pool, request, lambda: None)) == [
        (1, "ok", None),
        (2, "ok", None),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", content_of(MARKS, 0, 0)], ids=["grey", "colour"])
def test_disk_that_fills_ends_the_job_and_fails_no_page(pool, tmp_path, engine, content):
    """Also where it is Poppler that writes, and does not say why it stopped."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    noise = b" ".join(b"%d %d m %d %d l S" % tuple(place) for place in PLACES)
    pages = ({"content": content + b" " + noise} for _ in range(6))
    path = write_pdf(tmp_path / "a.pdf", *pages)
    try:
        with pytest.raises(UserError, match="the disk is full"):
            render(pool, path, disk / "images", engine=engine, dpi=400)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_file_that_vanishes_or_changes_while_it_is_read_costs_itself(pool, tmp_path):
    """The first task has it, the following ones do not."""
    for change in (Path.unlink, lambda path: path.write_bytes(b"%PDF-1.4 no more")):
        path = write_pages(tmp_path / "a.pdf", FIRST_PAGES + 8)
        changed = []

        def on_page(path=path, change=change, changed=changed):
            if not changed:
                changed.append(change(path))

        rows = render(pool, path, tmp_path / "images", on_page=on_page)
        assert [row["page"] for row in rows] == list(range(1, FIRST_PAGES + 9))
        assert rows[0]["status"] == "ok"
        assert all(row["status"] == "failed" for row in rows[-8:])
        assert {row["reason"] for row in rows[-8:]} <= {"io", "corrupt"}
        assert all(row["message"] for row in rows[-8:])


def test_pages_of_one_document_are_shared_out(pool, tmp_path, monkeypatch):
    """And come back in order, whoever made them."""
    tasks, run = [], Worker.run
    monkeypatch.setattr(
        Worker, "run", lambda self, task: tasks.append((self, task["pages"])) or run(self, task)
    )
    count = FIRST_PAGES + 20
    path = write_pdf(tmp_path / "a.pdf", *({"media": (0, 0, 50 + n, 60)} for n in range(count)))
    rows = render(pool, path, tmp_path / "images")
    assert [row["page"] for row in rows] == list(range(1, count + 1))
    assert [row["width"] for row in rows] == [50 + n for n in range(count)]
    assert len({id(worker) for worker, _ in tasks}) == 2
    assert sorted(page for _, pages in tasks[1:] for page in pages) == list(
        range(FIRST_PAGES + 1, count + 1)
    )


# Ways ---------------------------------------------------------------------------------------------


def test_ways_of_every_choice_of_engines():
    poppler, pdfium = "poppler 1", "pdfium 2"

    def described(*engines):
        return [tuple(way.values()) for way in rendering.ways("pdf", engines)]

    look, alone, bare = (True, True), (False, True), (False, False)
    assert described(poppler, pdfium) == [
        (poppler, *look),
        (pdfium, *alone),
        (poppler, *alone),
        (pdfium, *bare),
    ]
    assert described(pdfium) == [(pdfium, *look), (pdfium, *alone), (pdfium, *bare)]
    assert described(poppler) == [(poppler, *look), (poppler, *alone)]
    assert len(rendering.ways("tiff", [poppler, pdfium])) == 1


#: A pdftoppm that comes to grief over page 2, alone or with others.
FRAIL = """#!/bin/sh
first=0 last=0 previous=
for word; do
    case $previous in -f) first=$word;; -l) last=$word;; esac
    previous=$word
done
if [ $first -le 2 ] && [ $last -ge 2 ]; then
    {grief}
fi
exec {pdftoppm} "$@"
"""


@needs_poppler
@pytest.mark.parametrize(
    ("grief", "reason"),
    [
        ("exit 99", "corrupt"),
        ("kill -SEGV $$", "corrupt"),
        ("while :; do :; done", "timeout"),
        ("exec sleep 1000", "timeout"),
    ],
    ids=["fails", "crashes", "spins", "hangs"],
)
def test_pdfium_makes_what_poppler_cannot(tmp_path, monkeypatch, grief, reason):
    frail = tmp_path / "bin" / "pdftoppm"
    frail.parent.mkdir()
    frail.write_text(FRAIL.format(grief=grief, pdftoppm=shutil.which("pdftoppm")))
    frail.chmod(0o755)
    monkeypatch.setenv("PATH", f"{frail.parent}:{os.environ['PATH']}")
    pool = WorkerPool(1, "scanmill.rendering")
    path = write_pages(tmp_path / "a.pdf", 3)
    limits = {"cpu_seconds": 1, "wall_seconds": 6}
    rows = render(pool, path, tmp_path / "images", engine="auto", **limits)
    assert [row["status"] for row in rows] == ["ok"] * 3, rows
    assert [row["engine"].split()[0] for row in rows] == ["poppler", "pdfium", "poppler"]
    rows = render(pool, path, tmp_path / "one", engine="poppler", **limits)
    pool.close()
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", reason), (3, "ok", None)]
    # The pages around it are what they are without it.
    for name in ("0001.jpg", "0003.jpg"):
        images = {(tmp_path / folder / name).read_bytes() for folder in ("images", "one")}
        assert len(images) == 1
    running = subprocess.run(["pgrep", "-f", str(frail)], capture_output=True, check=False)
    assert running.stdout == b""


@needs_poppler
def test_poppler_makes_what_kills_those_who_look_inside(pool, tmp_path, monkeypatch):
    """What the first way cannot for want of looking, the last one makes: Poppler alone."""
    tasks = []

    def run(worker, task, on_page):
        tasks.append((task["engine"].split()[0], task["inspect"], task["pages"]))
        if task["inspect"] or task["engine"].startswith("pdfium"):
            bad = failed("images", "memory", f"killed at {task['engine']}")
            return Outcome(2, {page: dict(bad) for page in task["pages"] or (1, 2)}, set(), None)
        return run_task(worker, task, on_page)

    monkeypatch.setattr(rendering, "run_task", run)
    path = write_pages(tmp_path / "a.pdf", 2)
    rows = render(pool, path, tmp_path / "images", engine="auto")
    assert [(row["status"], row["engine"].split()[0]) for row in rows] == [("ok", "poppler")] * 2
    engines = [(engine, inspect) for engine, inspect, _ in tasks]
    assert engines[0] == ("poppler", True)
    assert set(engines[1:3]) == {("pdfium", False)}
    assert set(engines[3:]) == {("poppler", False)}


def test_an_engine_that_failed_a_page_is_not_asked_for_it_again(monkeypatch):
    tried = []

    def run(worker, task, on_page):
        """Page 1 is the engines' fault, page 2 that of those who look inside."""
        tried.append((task["engine"], task["pages"]))
        bad = failed("images", "corrupt", task["engine"])
        return Outcome(2, {page: dict(bad) for page in task["pages"] or (1, 2)}, {1}, None)

    monkeypatch.setattr(rendering, "run_task", run)
    pool = SimpleNamespace(
        size=1, submit=lambda function, *arguments: Done(function(None, *arguments))
    )
    request = {"kind": "pdf", "pages": None, "engines": ["poppler 1", "pdfium 2"]}
    rows = render_document(pool, request, lambda: None)
    assert [row["status"] for row in rows] == ["failed"] * 2
    assert [pages for engine, pages in tried if engine == "poppler 1"] == [None, [2]]


class Done(NamedTuple):
    """A future that has come."""

    value: object

    def result(self):
        return self.value


def test_failures_of_all_ways_are_told_and_limits_come_first():
    corrupt, slow = (
        failed("images", "corrupt", "Poppler: no"),
        failed("images", "timeout", "too slow"),
    )
    joined = rendering._joined([corrupt, slow, corrupt])
    assert (joined["reason"], joined["message"]) == ("timeout", "Poppler: no; too slow")
    image = {"status": "ok", "message": None}
    assert rendering._joined([corrupt, image]) == image


def test_document_after_an_error_is_not_blamed_for_it(tmp_path, archive, monkeypatch):
    """The worker of a document that was given up still speaks of that document."""
    for name in ("a.pdf", "b.pdf", "c.pdf"):
        write_pages(archive / name, 4)
    documents = [describe(archive, name) for name in ("a.pdf", "b.pdf", "c.pdf")]
    original = concurrent.futures.as_completed
    monkeypatch.setattr(
        rendering,
        "as_completed",
        # Nothing is cancelled, as when the next document is quicker than the news of the error.
        lambda futures: original(concurrent.futures.wait(futures).done),
    )
    calls = threading.local()
    page = Progress.page

    def raises_once(self, count=1):
        if not getattr(calls, "made", False):
            calls.made = True
            raise UserError("the disk is full")
        page(self, count)

    monkeypatch.setattr(Progress, "page", raises_once)
    results = tmp_path / "results"
    with pytest.raises(UserError, match="the disk is full"):
        shard(archive, results, documents)
    store = StageStore(results, "images", SETTINGS, "code")
    done = [
        name
        for name in ("a.pdf", "b.pdf", "c.pdf")
        if (document_folder(results, name) / "images.parquet").exists()
    ]
    assert done == ["b.pdf", "c.pdf"]
    for name in done:
        assert store.read(name, "images")["status"].to_pylist() == ["ok"] * 4
    assert not list((results / "store").rglob(".tmp-*"))


def test_opencv_is_told_apart_from_a_full_memory():
    error = cv2.error("no room")
    error.code = cv2.Error.STS_NO_MEM
    assert rendering._failure(error, LIMITS)["reason"] == "memory"
    assert rendering._failure(cv2.error("odd"), LIMITS)["reason"] == "corrupt"
    assert rendering._failure(OSError(12, "Cannot allocate memory"), LIMITS)["reason"] == "memory"
    assert rendering._failure(OSError(5, "Input/output error"), LIMITS)["reason"] == "io"

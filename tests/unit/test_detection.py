"""A shard's pages, from page images to each document's record."""

import errno
import os

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from detecting import DEVICES, HALF, SETTINGS, copy_model, detect, draw_pages, load, pixels

from scanmill.detection import Work, detect_documents, place
from scanmill.detector import Detector
from scanmill.errors import UserError
from scanmill.preprocessing import pages_of
from scanmill.progress import Progress
from scanmill.store import StageStore, file_digest
from scanmill.tables import SCHEMAS, from_rows
from scanmill.tiles import TileDetections, merge_tiles

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The shipped model on small pages."""
    return copy_model(tmp_path_factory.mktemp("models") / "small", **HALF)


@pytest.fixture(scope="module")
def small(model, device, images):
    """It, with a cap on detections that the second page meets, and the first does not."""
    detector = Detector(model, SETTINGS, device, 3)
    _, found = detect(detector, [pixels(detector, image) for image in images], images)
    few, many, _ = (len(each.scores) for each in found)
    assert 0 < few < many - 1
    return Detector(model, {**SETTINGS, "max_detections": (few + many) // 2}, device, 3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three pages, half of the first empty."""
    first, *others = draw_pages(tmp_path_factory.mktemp("pages"), 3)
    first[len(first) // 2 :] = 255
    return [first, *others]


def store_pages(results, images):
    """Rows of `images` of three documents: of three pages (one failed), of one, and of none."""
    pages = [("a.pdf", 1, 0), ("a.pdf", 2, None), ("a.pdf", 3, 1), ("b.pdf", 1, 2)]
    rows = []
    for document, page, index in pages:
        if index is None:
            row = {"status": "failed"}
        else:
            name = f"{document}-{page}.png"
            cv2.imwrite(str(results / name), images[index])
            height, width = images[index].shape
            sha256 = file_digest(results / name)
            row = {
                "status": "ok",
                "image": name,
                "width": width,
                "height": height,
                "sha256": sha256,
            }
        rows.append({"document": document, "page": page, **row})
    rows.append({"document": "c.pdf", "page": None, "status": "failed"})
    return from_rows("images", rows)


def run_shard(detector, results, table, threads=2):
    """Detect as the rule does; returns the two tables of each document."""
    store = StageStore(results, "detections", SETTINGS, "code")
    work = []
    for document in ("a.pdf", "b.pdf", "c.pdf"):
        mine = pages_of(table.filter(pa.compute.equal(table["document"], document)))
        work.append(Work(document, mine, store.fingerprint([document])))
    progress = Progress("detect_layout", len(work), 3, 3)
    detect_documents(detector, work, store, threads, progress)
    assert (progress.done_documents, progress.done_pages) == (3, 3)
    assert all(store.state(each.document, each.wanted) == "done" for each in work)
    return {
        each.document: [store.read(each.document, t) for t in ("detections", "detected_pages")]
        for each in work
    }


def test_shard_is_recorded_by_document(small, images, tmp_path, monkeypatch):
    tiles, alone = detect(small, [pixels(small, image) for image in images], images)
    table = store_pages(tmp_path, images)
    found = run_shard(small, tmp_path, table)
    detections, pages = found["a.pdf"]
    assert detections.schema.remove_metadata().equals(SCHEMAS["detections"])
    assert pages.schema.remove_metadata().equals(SCHEMAS["detected_pages"])
    assert pages["page"].to_pylist() == [1, 3]
    rows = detections.to_pylist()
    for page, one in ((1, alone[0]), (3, alone[1])):
        mine = [row for row in rows if row["page"] == page]
        assert [row["detection"] for row in mine] == list(range(1, len(one.scores) + 1))
        assert [row["score"] for row in mine] == one.scores.tolist()
        assert [row["x_max"] for row in mine] == one.boxes[:, 2].tolist()
        names = [small.classes[i] for i in one.class_ids]
        assert [row["class_name"] for row in mine] == names
        assert [row["class_id"] for row in mine] == one.class_ids.tolist()
        polygons = [None if p is None else p.tolist() for p in one.polygons]
        assert [row["polygon"] for row in mine] == polygons
    counts = [len(alone[0].scores), len(alone[1].scores)]
    assert pages["n_detections"].to_pylist() == counts
    # A page that met the cap says so.
    assert counts[0] < counts[1] == small.max_detections
    assert pages["capped"].to_pylist() == [False, True]
    outcome = pages.to_pylist()[0]
    assert (outcome["document"], outcome["status"]) == ("a.pdf", "ok")
    assert outcome["n_proposals"] == tiles[0].n_proposals
    assert (outcome["precision"], outcome["device"]) == ("float32", small.device_kind)
    assert 0 < np.mean(outcome["ink"]) < 128
    assert [table.num_rows for table in found["c.pdf"]] == [0, 0]
    assert outcome["type_height"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(small, "batch_size", 1)
        again = run_shard(small, tmp_path, table, threads=1)
    for document, tables in found.items():
        for one, other in zip(tables, again[document], strict=True):
            assert one.equals(other)


def test_missing_page_image_names_the_repair(small, images, tmp_path):
    table = store_pages(tmp_path, images)
    os.unlink(tmp_path / "a.pdf-3.png")
    with pytest.raises(UserError, match=r"a\.pdf, page 3.*verify_results\.py --repair"):
        run_shard(small, tmp_path, table)
    cv2.imwrite(str(tmp_path / "a.pdf-3.png"), images[2])
    with pytest.raises(UserError, match=r"a\.pdf, page 3, was rendered but its bytes are not"):
        run_shard(small, tmp_path, table)


def test_failed_page_is_an_outcome(small, images, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small, "network", exhausted)
    table = store_pages(tmp_path, images)
    detections, pages = run_shard(small, tmp_path, table)["a.pdf"]
    assert detections.num_rows == 0
    for row in pages.to_pylist():
        assert (row["status"], row["stage"], row["reason"]) == ("failed", "detections", "memory")
        assert row["n_detections"] is row["capped"] is row["n_proposals"] is None
        assert row["ink"]


def test_large_pages_go_through_in_tiles(model, device, images, tmp_path):
    """Each page as its own tiles give it, whatever else is in the batches."""
    tiles = {"size": 600, "overlap": 200}
    tiled = Detector(model, {**SETTINGS, "tiles": tiles}, device, 3)
    table = store_pages(tmp_path, images)
    found = run_shard(tiled, tmp_path, table)
    for document, page, image in (("a.pdf", 1, 0), ("a.pdf", 3, 1), ("b.pdf", 1, 2)):
        sample = load(tiled, images[image])
        assert len(sample.windows) == 6
        (each,) = tiled.detect_batches([sample.pixels])
        placed = [place(*one) for one in zip(each, sample.windows, strict=True)]
        merged = merge_tiles(sample.windows, placed)
        rows = [row for row in found[document][0].to_pylist() if row["page"] == page]
        assert [row["score"] for row in rows] == merged.scores.tolist()
        assert [row["y_max"] for row in rows] == merged.boxes[:, 3].tolist()
        assert len(rows) < sum(len(one.scores) for one in placed)
        outcome = next(r for r in found[document][1].to_pylist() if r["page"] == page)
        assert outcome["n_detections"] == len(rows)
        assert outcome["n_proposals"] == sum(one.n_proposals for one in each)


def test_tile_that_fails_fails_its_page_alone(model, device, images, tmp_path, monkeypatch):
    tiled = Detector(model, {**SETTINGS, "tiles": {"size": 600, "overlap": 200}}, device, 3)
    network, calls = tiled.network, []

    def spoilt(canvases, sizes):
        found = network(canvases, sizes)
        calls.append(len(sizes))
        if len(calls) == 2:  # Tiles 4 to 6 of the first page.
            return found._replace(finite=torch.tensor([True, False, True]))
        return found

    monkeypatch.setattr(tiled, "network", spoilt)
    found = run_shard(tiled, tmp_path, store_pages(tmp_path, images))
    outcomes = [row["status"] for tables in found.values() for row in tables[1].to_pylist()]
    assert outcomes == ["failed", "ok", "ok"]
    assert found["a.pdf"][1].to_pylist()[0]["reason"] == "detector"
    assert {row["page"] for row in found["a.pdf"][0].to_pylist()} == {3}


def test_box_of_a_tile_is_placed_on_the_page():
    tile = TileDetections(
        np.array([[10, 20, 30, 60], [-5, 0, 200, 50], [40, 5, 40, 9]], np.float32),
        np.array([0.5, 0.9, 0.8], np.float32),
        np.array([1, 0, 2], np.int32),
        np.ones((3, 28, 28), np.float32),
        (100, 50),
        7,
    )
    placed = place(tile, (1000, 2000, 1100, 2400))
    # Twice as wide, four times as high; cut at the tile's borders; what has no area goes.
    assert placed.boxes.tolist() == [[1000, 2000, 1100, 2200], [1020, 2080, 1060, 2240]]
    assert placed.class_ids.tolist() == [0, 1]
    for box, polygon in zip(placed.boxes, placed.polygons, strict=True):
        points = polygon.reshape(-1, 2)
        assert (points.min(axis=0) <= box[:2] + 2).all()
        assert (points.max(axis=0) >= box[2:] - 6).all()


def test_disk_that_is_full_ends_the_job(small, images, tmp_path, monkeypatch):
    """Though another thread writes."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StageStore, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run_shard(small, tmp_path, store_pages(tmp_path, images))

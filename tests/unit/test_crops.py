"""Crops are the page's own pixels, in files or in the record."""

import hashlib
import io
import os
import threading

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scanmill import crops as crops_module
from scanmill.crops import (
    Work,
    crop_documents,
    crop_page,
    dataset_rows,
    inputs_digest,
    padded_boxes,
)
from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.image_files import decode, is_bilevel_png
from scanmill.progress import Progress
from scanmill.store import StageStore, are_dropped, read_record_metadata
from scanmill.tables import SCHEMAS, from_rows

SETTINGS = {"classes": None, "padding": 8, "format": "auto", "jpeg_quality": 95, "store": "parquet"}
WIDTH, HEIGHT = 300, 400


def picture(channels=3):
    """Smooth, so that JPEG changes little, and everywhere different."""
    x, y = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    return np.stack([x, y, (x + y) / 2], axis=2)[..., :channels].astype(np.uint8).squeeze()


def bilevel():
    rng = np.random.default_rng(0)
    return (rng.random((HEIGHT, WIDTH)) < 0.9).astype(np.uint8) * 255


def encode(pixels, kind):
    if kind == "bilevel":
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert("1").save(buffer, "PNG")
        return buffer.getvalue()
    return cv2.imencode(f".{kind}", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def add_page(results, pixels, kind, document="a.pdf", page=1):
    """Store a page image; its row of `images`."""
    name = f"store/{document}/images/{page:04d}.{'png' if kind == 'bilevel' else kind}"
    data = encode(pixels, kind)
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {
        "document": document,
        "page": page,
        "status": "ok",
        "image": name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "sha256": hashlib.sha256(data).hexdigest(),
    }


BOXES = {3: (50.2, 60.9, 120.1, 90.0), 1: (0, 0, 40.5, 30), 2: (250, 380.5, 300, 400)}


def regions_of(page=1, document="a.pdf", boxes=BOXES, names=("text", "table", "figure")):
    """Rows of `regions` in a reading order that is not that of the detections."""
    rows = [
        {
            "document": document,
            "page": page,
            "detection": detection,
            "class_name": names[detection % len(names)],
            "x_min": box[0],
            "y_min": box[1],
            "x_max": box[2],
            "y_max": box[3],
        }
        for detection, box in boxes.items()
    ]
    return from_rows("regions", rows)


def crop(results, image, regions=None, **settings):
    table = regions_of() if regions is None else regions
    return crop_page(image, table, results, {**SETTINGS, **settings})


# Boxes --------------------------------------------------------------------------------------------


def test_boxes_are_padded_to_whole_pixels_within_the_page():
    boxes = np.array(
        [[10.2, 20.7, 30.1, 40.0], [0, 0, 5, 5], [290.5, 390.5, 300, 400], [3, 395, 299, 399.5]],
        np.float32,
    )
    padded = padded_boxes(boxes, 8, 300, 400)
    assert padded.dtype == np.int32
    assert padded.tolist() == [
        [2, 12, 39, 48],
        [0, 0, 13, 13],
        [282, 382, 300, 400],
        [0, 387, 300, 400],
    ]
    assert padded_boxes(boxes, 0, 300, 400)[0].tolist() == [10, 20, 31, 40]
    assert padded_boxes(boxes, 10_000, 300, 400).tolist() == [[0, 0, 300, 400]] * 4
    assert padded_boxes(boxes[:0], 8, 300, 400).shape == (0, 4)


# Pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "kind"), [(picture(), "png"), (picture(1), "png"), (bilevel(), "bilevel")]
)
@pytest.mark.parametrize("format_", ["auto", "png"])
def test_crops_are_the_pages_pixels(tmp_path, pixels, kind, format_):
    image = add_page(tmp_path, pixels, kind)
    found = crop(tmp_path, image, format=format_)
    assert [row["detection"] for row, _ in found] == [1, 2, 3]
    for row, data in found:
        box = BOXES[row["detection"]]
        padded = padded_boxes(np.array([box]), 8, WIDTH, HEIGHT)[0]
        assert [row["x_min"], row["y_min"], row["x_max"], row["y_max"]] == padded.tolist()
        x_min, y_min, x_max, y_max = padded
        assert (row["width"], row["height"]) == (x_max - x_min, y_max - y_min)
        assert np.array_equal(decode(data), pixels[y_min:y_max, x_min:x_max])
        assert is_bilevel_png(data) == (kind == "bilevel")
        assert Image.open(io.BytesIO(data)).mode == {"bilevel": "1", "png": "RGB"}[kind] or (
            pixels.ndim == 2 and Image.open(io.BytesIO(data)).mode == "L"
        )
        name = ("text", "table", "figure")[row["detection"] % 3]
        assert row["path"] == f"0001/{row['detection']:04d}-{name}.png"


@pytest.mark.parametrize(
    ("pixels", "kind", "format_"),
    [
        (picture(), "jpg", "auto"),
        (picture(1), "jpg", "auto"),
        (picture(), "jp2", "auto"),
        (picture(), "png", "jpeg"),
        (bilevel(), "bilevel", "jpeg"),
    ],
)
def test_jpeg_crops_are_close_to_the_page(tmp_path, pixels, kind, format_):
    image = add_page(tmp_path, pixels, kind)
    page = decode((tmp_path / image["image"]).read_bytes())
    for row, data in crop(tmp_path, image, format=format_):
        assert row["path"].endswith(".jpg")
        assert data[:2] == b"\xff\xd8"
        cut = page[row["y_min"] : row["y_max"], row["x_min"] : row["x_max"]]
        decoded = decode(data)
        assert decoded.shape == cut.shape
        tolerance = 40 if kind == "bilevel" else 4
        assert np.abs(decoded.astype(int) - cut).mean() < tolerance


def test_quality_is_that_of_the_setting(tmp_path):
    rng = np.random.default_rng(0)
    image = add_page(tmp_path, rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8), "png")
    sizes = [
        sum(len(data) for _, data in crop(tmp_path, image, format="jpeg", jpeg_quality=quality))
        for quality in (30, 60, 95)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_class_may_be_named_anything(tmp_path):
    image = add_page(tmp_path, picture(), "png")
    for name in ("../../etc", "a/b", "Gärten & Höfe", "", "\n", "ä" * 300):
        ((row, _),) = crop(tmp_path, image, regions_of(boxes={7: BOXES[1]}, names=(name,)))
        assert row["class_name"] == name
        folder, _, file = row["path"].partition("/")
        assert folder == "0001"
        assert file.startswith("0007-")
        assert file.isascii()
        assert "/" not in file
        assert len(file) < 255


def test_crop_that_its_format_cannot_hold_is_a_failed_row(tmp_path):
    long = np.zeros((4, 66_000), np.uint8)
    image = add_page(tmp_path, long, "bilevel")
    regions = regions_of(boxes={1: (0, 0, 66_000, 4), 2: (0, 0, 60, 4)})
    (bad, data), (good, _) = crop(tmp_path, image, regions, format="jpeg")
    assert (bad["status"], bad["reason"], data) == ("failed", "unsupported", b"")
    assert "stage" not in bad
    assert bad["message"]
    assert good["status"] == "ok"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "not those that were rendered"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "not those that were rendered"),
        (lambda path: path.write_bytes(encode(picture(1), "png")), "not those that were rendered"),
    ],
)
def test_missing_page_image_names_the_repair(tmp_path, damage, says, monkeypatch):
    image = add_page(tmp_path, picture(), "jpg")
    damage(tmp_path / image["image"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says) as raised:
        crop(tmp_path, image)
    message = str(raised.value)
    assert f"{tmp_path / image['image']} of a.pdf, page 1," in message
    assert f"verify_results.py --repair --directory {tmp_path}" in message


def test_page_of_another_size_than_its_row_is_not_cropped(tmp_path):
    image = add_page(tmp_path, picture(), "png") | {"width": 299}
    with pytest.raises(UserError, match="it is damaged"):
        crop(tmp_path, image)


# Documents ----------------------------------------------------------------------------------------


def make_store(results, **settings):
    return StageStore(results, "crops", {**SETTINGS, **settings}, "code")


def make_work(results, store, document="a.pdf", pages=(1, 2, 3)):
    """A document whose second page failed."""
    images = [
        add_page(results, picture(), "png", document, page)
        if page != 2
        else {"document": document, "page": 2, "status": "failed"}
        for page in pages
    ]
    images = from_rows("images", images)
    regions = pa.concat_tables([regions_of(page, document) for page in pages if page != 2])
    return Work(document, images, regions, store.fingerprint(inputs_digest(images, regions)))


def run(store, *works, threads=1, keep=True):
    progress = Progress("crop_regions", len(works), 1, 3)
    with Renderer(store.results.parent, [], threads) as renderer:
        crop_documents(works, store, threads, progress, renderer, keep)
    assert progress.done_documents == len(works)
    assert all(store.state(work.document, work.wanted) == "done" for work in works)


def test_bytes_lie_in_the_record(tmp_path):
    store = make_store(tmp_path)
    work = make_work(tmp_path, store)
    run(store, work)
    table = store.read("a.pdf", "crop_images")
    assert table.schema.remove_metadata().equals(SCHEMAS["crop_images"])
    rows = table.to_pylist()
    assert [(row["page"], row["detection"]) for row in rows] == [
        (page, detection) for page in (1, 3) for detection in (1, 2, 3)
    ]
    for row in rows:
        # As Hugging Face datasets decode an image.
        assert set(row["image"]) == {"bytes", "path"}
        assert row["image"]["path"] is None
        pixels = decode(row["image"]["bytes"])
        assert pixels.shape[:2] == (row["height"], row["width"])
        expected = picture()[row["y_min"] : row["y_max"], row["x_min"] : row["x_max"]]
        assert np.array_equal(pixels, expected)
    assert not (store.folder("a.pdf") / "crops").exists()
    assert read_record_metadata(tmp_path, "a.pdf", "crops")["files"] == "{}"
    dataset = dataset_rows(store, "a.pdf")
    assert dataset.schema.equals(SCHEMAS["crops"])
    assert dataset["path"].null_count == 6
    names = [name for name in SCHEMAS["crops"].names if name != "path"]
    assert dataset.select(names).equals(table.select(names).cast(dataset.select(names).schema))


def test_files_lie_in_the_store(tmp_path):
    store = make_store(tmp_path, store="files")
    run(store, make_work(tmp_path, store))
    rows = store.read("a.pdf", "crop_images").to_pylist()
    assert len(rows) == 6
    for row in rows:
        assert row["image"]["bytes"] is None
        path = tmp_path / row["image"]["path"]
        assert path.parent == store.folder("a.pdf") / "crops" / f"{row['page']:04d}"
        expected = picture()[row["y_min"] : row["y_max"], row["x_min"] : row["x_max"]]
        assert np.array_equal(decode(path.read_bytes()), expected)
    paths = dataset_rows(store, "a.pdf")["path"].to_pylist()
    assert paths == [row["image"]["path"] for row in rows]
    assert paths[0] == "store/a.pdf/crops/0001/0001-table.png"
    os.unlink(tmp_path / paths[0])
    assert read_record_metadata(tmp_path, "a.pdf", "crops") is None
    # Back to bytes: no file stays.
    store = make_store(tmp_path)
    run(store, make_work(tmp_path, store))
    assert not (store.folder("a.pdf") / "crops").exists()


@pytest.mark.parametrize("how", ["parquet", "files"])
def test_classes_are_those_of_the_setting(tmp_path, how):
    for classes, detections in ((["table"], [1, 1]), ([], []), (["figure", "text"], [2, 3] * 2)):
        store = make_store(tmp_path, classes=classes, store=how)
        run(store, make_work(tmp_path, store))
        rows = store.read("a.pdf", "crop_images").to_pylist()
        assert [row["detection"] for row in rows] == detections
        assert all(row["class_name"] in classes for row in rows)
        assert dataset_rows(store, "a.pdf").num_rows == len(detections)


def test_document_without_regions_has_an_empty_record(tmp_path):
    store = make_store(tmp_path)
    images = from_rows("images", [{"document": "a.pdf", "page": None, "status": "failed"}])
    regions = SCHEMAS["regions"].empty_table()
    run(store, Work("a.pdf", images, regions, store.fingerprint(inputs_digest(images, regions))))
    assert store.read("a.pdf", "crop_images").num_rows == 0
    assert dataset_rows(store, "a.pdf").schema.equals(SCHEMAS["crops"])


def test_failed_crop_is_a_row_without_an_image(tmp_path, monkeypatch):
    original = crops_module.encode

    def fail(pixels, *rest):
        if pixels.shape[0] == 38:
            raise ValueError("too odd")
        return original(pixels, *rest)

    monkeypatch.setattr(crops_module, "encode", fail)
    for how in ("parquet", "files"):
        store = make_store(tmp_path, store=how)
        run(store, make_work(tmp_path, store))
        rows = [row for row in dataset_rows(store, "a.pdf").to_pylist() if row["detection"] == 1]
        assert [row["page"] for row in rows] == [1, 3]
        for row in rows:
            assert (row["status"], row["reason"]) == ("failed", "unsupported")
            assert (row["message"], row["path"]) == ("too odd", None)
        images = store.read("a.pdf", "crop_images")["image"].to_pylist()
        assert [image is None for image in images] == [True, False, False] * 2


def test_pages_are_written_as_they_are_cropped(tmp_path, monkeypatch):
    """One page's crops at a time in memory: a row group a page."""
    alive, most = [], []
    original = crops_module.from_rows

    def record(name, rows):
        alive.append(sum(len(row["image"]["bytes"]) for row in rows))
        most.append(len(written) - len(alive))
        return original(name, rows)

    written = []
    write = pq.ParquetWriter.write_table

    def write_table(self, table, *rest, **options):
        written.append(table.num_rows)
        return write(self, table, *rest, **options)

    monkeypatch.setattr(crops_module, "from_rows", record)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    store = make_store(tmp_path)
    run(store, make_work(tmp_path, store, pages=(1, 3, 4, 5)))
    assert [rows for rows in written if rows] == [3, 3, 3, 3]
    # Before a page's rows are made, those of the page before it are written.
    assert min(most) >= -1
    groups = pq.ParquetFile(store.folder("a.pdf") / "crops.parquet")
    sizes = [groups.metadata.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert [size for size in sizes if size] == [3, 3, 3, 3]


def test_documents_run_side_by_side(tmp_path):
    store = make_store(tmp_path)
    works = [make_work(tmp_path, store, f"{i}.pdf") for i in range(5)]
    run(store, *works, threads=3)
    one = store.read("0.pdf", "crop_images")
    for work in works[1:]:
        other = store.read(work.document, "crop_images")
        assert other.drop_columns("document").equals(one.drop_columns("document"))


def test_error_in_a_document_ends_the_job_and_keeps_the_others(tmp_path):
    store = make_store(tmp_path)
    works = [make_work(tmp_path, store, f"{i}.pdf") for i in range(3)]
    os.unlink(tmp_path / "store/1.pdf/images/0003.png")
    with pytest.raises(UserError, match=r"of 1\.pdf, page 3"):
        run(store, *works)
    assert store.state("0.pdf", works[0].wanted) == "done"
    assert store.state("1.pdf", works[1].wanted) == "stale"
    assert not list(tmp_path.rglob(".tmp-*"))
    assert threading.active_count() < 20


def test_page_images_are_dropped_once_their_crops_are_recorded(tmp_path):
    results = tmp_path / "results"
    store = make_store(results)
    works = [make_work(results, store, f"{i}.pdf") for i in range(3)]
    os.unlink(results / "store/1.pdf/images/0003.png")
    with pytest.raises(UserError, match=r"of 1\.pdf, page 3"):
        run(store, *works, keep=False)
    assert are_dropped(results, "0.pdf")
    assert not list(results.glob("store/0.pdf/images/*.png"))
    assert not are_dropped(results, "1.pdf")
    assert list(results.glob("store/1.pdf/images/*.png"))


def test_page_images_of_failed_crops_are_dropped(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("too odd")

    monkeypatch.setattr(crops_module, "encode", fail)
    store = make_store(tmp_path / "results")
    run(store, make_work(tmp_path / "results", store), keep=False)
    assert are_dropped(tmp_path / "results", "a.pdf")


# What crops depend on -----------------------------------------------------------------------------


def test_inputs_are_boxes_classes_and_pixels_not_the_reading_order(tmp_path):
    store = make_store(tmp_path)
    work = make_work(tmp_path, store)
    base = inputs_digest(work.images, work.regions)
    reordered = work.regions.take(list(reversed(range(work.regions.num_rows))))
    places = pa.array([*range(6, 0, -1)], pa.int32())
    index = reordered.schema.get_field_index("region")
    reordered = reordered.set_column(index, "region", places)
    assert inputs_digest(work.images, reordered) == base
    assert inputs_digest(work.images, work.regions.slice(1)) != base
    for column, value in (("x_min", 1.5), ("class_name", "list"), ("detection", 9)):
        rows = work.regions.to_pylist()
        rows[0][column] = value
        assert inputs_digest(work.images, from_rows("regions", rows)) != base
    for column, value in (("sha256", "0"), ("image", "elsewhere.png")):
        rows = work.images.to_pylist()
        rows[0][column] = value
        assert inputs_digest(from_rows("images", rows), work.regions) != base
    rows = work.regions.to_pylist()
    rows[0]["score"] = 0.9
    assert inputs_digest(work.images, from_rows("regions", rows)) == base

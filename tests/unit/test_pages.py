"""The final word on every page, its regions, and its own table."""

import json

import pyarrow.parquet as pq
import pytest

import scanmill
from scanmill.flags import SMALL_TYPE
from scanmill.pages import finish_document, inputs_digest
from scanmill.store import StageStore
from scanmill.tables import SCHEMA_VERSION, SCHEMAS, from_rows, read_metadata, read_table

NAME = "books/a.pdf"
SETTINGS = {
    "classes": None,
    "min_score": {"default": 0.5},
    "duplicate_iou": 0.7,
    "reading_order": "columns",
    "page_tables": True,
}
MODEL = {"name": "scanmill-layout", "digest": "0123", "classes": ["text", "table"]}


def image_row(page, **entries):
    image = {
        "status": "ok",
        "image": f"store/{NAME}/images/{page:04d}.jpg",
        "width": 1000,
        "height": 1400,
        "dpi_x": 120.0,
        "source": "rendered",
        "to_pdf": [0.6, 0, 0, -0.6, 0, 840],
        "sha256": f"{page:064d}",
    }
    return {"document": NAME, "page": page, **image, **entries}


FAILED_IMAGE = {
    "document": NAME,
    "page": 2,
    "status": "failed",
    "stage": "images",
    "reason": "corrupt",
    "message": "a bad page",
}


def outcome_row(page, **entries):
    found = {"status": "ok", "n_detections": 3, "capped": False, "n_proposals": 500}
    return {"document": NAME, "page": page, **found, "precision": "float32", **entries}


FAILED_OUTCOME = {
    "document": NAME,
    "page": 4,
    "status": "failed",
    "stage": "detections",
    "reason": "memory",
    "message": "too large",
}


def detection_row(page, detection, score, y, name="text"):
    box = {"x_min": 100.0, "y_min": float(y), "x_max": 900.0, "y_max": y + 100.0}
    place = {"document": NAME, "page": page, "detection": detection}
    class_id = MODEL["classes"].index(name)
    polygon = [100, y, 900, y, 900, y + 100]
    row = {"class_id": class_id, "class_name": name, "score": score, "polygon": polygon}
    return {**place, **row, **box}


def tables():
    """Page 1 has two regions, page 2 no image, page 3 nothing sure, page 4 no detections."""
    images = [image_row(1), FAILED_IMAGE, image_row(3), image_row(4)]
    outcomes = [outcome_row(1), outcome_row(3, capped=True), FAILED_OUTCOME]
    detections = [
        detection_row(1, 1, 0.9, 500),
        detection_row(1, 2, 0.8, 200, "table"),
        detection_row(1, 3, 0.3, 900),
        detection_row(3, 1, 0.2, 200),
    ]
    return (
        from_rows("images", images),
        from_rows("detected_pages", outcomes),
        from_rows("detections", detections),
    )


def finish(results, images, outcomes, detections, model=MODEL, **settings):
    store = StageStore(results, "regions", {**SETTINGS, **settings}, "code")
    wanted = store.fingerprint(inputs_digest(images, outcomes, detections, model))
    with store.replace(NAME, wanted) as draft:
        finish_document(images, outcomes, detections, model, store, draft)
    assert store.state(NAME, wanted) == "done"
    return store, wanted


@pytest.fixture
def finished(tmp_path):
    return finish(tmp_path, *tables())


def test_every_page_has_its_final_row(finished):
    store, _ = finished
    table = store.read(NAME, "pages")
    assert table.schema.remove_metadata().equals(SCHEMAS["pages"])
    rows = table.to_pylist()
    outcomes = [(row["page"], row["status"], row["stage"], row["reason"]) for row in rows]
    assert outcomes == [
        (1, "ok", None, None),
        (2, "failed", "images", "corrupt"),
        (3, "ok", None, None),
        (4, "failed", "detections", "memory"),
    ]
    assert [row["n_regions"] for row in rows] == [2, None, 0, None]
    assert [row["n_detections"] for row in rows] == [3, None, 3, None]
    assert [row["capped"] for row in rows] == [False, None, True, None]
    assert [row["flags"] for row in rows] == [
        [],
        None,
        ["capped", "low_scores", "no_regions"],
        None,
    ]
    assert rows[1]["message"] == "a bad page"
    assert rows[3]["message"] == "too large"
    images = tables()[0].to_pylist()
    columns = [name for name in SCHEMAS["images"].names if name not in ("status", "stage")]
    for row, image in zip(rows, images, strict=True):
        for name in set(columns) - {"reason", "message"}:
            assert row[name] == image[name], name


def test_regions_are_in_reading_order_and_keep_their_numbers(finished):
    store, _ = finished
    table = store.read(NAME, "regions")
    assert table.schema.remove_metadata().equals(SCHEMAS["regions"])
    rows = table.to_pylist()
    assert [(row["page"], row["detection"], row["region"]) for row in rows] == [
        (1, 2, 1),
        (1, 1, 2),
    ]
    detections = {(row["page"], row["detection"]): row for row in tables()[2].to_pylist()}
    for row in rows:
        assert row.pop("region")
        assert row == detections[row["page"], row["detection"]]


def test_page_that_was_looked_at_has_a_table(finished):
    store, wanted = finished
    folder = store.folder(NAME) / "regions"
    assert sorted(path.name for path in folder.iterdir()) == ["0001.parquet", "0003.parquet"]
    table = read_table(folder / "0001.parquet")
    assert table.schema.remove_metadata().equals(SCHEMAS["regions"])
    assert table.equals(store.read(NAME, "regions"))
    assert read_table(folder / "0003.parquet").num_rows == 0
    metadata = read_metadata(folder / "0003.parquet")
    assert metadata == {
        "page_width": "1000",
        "page_height": "1400",
        "image": f"store/{NAME}/images/0003.jpg",
        "model": "scanmill-layout",
        "model_digest": "0123",
        "classes": '["text", "table"]',
        "fingerprint": wanted.full,
        "schema_version": SCHEMA_VERSION,
        "scanmill_version": scanmill.__version__,
    }


def test_page_tables_are_left_out_on_request(tmp_path):
    finish(tmp_path, *tables())
    store, _ = finish(tmp_path, *tables(), page_tables=False)
    assert not (store.folder(NAME) / "regions").exists()
    assert store.read(NAME, "regions").num_rows == 2


def test_classes_and_thresholds_are_those_of_the_settings(tmp_path):
    store, _ = finish(tmp_path, *tables(), classes=["table"], min_score=0.1)
    rows = store.read(NAME, "regions").to_pylist()
    assert [(row["page"], row["class_name"]) for row in rows] == [(1, "table")]
    store, _ = finish(tmp_path, *tables(), min_score=0.1)
    rows = store.read(NAME, "regions").to_pylist()
    assert [(row["page"], row["region"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (3, 1)]
    flagged = [row["flags"] for row in store.read(NAME, "pages").to_pylist()]
    assert flagged == [[], None, ["capped", "low_scores"], None]


def test_document_that_never_opened_is_one_row(tmp_path):
    images = from_rows("images", [{**FAILED_IMAGE, "page": None, "reason": "encrypted"}])
    nothing = SCHEMAS["detected_pages"].empty_table(), SCHEMAS["detections"].empty_table()
    store, _ = finish(tmp_path, images, *nothing)
    (row,) = store.read(NAME, "pages").to_pylist()
    assert (row["page"], row["status"], row["reason"]) == (None, "failed", "encrypted")
    assert store.read(NAME, "regions").num_rows == 0
    assert not (store.folder(NAME) / "regions").exists()


def test_record_tells_the_model(finished):
    store, _ = finished
    metadata = read_metadata(store.folder(NAME) / "regions.parquet")
    assert json.loads(metadata["model"]) == MODEL
    assert pq.ParquetFile(store.folder(NAME) / "pages.parquet").metadata.num_rows == 4


def test_tables_do_not_tell_when_they_were_made(finished, tmp_path):
    store, _ = finished
    again, _ = finish(tmp_path / "again", *tables())
    for path in sorted(store.folder(NAME).rglob("*.parquet")):
        other = again.folder(NAME) / path.relative_to(store.folder(NAME))
        assert other.read_bytes() == path.read_bytes()


def test_flags_are_sorted_names(tmp_path):
    images, outcomes, detections = tables()
    rows = outcomes.to_pylist()
    rows[1] |= {"type_height": SMALL_TYPE - 0.01}
    store, _ = finish(tmp_path, images, from_rows("detected_pages", rows), detections)
    flagged = store.read(NAME, "pages")["flags"].to_pylist()[2]
    assert flagged == ["capped", "low_scores", "no_regions", "small_type"]


def test_pages_are_compared_with_those_around_them(tmp_path):
    images = [image_row(page) for page in range(1, 11)]
    outcomes = [outcome_row(page) for page in range(1, 11)]
    found = [detection_row(page, 1, 0.6 if page == 4 else 0.9, 500) for page in range(1, 11)]
    found[6]["y_max"] = 1400.0
    store, _ = finish(
        tmp_path,
        from_rows("images", images),
        from_rows("detected_pages", outcomes),
        from_rows("detections", found),
    )
    flagged = store.read(NAME, "pages")["flags"].to_pylist()
    assert [(page, names) for page, names in enumerate(flagged, 1) if names] == [
        (4, ["low_scores"]),
        (7, ["unlike_neighbours"]),
    ]


def test_what_is_to_know_of_an_image_stays_with_its_page(tmp_path):
    images, outcomes, detections = tables()
    rows = images.to_pylist()
    rows[0]["message"] = "rendered at 50 dpi"
    store, _ = finish(tmp_path, from_rows("images", rows), outcomes, detections)
    pages = store.read(NAME, "pages").to_pylist()
    noted = [(row["message"], "reduced_dpi" in (row["flags"] or [])) for row in pages]
    assert noted[0] == ("rendered at 50 dpi", True)
    assert not any(flagged for _, flagged in noted[1:])


def test_inputs_are_what_regions_are_made_from():
    images, outcomes, detections = tables()
    base = inputs_digest(images, outcomes, detections, MODEL)

    def changed(table, name, **entries):
        rows = table.to_pylist()
        rows[0] |= entries
        return from_rows(name, rows)

    # Neither the processor nor its precision decides, only what it found.
    same = changed(outcomes, "detected_pages", device="cuda", precision="float16", n_proposals=1)
    assert inputs_digest(images, same, detections, MODEL) == base
    others = [
        (changed(images, "images", width=1001), outcomes, detections, MODEL),
        (images, changed(outcomes, "detected_pages", capped=True), detections, MODEL),
        (images, changed(outcomes, "detected_pages", ink=[9] * 1024), detections, MODEL),
        (images, outcomes, changed(detections, "detections", score=0.91), MODEL),
        (images, outcomes, detections.slice(1), MODEL),
        (images, outcomes, detections, {**MODEL, "digest": "4567"}),
    ]
    assert all(inputs_digest(*other) != base for other in others)

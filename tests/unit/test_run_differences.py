"""Two runs compared: matching, shards that are cut otherwise, pages that only one of them has."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sampled_run import Page, write_run

from scanmill.errors import UserError
from scanmill.run_differences import (
    KEPT_IOU,
    PAGES,
    SAME_REGION_IOU,
    SHOWN_OF_DOCUMENT,
    Boxes,
    _largest_pages,
    compare_runs,
    compare_shards,
    count_classes,
    match_regions,
    open_run,
    setup_differences,
)
from scanmill.tables import from_rows, read_table, write_table

BOX = (10, 10, 90, 60)
ELSEWHERE = (10, 80, 90, 140)


def boxes(*regions):
    """Regions as (page, label, box)."""
    pages, labels, corners = zip(*regions, strict=True)
    return Boxes(np.array(pages), np.array(labels), np.array(corners, dtype=np.float64))


def overlap(one, other):
    """IoU, by its definition."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def matched_one_by_one(a, b):
    """Pairs (row of A, row of B), the best first, as `match_regions` says it."""
    pairs = []
    for i in range(len(a.page)):
        for j in range(len(b.page)):
            iou = overlap(a.boxes[i], b.boxes[j])
            if a.page[i] == b.page[j] and iou >= SAME_REGION_IOU:
                same = a.label[i] == b.label[j]
                pairs.append((not (same and iou >= KEPT_IOU), -iou, not same, i, j))
    taken = []
    for *_, i, j in sorted(pairs):
        if i not in {one for one, _ in taken} and j not in {other for _, other in taken}:
            taken.append((i, j))
    return sorted(taken)


def test_random_regions_are_matched_as_one_by_one():
    random = np.random.default_rng(5)
    for _ in range(20):
        sides = []
        for count in random.integers(0, 40, 2):
            corner = random.integers(0, 60, (count, 2))
            corners = np.hstack([corner, corner + random.integers(20, 60, (count, 2))])
            page, label = random.integers(0, 3, (2, count))
            sides.append(Boxes(page, label, corners.astype(np.float64)))
        found = match_regions(*sides)
        assert sorted(zip(found.a.tolist(), found.b.tolist(), strict=True)) == matched_one_by_one(
            *sides
        )
        for i, j, iou in zip(*found, strict=True):
            assert iou == pytest.approx(overlap(sides[0].boxes[i], sides[1].boxes[j]))


def test_regions_that_lie_on_one_another_keep_their_names():
    near = (10, 10, 90, 62)
    a = boxes((0, 0, BOX), (0, 1, near))
    b = boxes((0, 0, near), (0, 1, BOX))  # Each would share more with the other's.
    found = match_regions(a, b)
    assert sorted(zip(found.a.tolist(), found.b.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_tall_and_flat_regions_far_down_are_found():
    """Upper edges are as far apart as they can be."""
    a = boxes((7, 0, (0, 5000, 10, 5100)))
    for box in ((0, 5000, 10, 5200), (0, 4900, 10, 5100), (0, 5050, 10, 5100)):
        assert len(match_regions(a, boxes((7, 0, box))).a) == 1
        assert len(match_regions(boxes((7, 0, box)), a).a) == 1


# Shards -------------------------------------------------------------------------------------------


def page(document, number, width=100, height=200, reason=None, **more):
    row = {"document": document, "page": number, "status": "ok", "width": width, "height": height}
    if reason:
        row |= {"status": "failed", "reason": reason, "width": None, "height": None}
    return row | more


def region(document, number, detection, box, class_name="text"):
    key = {"document": document, "page": number, "detection": detection, "class_name": class_name}
    return key | dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)) | {"score": 0.5}


def shard(pages, regions):
    return from_rows("pages", pages), from_rows("regions", regions)


def test_each_kind_of_change():
    a = shard(
        [page("d", 1)],
        [
            region("d", 1, 1, (0, 0, 100, 20)),
            region("d", 1, 2, (0, 30, 100, 50)),
            region("d", 1, 3, (0, 60, 100, 80), "title"),
            region("d", 1, 4, (0, 90, 100, 110)),
        ],
    )
    b = shard(
        [page("d", 1)],
        [
            region("d", 1, 1, (0, 150, 50, 190)),
            region("d", 1, 2, (0, 60, 100, 80)),
            region("d", 1, 3, (0, 30, 75, 50)),
            region("d", 1, 4, (0, 0, 100, 20)),
        ],
    )
    found = compare_shards(a, b)
    rows = [
        (row["detection_a"], row["detection_b"], row["change"], row["iou"])
        for row in found.regions.to_pylist()
    ]
    assert rows == [
        (1, 4, "kept", 1),
        (2, 3, "moved", 0.75),
        (3, 2, "renamed", 1),
        (4, None, "lost", None),
        (None, 1, "new", None),
    ]
    renamed = found.regions.to_pylist()[2]
    assert (renamed["class_name_a"], renamed["class_name_b"]) == ("title", "text")
    assert (renamed["y_min_a"], renamed["y_max_b"]) == (60, 80)
    [counted] = found.pages.to_pylist()
    assert [counted[change] for change in ("kept", "moved", "renamed", "lost", "new")] == [1] * 5
    # A quarter of the moved one, all of three: 0.25, 1, 1 of 2000 and 2000 of 20000 squared pixels.
    assert counted["difference"] == pytest.approx((500 + 2000 + 2000 + 2000) / 20000)
    [document] = found.documents.to_pylist()
    assert (document["runs"], document["pages"], document["pages_compared"]) == ("both", 1, 1)


def test_pages_without_regions():
    nothing = shard([page("d", 1)], [])
    found = compare_shards(nothing, nothing)
    assert found.regions.num_rows == 0
    assert [row["compared"] for row in found.pages.to_pylist()] == [True]
    [row] = compare_shards(
        nothing, shard([page("d", 1)], [region("d", 1, 1, BOX)])
    ).regions.to_pylist()
    assert row["change"] == "new"


def test_pages_of_another_resolution_are_scaled():
    a = shard([page("d", 1)], [region("d", 1, 1, (10, 20, 50, 60))])
    b = shard([page("d", 1, 200, 300)], [region("d", 1, 1, (20, 30, 100, 90))])
    [row] = compare_shards(a, b).regions.to_pylist()
    assert (row["change"], row["iou"]) == ("kept", 1)
    assert row["x_max_b"] == 100  # In pixels of its own image.


def test_pages_that_failed_or_are_missing_in_one_run_are_not_compared():
    a = shard(
        [
            page("d", 1, n_regions=1),
            page("d", 2, reason="timeout"),
            page("d", 3, n_regions=1),
            page("e", None, reason="encrypted"),
        ],
        [region("d", 1, 1, BOX), region("d", 3, 1, BOX)],
    )
    b = shard(
        [
            page("e", 1, n_regions=0),
            page("d", 1, n_regions=1),
            page("d", 2, n_regions=0),
            page("d", 3, reason="memory"),
        ],
        [region("d", 1, 1, BOX)],
    )
    found = compare_shards(a, b)
    assert [row["change"] for row in found.regions.to_pylist()] == ["kept"]
    said = {
        (row["document"], row["page"]): (
            row["status_a"],
            row["reason_a"],
            row["status_b"],
            row["reason_b"],
            row["compared"],
            row["lost"],
        )
        for row in found.pages.to_pylist()
    }
    assert said == {
        ("d", 1): ("ok", None, "ok", None, True, 0),
        ("d", 2): ("failed", "timeout", "ok", None, False, None),
        ("d", 3): ("ok", None, "failed", "memory", False, None),
        ("e", None): ("failed", "encrypted", None, None, False, None),
        ("e", 1): (None, None, "ok", None, False, None),
    }
    counts = {
        row["document"]: (row["pages"], row["pages_compared"])
        for row in found.documents.to_pylist()
    }
    assert counts == {"d": (3, 1), "e": (1, 0)}


# Runs ---------------------------------------------------------------------------------------------

TEXT, FIGURE = ("text", 0.9, BOX, None), ("figure", 0.8, ELSEWHERE, None)
ARCHIVE = {f"{name}.pdf": [Page((TEXT, FIGURE)), Page((TEXT,))] for name in "abcde"}
#: What B finds otherwise: a figure is lost, a text is renamed, a document is gone, one is new.
CHANGED = {
    **{name: pages for name, pages in ARCHIVE.items() if name != "c.pdf"},
    "a.pdf": [Page((TEXT,)), Page((TEXT,))],
    "b.pdf": [Page((TEXT, FIGURE)), Page((("figure", 0.9, BOX, None),))],
    "z.pdf": [Page((TEXT,))],
}


def compared(tmp_path, shards_a, shards_b):
    name = f"{shards_a}-{shards_b}"
    a = write_run(tmp_path / name / "A", ARCHIVE, shards=shards_a)
    b = write_run(tmp_path / name / "B", CHANGED, shards=shards_b)
    (tmp_path / name / "out").mkdir()
    comparison = compare_runs(open_run(a), open_run(b), tmp_path / name / "out", 10)
    tables = {
        each: read_table(tmp_path / name / "out" / f"{each}.parquet")
        for each in ("regions", "pages", "documents", "classes")
    }
    return comparison, tables


def test_two_runs_whose_shards_are_cut_otherwise(tmp_path):
    comparison, tables = compared(tmp_path, 2, 3)
    assert (comparison.documents, comparison.only_a, comparison.only_b) == (4, 1, 1)
    assert comparison.regions == {
        ("text", "text", "kept"): 7,
        ("figure", "figure", "kept"): 3,
        ("figure", None, "lost"): 1,
        ("text", "figure", "renamed"): 1,
    }
    assert comparison.pages == {("ok", "ok"): 8}
    shown = [(page["document"], page["page"]) for page in comparison.largest.to_pylist()]
    assert shown == [("a.pdf", 1), ("b.pdf", 2)]  # The figure is larger than the text.
    alone = {
        row["document"]: row["runs"]
        for row in tables["documents"].to_pylist()
        if row["runs"] != "both"
    }
    assert alone == {"c.pdf": "a", "z.pdf": "b"}
    assert tables["classes"].to_pylist() == count_classes(comparison)
    assert count_classes(comparison)[0] == {
        "class_name": "figure",
        "regions_a": 4,
        "regions_b": 4,
        "kept": 3,
        "moved": 0,
        "renamed_from": 0,
        "renamed_to": 1,
        "lost": 1,
        "new": 0,
    }
    one, of_one = compared(tmp_path, 1, 1)
    assert one.regions == comparison.regions
    keys = {
        "regions": ("document", "page", "detection_a", "detection_b"),
        "pages": ("document", "page"),
    }
    for name, columns in keys.items():
        order = [(column, "ascending") for column in columns]
        assert tables[name].num_rows
        assert tables[name].sort_by(order).equals(of_one[name].sort_by(order))


def test_a_run_beside_itself_differs_in_nothing(tmp_path):
    directory = write_run(tmp_path / "run", ARCHIVE)
    (tmp_path / "out").mkdir()
    run = open_run(directory / "results")  # The results folder is as good.
    comparison = compare_runs(run, open_run(directory), tmp_path / "out", 10)
    assert {change for _, _, change in comparison.regions} == {"kept"}
    assert comparison.largest.num_rows == 0
    assert [name for name, _, _ in setup_differences(run, run)] == ["model"]


def test_settings_models_and_processors_that_differ(tmp_path):
    runs = [write_run(tmp_path / name, ARCHIVE, shards=1) / "results" for name in "AB"]
    runs[0].joinpath("settings.yaml").write_text(
        "{model: m, images: {dpi: 300}, shards: {max_bytes: 1}}"
    )
    runs[1].joinpath("settings.yaml").write_text(
        "{model: m, images: {dpi: 150}, shards: {max_bytes: 2}}"
    )
    table = runs[1] / "regions/00000.parquet"
    about = {"name": "n", "digest": "f" * 64, "classes": ["text", "figure"]}
    write_table(read_table(table), table, {"model": json.dumps(about)})
    assert setup_differences(*map(open_run, runs)) == [
        ("model", "m (d)", "n (ffffffffffff)"),
        ("images.dpi", "300", "150"),
    ]


def test_runs_of_different_archives(tmp_path):
    a = write_run(tmp_path / "A", {"a.pdf": [Page()]})
    b = write_run(tmp_path / "B", {"b.pdf": [Page()]})
    with pytest.raises(UserError, match=r"a\.pdf is in the first and b\.pdf in the second alone"):
        compare_runs(open_run(a), open_run(b), tmp_path, 10)


def test_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match="There are no regions in"):
        open_run(tmp_path)
    (tmp_path / "results/pages").mkdir(parents=True)  # Begun, and not that far.
    with pytest.raises(UserError, match="the target `regions`"):
        open_run(tmp_path)


def test_one_document_does_not_fill_the_gallery():
    rows = [
        {"document": name, "page": page, "difference": difference - page / 100}
        for name, difference in (("a", 0.9), ("b", 0.5))
        for page in range(1, 6)
    ]
    pages = pa.Table.from_pylist(rows, schema=PAGES)
    chosen = _largest_pages(pages, 5).select(["document", "page"]).to_pylist()
    assert [(row["document"], row["page"]) for row in chosen] == [
        *(("a", page) for page in range(1, SHOWN_OF_DOCUMENT + 1)),
        ("b", 1),
        ("b", 2),
    ]

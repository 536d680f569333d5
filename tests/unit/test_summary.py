"""What became of an archive: documents, failures, and whether too much failed."""

import json
from pathlib import Path

import pytest

from scanmill.archive import Document, write_manifest
from scanmill.store import write_dataset
from scanmill.summary import failure_report, retry_command, summarize_archive
from scanmill.tables import SCHEMAS, from_rows, read_table, write_table


def page(document, number, reason=None, stage="images", regions=None):
    row = {"document": document, "page": number, "status": "ok", "n_regions": regions}
    if reason:
        row |= {"status": "failed", "stage": stage, "reason": reason, "message": f"why {reason}"}
    return row


def describe(name, kind="pdf", **columns):
    own = json.dumps(columns) if columns else ""
    return Document(name, kind, f"path/{name}", 1000, 1, columns=own)


def write_shard(folder, shard, documents, pages, crops=(), sources=None):
    """The files of a shard, as the rules before the summary leave them."""
    write_manifest(folder / "shards" / f"{shard}.tsv", documents)
    sources = sources or {
        document.document: f"sha of {document.document}" for document in documents
    }
    rows = from_rows("pages", pages)
    images = rows.select(SCHEMAS["images"].names)
    write_dataset(
        "images",
        [images],
        folder / "images" / f"{shard}.parquet",
        {"sources": json.dumps(sources)},
    )
    write_dataset("pages", [rows], folder / "pages" / f"{shard}.parquet")
    write_dataset("crops", [from_rows("crops", crops)], folder / "crops" / f"{shard}.parquet")


def summarize(folder):
    stems = sorted(path.stem for path in (folder / "shards").iterdir())
    files = [
        [folder / name / f"{stem}.{suffix}" for stem in stems]
        for name, suffix in (
            ("shards", "tsv"),
            ("images", "parquet"),
            ("pages", "parquet"),
            ("crops", "parquet"),
        )
    ]
    outputs = folder / "documents.parquet", folder / "failures.parquet"
    summarize_archive(*files, *outputs)
    return [read_table(path) for path in outputs]


@pytest.fixture
def archive(tmp_path):
    """Two shards: whole, partial, failed and unopened documents, and one without regions."""
    write_shard(
        tmp_path,
        "00000",
        [describe("a.pdf"), describe("b.pdf"), describe("c.pdf")],
        [
            page("a.pdf", 1, regions=3),
            page("a.pdf", 2, regions=4),
            page("b.pdf", 1, regions=5),
            page("b.pdf", 2, "timeout"),
            page("b.pdf", 3, "corrupt"),
            page("b.pdf", 4, "corrupt", stage="detections"),
            page("c.pdf", None, "encrypted"),
        ],
        [
            {"document": "a.pdf", "page": 2, "detection": 1, "status": "ok"},
            {
                "document": "a.pdf",
                "page": 2,
                "detection": 2,
                "status": "failed",
                "reason": "unsupported",
                "message": "too long",
            },
        ],
    )
    write_shard(
        tmp_path,
        "00001",
        [describe("d.pdf"), describe("e.pdf")],
        [page("d.pdf", 1, "timeout"), page("d.pdf", 2, "memory"), page("e.pdf", 1, regions=0)],
        sources={"d.pdf": None, "e.pdf": "ee"},
    )
    return tmp_path


def test_documents_are_counted(archive):
    documents, _ = summarize(archive)
    assert documents.schema.remove_metadata().equals(SCHEMAS["documents"])
    rows = {row["document"]: row for row in documents.to_pylist()}
    assert list(rows) == ["a.pdf", "b.pdf", "c.pdf", "d.pdf", "e.pdf"]
    counts = ("pages", "pages_ok", "pages_failed", "regions", "status", "reason")
    assert {name: tuple(row[key] for key in counts) for name, row in rows.items()} == {
        "a.pdf": (2, 2, 0, 7, "ok", None),
        "b.pdf": (4, 1, 3, 5, "partial", "corrupt"),
        "c.pdf": (0, 0, 0, 0, "failed", "encrypted"),
        # Of equally frequent reasons the first by name.
        "d.pdf": (2, 0, 2, 0, "failed", "memory"),
        "e.pdf": (1, 1, 0, 0, "ok", None),
    }
    assert rows["a.pdf"]["path"] == "path/a.pdf"
    assert rows["a.pdf"]["bytes"] == 1000
    assert rows["a.pdf"]["sha256"] == "sha of a.pdf"
    assert rows["d.pdf"]["sha256"] is None


def test_every_failure_is_a_row(archive):
    _, failures = summarize(archive)
    assert failures.schema.remove_metadata().equals(SCHEMAS["failures"])
    rows = [tuple(row.values()) for row in failures.to_pylist()]
    assert rows == [
        ("a.pdf", 2, "crops", "unsupported", "too long"),
        ("b.pdf", 2, "images", "timeout", "why timeout"),
        ("b.pdf", 3, "images", "corrupt", "why corrupt"),
        ("b.pdf", 4, "detections", "corrupt", "why corrupt"),
        ("c.pdf", None, "images", "encrypted", "why encrypted"),
        ("d.pdf", 1, "images", "timeout", "why timeout"),
        ("d.pdf", 2, "images", "memory", "why memory"),
    ]


def test_summary_is_the_same_bytes_each_time(archive):
    summarize(archive)
    before = [(archive / f"{name}.parquet").read_bytes() for name in ("documents", "failures")]
    summarize(archive)
    after = [(archive / f"{name}.parquet").read_bytes() for name in ("documents", "failures")]
    assert before == after


def test_columns_of_the_csv_travel_along(tmp_path):
    """Also where only a later shard has them: names in the order in which they are met."""
    write_shard(tmp_path, "00000", [describe("a.pdf")], [page("a.pdf", 1)])
    write_shard(
        tmp_path,
        "00001",
        [describe("b.pdf", title="Flora", date="1902"), describe("c.pdf", **{"shelf mark": "X 7"})],
        [page("b.pdf", 1), page("c.pdf", 1)],
    )
    documents, _ = summarize(tmp_path)
    assert documents.schema.names == [*SCHEMAS["documents"].names, "title", "date", "shelf mark"]
    assert documents["title"].to_pylist() == [None, "Flora", None]
    assert documents["date"].to_pylist() == [None, "1902", None]
    assert documents["shelf mark"].to_pylist() == [None, None, "X 7"]


def test_emptied_shards_have_no_rows(tmp_path):
    write_shard(tmp_path, "00000", [], [])
    write_shard(tmp_path, "00001", [describe("a.pdf")], [page("a.pdf", 1, regions=1)])
    documents, failures = summarize(tmp_path)
    assert documents["document"].to_pylist() == ["a.pdf"]
    assert failures.num_rows == 0
    (tmp_path / "shards" / "00001.tsv").unlink()
    documents, failures = summarize(tmp_path)
    assert documents.schema.remove_metadata().equals(SCHEMAS["documents"])
    assert documents.num_rows == failures.num_rows == 0
    assert "documents 0, pages 0 ok, 0 failed" in failure_report(documents, failures, 0.05)[0]


# The report ---------------------------------------------------------------------------------------


def test_report_counts_and_gives_examples(archive):
    report, too_much = failure_report(*summarize(archive), 0.9)
    assert not too_much
    lines = report.splitlines()
    # A document that never opened counts as one page; a failed crop is no failed page.
    assert lines[0] == "documents 5, pages 4 ok, 6 failed"
    assert lines[1] == "regions   12"
    table = [line.split(maxsplit=3) for line in lines[4:9]]
    assert table == [
        ["crops", "unsupported", "1", "a.pdf, page 2: too long"],
        ["detections", "corrupt", "1", "b.pdf, page 4: why corrupt"],
        ["images", "corrupt", "1", "b.pdf, page 3: why corrupt"],
        ["images", "encrypted", "1", "c.pdf: why encrypted"],
        ["images", "memory", "1", "d.pdf, page 2: why memory"],
    ]
    assert lines[9].split(maxsplit=3) == ["images", "timeout", "2", "b.pdf, page 2: why timeout"]
    assert "failures.max_failed_fraction" not in report


def report_of(pages, failed, max_failed_fraction):
    documents = from_rows("documents", [{"document": "a", "pages": pages, "regions": 1}])
    rows = [
        {"document": "a", "page": i, "stage": "images", "reason": "io", "message": "x"}
        for i in range(failed)
    ]
    return failure_report(documents, from_rows("failures", rows), max_failed_fraction)


def test_too_much_is_more_than_the_setting():
    assert not report_of(100, 5, 0.05)[1]
    report, too_much = report_of(100, 6, 0.05)
    assert too_much
    assert "6.0% of the pages failed, more than failures.max_failed_fraction (5.0%)" in report
    assert not report_of(100, 100, 1)[1]
    assert report_of(100, 1, 0)[1]
    assert not report_of(100, 0, 0)[1]
    # Documents that never opened are pages, too.
    documents = from_rows("documents", [{"document": "a", "pages": 0}])
    row = {"document": "a", "page": None, "stage": "images", "reason": "empty", "message": "x"}
    report, too_much = failure_report(documents, from_rows("failures", [row]), 0.5)
    assert too_much
    assert "pages 0 ok, 1 failed" in report
    assert not failure_report(documents, SCHEMAS["failures"].empty_table(), 0)[1]


@pytest.mark.parametrize(
    ("pages", "failed"),
    [(1000, 51), (3, 1), (1, 1), (1000, 995), (10_000, 600), (7, 6), (1000, 115)],
)
def test_setting_that_the_report_proposes_accepts_it(pages, failed):
    report, too_much = report_of(pages, failed, 0.05)
    assert too_much
    proposed = float(report.partition("max_failed_fraction: ")[2].partition("}")[0])
    assert proposed <= 1
    assert not report_of(pages, failed, proposed)[1]


def test_command_that_tries_again_names_the_reasons(archive):
    _, failures = summarize(archive)
    command = retry_command(failures, Path("/data/run"))
    reasons = "corrupt,encrypted,memory,timeout,unsupported"
    assert f"retry_failed.py --directory /data/run --reason {reasons}\n" in command


def test_command_can_be_pasted_whatever_the_folder_is_called(archive):
    _, failures = summarize(archive)
    command = retry_command(failures, Path("/data/my scans (1)"))
    assert "--directory '/data/my scans (1)' --reason" in command


def test_whole_archive_has_nothing_to_report(tmp_path):
    write_table(SCHEMAS["failures"].empty_table(), tmp_path / "failures")
    documents = from_rows("documents", [{"document": "a", "pages": 2, "regions": None}])
    report, too_much = failure_report(documents, read_table(tmp_path / "failures"), 0)
    assert (report, too_much) == ("documents 1, pages 2 ok, 0 failed\nregions   0\n", False)

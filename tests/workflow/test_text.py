"""The text of an archive: read once, by whatever engine there is, and not again without need."""

import shutil

import pytest
from conftest import SUMMARY, Finished, contents, copy, rows, tables

WITH_TEXT = "ocr={enabled: true}"


def key(row):
    return row["document"], row["page"], row["detection"]


@pytest.fixture(scope="module")
def read(undisturbed, tmp_path_factory):
    """The finished run, and its text; not to be changed."""
    folder = tmp_path_factory.mktemp("read")
    mine = Finished(
        copy(undisturbed.archive, folder / "archive"), copy(undisturbed.directory, folder / "run")
    )
    run = mine.run(WITH_TEXT)
    assert run.jobs.keys() == {"recognize_text", *SUMMARY}
    return mine


@pytest.fixture
def finished(read, tmp_path):
    return Finished(
        copy(read.archive, tmp_path / "archive"), copy(read.directory, tmp_path / "run")
    )


def test_every_region_but_pictures_has_its_text(read):
    found = {key(row): row for row in rows(read.directory, "ocr")}
    regions = rows(read.directory, "regions")
    wanted = {key(row) for row in regions if row["class_name"] != "figure"}
    assert found.keys() == wanted
    assert wanted
    sources = {(row["document"], row["source"]) for row in found.values()}
    # Born-digital pages are asked for their own text, image files have none.
    assert ("letters/one.pdf", "pdf") in sources
    assert {source for document, source in sources if document in ("album", "zeta.tif")} == {"ocr"}
    assert {row["status"] for row in found.values()} == {"ok"}
    assert any(len(row["text"]) > 20 for row in found.values() if row["source"] == "pdf")
    assert any(len(row["text"]) > 20 for row in found.values() if row["source"] == "ocr")


def test_nothing_is_read_again_without_need(finished):
    before = contents(finished.directory, "results/**/ocr*", "results/**/ocr/*")
    assert finished.run(WITH_TEXT).jobs == {}
    run = finished.run(WITH_TEXT, "regions={reading_order: position}")
    assert "recognize_text" not in run.made
    assert contents(finished.directory, "results/**/ocr*", "results/**/ocr/*") == before
    shutil.rmtree(finished.directory / "results/ocr")
    run = finished.run(WITH_TEXT, "regions={reading_order: position}")
    assert run.jobs.keys() == {"recognize_text", *SUMMARY}
    assert run.made == {}
    assert contents(finished.directory, "results/**/ocr*", "results/**/ocr/*") == before


def test_a_document_is_read_again_alone(finished):
    shutil.copy(finished.archive / "letters/one.pdf", finished.archive / "letters/three.pdf")
    run = finished.run(WITH_TEXT)
    assert run.made["recognize_text"] == {"letters/three.pdf"}


def test_a_missing_crop_stops_the_job_with_the_repair(finished):
    record = next(finished.directory.glob("results/store/letters/*/crops.parquet"))
    record.unlink()
    run = finished.run(WITH_TEXT, "ocr={enabled: true, source: ocr}", ok=False)
    assert "verify_results.py --repair" in run.output
    assert str(record.relative_to(finished.directory)) in run.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("engine: rapidocr, languages: [rus]", "names rus, which RapidOCR's model does not read"),
        ("engine: tesseract, languages: [xyz]", "tesseract-ocr-xyz"),
        ("classes: [tabel]", "Did you mean `table`?"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_starts(finished, settings, said):
    before = tables(finished.directory)
    run = finished.run(f"ocr={{enabled: true, {settings}}}", ok=False)
    assert said in run.output
    assert run.jobs == {}
    assert tables(finished.directory) == before

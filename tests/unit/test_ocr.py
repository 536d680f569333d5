"""The text of documents: taken from the PDF or recognized, reused, and failed crop by crop."""

import os
from pathlib import Path

import pytest
from fpdf import FPDF
from printed import TEXT, needs_tesseract, png, printed

from scanmill import ocr
from scanmill.errors import UserError
from scanmill.lines import Line
from scanmill.ocr import plan_work, recognize_documents
from scanmill.progress import Progress
from scanmill.store import StageStore, read_record_metadata
from scanmill.tables import SCHEMAS, from_rows, read_metadata, read_table

SETTINGS = {
    "source": "auto",
    "engine": "rapidocr",
    "languages": ["eng"],
    "classes": None,
    "page_tables": True,
}
LIMITS = {"cpu_seconds": 120, "wall_seconds": 120, "memory_mb": 8192}
PIXELS = printed(TEXT[:1])
HEIGHT, WIDTH = PIXELS.shape
#: Page, detection, class: the first two pages of `a.pdf` are scans, the third is born digital.
CROPS = [(1, 1, "text"), (1, 2, "figure"), (2, 1, "title"), (3, 1, "text")]


def crop_row(page, detection, class_name, content=None, path=None):
    place = {"x_min": 100, "y_min": 200, "x_max": 100 + WIDTH, "y_max": 200 + HEIGHT}
    return {
        "document": "a.pdf",
        "page": page,
        "detection": detection,
        "class_name": class_name,
        **place,
        "width": WIDTH,
        "height": HEIGHT,
        "status": "ok",
        "image": {"bytes": content, "path": path},
    }


def write_crops(results, crops=CROPS, content=None, files=False):
    """Record the crops of a.pdf; returns them as the dataset has them."""
    store = StageStore(results, "crops", {}, "code")
    rows = []
    with store.replace("a.pdf", store.fingerprint(str(crops) + str(content))) as draft:
        for page, detection, name in crops:
            data = content or png(PIXELS)
            if files:
                (draft.files / f"{page}-{detection}.png").write_bytes(data)
                path = (store.folder("a.pdf") / "crops" / f"{page}-{detection}.png").relative_to(
                    results
                )
                rows.append(crop_row(page, detection, name, path=str(path)))
            else:
                rows.append(crop_row(page, detection, name, data))
        draft.commit({"crop_images": from_rows("crop_images", rows)})
    return from_rows("crops", [{k: v for k, v in row.items() if k != "image"} for row in rows])


def image_rows(sources=("lifted", "lifted", "rendered")):
    rows = [
        {
            "document": "a.pdf",
            "page": page,
            "status": "ok",
            "source": source,
            "height": 3508,
            "dpi_y": 300.0,
            # 300 dpi of a page of A4.
            "to_pdf": [0.24, 0.0, 0.0, -0.24, 0.0, 841.92],
        }
        for page, source in enumerate(sources, start=1)
    ]
    return from_rows("images", rows)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """a.pdf, whose third page says something at the place of the crops."""
    folder = tmp_path_factory.mktemp("archive")
    pdf = FPDF(unit="pt", format=(595.28, 841.92))
    pdf.set_font("Times", size=14)
    for page in range(3):
        pdf.add_page()
        if page == 2:
            pdf.text(100 * 0.24, (200 + 60) * 0.24, "Said by the PDF, in type")
    pdf.output(folder / "a.pdf")
    return folder


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("results")


def make_store(results, limits=LIMITS, **settings):
    return StageStore(results, "ocr", {**SETTINGS, **settings}, "code", limits=limits)


def recognize(store, crops, archive, images=None, source="sha256"):
    """Read what is owed; returns the number of crops that were owed, or None where nothing was."""
    work = plan_work("a.pdf", crops, image_rows() if images is None else images, source, store)
    if work is None:
        return None
    path = os.fsencode(archive / "a.pdf")
    scratch = Path(".scanmill", "ocr-00000")
    recognize_documents([work], store, lambda _: path, 1, scratch, Progress("ocr", 1, 3, 3))
    assert not scratch.exists()
    return len(work.crops)


def rows_of(store):
    table = store.read("a.pdf", "ocr")
    assert table.schema.remove_metadata().equals(SCHEMAS["ocr"])
    return {(row["page"], row["detection"]): row for row in table.to_pylist()}


def test_scans_are_recognized_and_born_digital_pages_taken_from_the_pdf(results, archive):
    store = make_store(results)
    assert recognize(store, write_crops(results), archive) == 3
    rows = rows_of(store)
    assert list(rows) == [(1, 1), (2, 1), (3, 1)]  # Without the figure.
    scan, pdf = rows[1, 1], rows[3, 1]
    assert (scan["text"], scan["source"], scan["engine"]) == (TEXT[0], "ocr", "rapidocr")
    assert (scan["language"], scan["status"]) == ("eng", "ok")
    assert 0.9 < scan["confidence"] <= 1
    [line] = scan["lines"]
    assert line["text"] == TEXT[0]
    # In pixels of the page, where the crop lies.
    assert line["x_min"] == pytest.approx(112, abs=12)
    assert 200 <= line["y_min"] < line["y_max"] <= 200 + HEIGHT
    assert pdf["text"] == "Said by the PDF, in type"
    assert (pdf["source"], pdf["engine"], pdf["language"]) == ("pdf", "pdfium", None)
    assert pdf["confidence"] is None
    assert pdf["lines"][0]["x_min"] == pytest.approx(100, abs=3)
    own = store.folder("a.pdf") / "ocr"
    assert sorted(path.stem for path in own.iterdir()) == ["0001", "0002", "0003"]
    assert read_table(own / "0003.parquet").to_pylist() == [pdf]
    assert read_metadata(own / "0003.parquet")["engine"].startswith("rapidocr 3")


def test_settings_choose_sources_classes_and_page_tables(results, archive):
    crops = write_crops(results)
    store = make_store(results, source="ocr", classes=["figure", "text"], page_tables=False)
    recognize(store, crops, archive)
    rows = rows_of(store)
    assert {key: row["source"] for key, row in rows.items()} == {
        (1, 1): "ocr",
        (1, 2): "ocr",
        (3, 1): "ocr",
    }
    assert not (store.folder("a.pdf") / "ocr").exists()
    store = make_store(results, source="pdf")
    recognize(store, crops, archive)
    texts = {key: (row["source"], row["text"]) for key, row in rows_of(store).items()}
    assert texts == {
        (1, 1): ("pdf", ""),
        (2, 1): ("pdf", ""),
        (3, 1): ("pdf", "Said by the PDF, in type"),
    }


def test_with_source_pdf_other_documents_fail(results, archive):
    store = make_store(results, source="pdf")
    images = image_rows(("file",))
    recognize(store, write_crops(results, CROPS[:1]), archive, images, source=None)
    [row] = rows_of(store).values()
    assert (row["status"], row["reason"], row["text"]) == ("failed", "unsupported", None)
    assert row["message"] == "ocr.source is `pdf`, and this page is not of a PDF"


@needs_tesseract
def test_tesseract_reads_the_same_crops(results, archive):
    store = make_store(results, engine="tesseract")
    recognize(store, write_crops(results), archive)
    rows = rows_of(store)
    assert (rows[1, 1]["text"], rows[1, 1]["engine"]) == (TEXT[0], "tesseract")
    metadata = read_record_metadata(results, "a.pdf", "ocr")
    assert metadata["engine"].startswith("tesseract 5")


# Again --------------------------------------------------------------------------------------------


def test_what_makes_a_document_again(results, archive, quick):
    store = make_store(results)
    crops = write_crops(results)
    assert recognize(store, crops, archive) == 3
    assert recognize(store, crops, archive) is None
    # A figure that is gone was not read in any case.
    fewer = write_crops(results, [crop for crop in CROPS if crop[2] != "figure"])
    assert recognize(store, fewer, archive) is None
    assert recognize(store, fewer, archive, source="other") == 3
    inverted = write_crops(results, content=png(255 - PIXELS))
    assert recognize(store, inverted, archive, source="other") == 3
    german = make_store(results, languages=["deu"])
    assert recognize(german, inverted, archive, source="other") == 3


def test_a_pdf_of_scans_is_not_asked(results, archive, quick):
    store, images = make_store(results), image_rows(("lifted",) * 3)
    crops = write_crops(results)
    assert recognize(store, crops, archive / "not mounted", images) == 3
    assert recognize(store, crops, archive, images, source="other") is None


@pytest.fixture
def quick(monkeypatch):
    """An engine that reads its own limit, and has no time for the crop of page 2 within 4 s."""

    def run_task(worker, task, kind, items):
        if kind == "pages":
            return [[None] * len(item["boxes"]) for item in items]
        seconds = task["limits"]["cpu_seconds"]
        late = [("timeout", "too late")] if seconds == 4 else []
        lines = [[Line(f"within {seconds}", 0.5, 0, 0, 9, 9)] for _ in items]
        return [*lines[:1], *late, *lines[1 + len(late) :]]

    monkeypatch.setattr(ocr, "run_task", run_task)


def test_a_raised_limit_tries_again_what_it_failed_and_only_that(results, archive, quick):
    crops = write_crops(results)
    low = make_store(results, {**LIMITS, "cpu_seconds": 4})
    assert recognize(low, crops, archive) == 3
    found = [(row["status"], row["reason"], row["text"]) for row in rows_of(low).values()]
    assert found[::2] == [("ok", None, "within 4")] * 2
    assert found[1] == ("failed", "timeout", None)
    assert recognize(low, crops, archive) is None
    high = make_store(results)
    assert recognize(high, crops, archive) == 1
    assert [row["text"] for row in rows_of(high).values()] == ["within 4", "within 120", "within 4"]
    assert recognize(high, crops, archive) is None


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["record", "file", "bytes"])
def test_a_missing_crop_names_the_repair(results, archive, what):
    crops = write_crops(results, files=what == "file")
    folder = make_store(results).folder("a.pdf")
    if what == "record":
        wrong = folder / "crops.parquet"
        wrong.unlink()
    elif what == "file":
        wrong = folder / "crops" / "2-1.png"
        wrong.unlink()
    else:
        wrong = folder / "crops.parquet"
        data = bytearray(wrong.read_bytes())
        data[len(data) // 3] ^= 0x55
        wrong.write_bytes(data)
    with pytest.raises(UserError, match=r"verify_results.py --repair") as raised:
        recognize(make_store(results), crops, archive)
    assert str(wrong) in str(raised.value)
    assert "a.pdf" in str(raised.value)


def test_crops_in_files_are_read(results, archive):
    store = make_store(results)
    assert recognize(store, write_crops(results, files=True), archive) == 3
    assert rows_of(store)[2, 1]["text"] == TEXT[0]


def test_an_archive_that_is_not_mounted_is_named(results, archive):
    with pytest.raises(
        UserError, match=r"gone/a.pdf cannot be opened.*a.pdf.*mounted\?.*source: ocr"
    ):
        recognize(make_store(results), write_crops(results), archive / "gone")


def test_a_pdf_that_does_not_open_is_recognized(results, tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 nothing")
    store, crops = make_store(results), write_crops(results)
    recognize(store, crops, tmp_path)
    assert rows_of(store)[3, 1]["source"] == "ocr"
    store = make_store(results, source="pdf")
    recognize(store, crops, tmp_path)
    assert {row["reason"] for row in rows_of(store).values()} == {"corrupt"}


def test_a_document_without_text_has_a_record_of_no_rows(results, archive):
    store = make_store(results)
    assert recognize(store, SCHEMAS["crops"].empty_table(), archive) == 0
    assert rows_of(store) == {}
    assert recognize(store, SCHEMAS["crops"].empty_table(), archive) is None


def test_pictures_are_classes_of_the_registry():
    root = Path(ocr.__file__).parents[2]
    known = (root / "config/models.yaml").read_text() + (
        root / "models/scanmill-layout/model.json"
    ).read_text()
    assert [name for name in ocr.PICTURES if name not in known] == []

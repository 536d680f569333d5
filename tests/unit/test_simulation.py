"""Archives of many tiny documents."""

import pyarrow as pa
import pypdfium2

from scanmill.simulation import FOLDER, SAMPLE, document_names, page_pdf, renamed, write_archive


def test_every_document_is_the_same_page(tmp_path):
    write_archive(tmp_path, FOLDER + 1)
    paths = sorted(tmp_path.rglob("*.pdf"))
    assert [str(path.relative_to(tmp_path)) for path in paths] == list(document_names(FOLDER + 1))
    assert len({path.parent for path in paths}) == 2
    assert {path.read_bytes() for path in paths} == {page_pdf()}
    with pypdfium2.PdfDocument(paths[-1]) as document:
        assert len(document) == 1
        assert "herring" in document[0].get_textpage().get_text_bounded()


def test_names_are_apart_and_in_order():
    names = list(document_names(3 * FOLDER**2))
    assert len(set(names)) == len(names)
    assert names == sorted(names)


def test_rows_are_written_under_every_name():
    rows = pa.table(
        {
            "document": [SAMPLE] * 3,
            "page": [1, 2, 3],
            "image": [f"store/{SAMPLE}/images/0001.png", f"store/{SAMPLE}/images/0002.png", None],
        }
    )
    names = ["a.pdf", "b/c.pdf"]
    table = renamed(rows, names)
    assert table["document"].to_pylist() == ["a.pdf"] * 3 + ["b/c.pdf"] * 3
    assert table["page"].to_pylist() == [1, 2, 3] * 2
    assert table["image"].to_pylist() == [
        *("store/a.pdf/images/0001.png", "store/a.pdf/images/0002.png", None),
        *("store/b/c.pdf/images/0001.png", "store/b/c.pdf/images/0002.png", None),
    ]
    assert renamed(rows, []).num_rows == 0

"""The ways to name documents besides a folder of PDFs: a CSV, and images that are documents."""

from conftest import SMALL, demo, rows, run_workflow, write_settings


def test_a_csv_of_documents(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    demo.write_vector_pdf(scans / "a.pdf", 3, 1, SMALL)
    demo.write_vector_pdf(scans / "b.pdf", 1, 2, SMALL)
    table = tmp_path / "documents.csv"
    table.write_text(
        "document,path,pages,title,year\n"
        "gazette/1888,scans/a.pdf,3,The Gazette,1888\n"
        'letter,scans/b.pdf,,"A letter, undated",\n'
    )
    write_settings(tmp_path / "run")
    first = run_workflow(tmp_path / "run", "--config", f"archive={table}")
    assert first.made["detect_layout"] == {"gazette/1888", "letter"}
    pages = [
        (row["document"], row["page"], row["status"]) for row in rows(tmp_path / "run", "pages")
    ]
    assert pages == [("gazette/1888", 3, "ok"), ("letter", 1, "ok")]
    columns = ("document", "pages", "title", "year")
    assert rows(tmp_path / "run", "documents.parquet", *columns) == [
        dict(zip(columns, ("gazette/1888", 1, "The Gazette", "1888"), strict=True)),
        dict(zip(columns, ("letter", 1, "A letter, undated", ""), strict=True)),
    ]
    # One more page of one document, a title corrected: no other page is made again.
    table.write_text(table.read_text().replace(",3,", ',"2-3",').replace("undated", "1889"))
    second = run_workflow(tmp_path / "run", "--config", f"archive={table}")
    assert second.made["detect_layout"] == {"gazette/1888"}
    assert [row["page"] for row in rows(tmp_path / "run", "pages")] == [2, 3, 1]
    assert rows(tmp_path / "run", "documents.parquet", "title")[1] == {"title": "A letter, 1889"}


def test_each_image_a_document(tmp_path):
    demo.write_image_folder(tmp_path / "scans/album", 2, 5, dpi=72, size=SMALL)
    write_settings(tmp_path / "run", archive={"image_folders": "pages"})
    run = run_workflow(
        tmp_path / "run", "regions", "--config", f"archive={{path: {tmp_path / 'scans'}}}"
    )
    named = {"album/page-1.jpg", "album/page-2.jpg"}
    assert run.made["detect_layout"] == named
    pages = [(row["document"], row["page"]) for row in rows(tmp_path / "run", "pages")]
    assert pages == [(name, 1) for name in sorted(named)]

"""Exports: what is written, read back by those who own the formats; and what cannot be written."""

import csv
import json
import os

import numpy as np
import pandas as pd
import pytest
from annotated_pages import dataset_of
from finished_run import tool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from recognized import add_text
from sampled_run import HEIGHT, OUTLINE, WIDTH, Page, exported, outlined, write_run

from scanmill.annotation_tasks import EXPORT, TASKS
from scanmill.errors import UserError
from scanmill.exports import export_results, file_names, kept_once
from scanmill.tables import from_rows, read_table, write_table

TWO = (("text", 0.9, (10.5, 20.25, 80, 60), None), ("figure", 0.6, (0, 100, WIDTH, HEIGHT), None))
DOCUMENTS = {
    "letters/a.pdf": [Page(TWO), Page(())],
    'b "1", =x.pdf': [Page((outlined(),)), Page(ok=False), Page(TWO)],
    "c.tif": [Page(ok=False)],
}
HALVES = {"train": 0.5, "val": 0.5, "test": 0}
COLUMNS = {"letters/a.pdf": {"title": 'Über "alles",\nund mehr', "score": "=1+1"}}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A finished run without text: not to be changed."""
    return write_run(tmp_path_factory.mktemp("bare"), DOCUMENTS, COLUMNS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with text: not to be changed."""
    directory = write_run(tmp_path_factory.mktemp("run"), DOCUMENTS, COLUMNS)
    add_text(directory, {("letters/a.pdf", 1, 2): None})
    return directory


# CSV ----------------------------------------------------------------------------------------------


def test_csv_has_regions_with_pages_and_the_columns_of_the_archive(run, tmp_path):
    said = export_results(run, "csv", tmp_path / "regions.csv")
    assert said == f"5 regions of 3 documents: {tmp_path / 'regions.csv'}"
    with (tmp_path / "regions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in rows if row["document"] == "letters/a.pdf")
    assert first == {
        **{"document": "letters/a.pdf", "page": "1", "region": "1", "detection": "1"},
        **{"class_name": "text", "score": "0.9", "x_min": "10.5", "y_min": "20.25"},
        **{"x_max": "80", "y_max": "60", "page_width": "110", "page_height": "160"},
        "image": "store/letters/a.pdf/images/0001.jpg",
        "text": "region 1.1 of letters/a.pdf\nläßt 漢字",
        "confidence": "0.75",
        "title": 'Über "alles",\nund mehr',
        "document_score": "=1+1",
    }
    places = [(row["document"], row["page"], row["region"]) for row in rows]
    assert len(set(places)) == 5
    of_document = [place[1:] for place in places if place[0].startswith("b")]
    assert of_document == [("1", "1"), ("3", "1"), ("3", "2")]


def test_csv_of_a_run_without_text_equals_the_tables(bare, tmp_path):
    export_results(bare, "csv", tmp_path / "regions.csv")
    table = pd.read_csv(tmp_path / "regions.csv", keep_default_na=False)
    regions = pd.read_parquet(bare / "results/regions")
    pages = pd.read_parquet(bare / "results/pages")
    joined = regions.merge(pages[["document", "page", "image"]], on=["document", "page"])
    names = ["document", "page", "detection", "class_name", "region", "image"]
    ordered = table.sort_values(names[:3])[names].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        ordered, joined.sort_values(names[:3])[names].reset_index(drop=True), check_dtype=False
    )
    assert "text" not in table.columns


def test_documents_are_chosen(run, tmp_path):
    export_results(run, "csv", tmp_path / "regions.csv", documents=["letters/*"])
    assert set(pd.read_csv(tmp_path / "regions.csv").document) == {"letters/a.pdf"}
    with pytest.raises(UserError, match=r"None of the 3 documents matches 'x\*'"):
        export_results(run, "csv", tmp_path / "x.csv", documents=["x*"])


# Text ---------------------------------------------------------------------------------------------


def test_texts_are_in_reading_order_with_a_form_feed_between_pages(run, tmp_path, capsys):
    assert export_results(run, "text", tmp_path / "text").startswith("2 text files: ")
    files = {
        path.relative_to(tmp_path / "text").as_posix()
        for path in (tmp_path / "text").rglob("*.txt")
    }
    assert files == {"letters/a.pdf.txt", 'b "1", =x.pdf.txt'}
    text = (tmp_path / "text" / 'b "1", =x.pdf.txt').read_text(encoding="utf-8")
    name = 'b "1", =x.pdf\nläßt 漢字'
    pages = [f"region 1.1 of {name}\n", "", f"region 3.1 of {name}\n\nregion 3.2 of {name}\n"]
    assert text.split("\f") == pages
    assert capsys.readouterr().err == "left out, none of its pages is ok: c.tif (timeout)\n"


def test_lines_that_two_regions_share_are_in_the_text_once(tmp_path):
    inside = ("text", 0.9, (10, 20, 80, 60), None), ("text", 0.8, (10, 20, 80, 40), None)
    run = write_run(tmp_path / "run", {"a.pdf": [Page(inside)]}, shards=1)
    add_text(run, {("a.pdf", 1, 1): "one\ntwo", ("a.pdf", 1, 2): "one"})
    export_results(run, "text", tmp_path / "text")
    assert (tmp_path / "text" / "a.pdf.txt").read_text(encoding="utf-8") == "one\ntwo\n"


@pytest.mark.parametrize(
    ("boxes", "regions", "kept"),
    [
        # The same line in two regions; of one region, lines may lie over each other.
        ([(0, 0, 90, 20), (0, 0, 90, 20)], [0, 1], [True, False]),
        ([(0, 0, 90, 20), (0, 0, 90, 20)], [0, 0], [True, True]),
        # A region's edge cuts it: its upper half, its end.
        ([(0, 0, 90, 9), (0, 0, 90, 20)], [0, 1], [False, True]),
        ([(0, 0, 90, 20), (70, 1, 90, 19)], [0, 1], [True, False]),
        # Lines set so tight that their boxes overlap.
        ([(0, 0, 90, 20), (0, 12, 90, 32)], [0, 1], [True, True]),
        # What is not kept drops nothing.
        ([(0, 0, 99, 20), (0, 9, 98, 29), (0, 18, 97, 38)], [0, 1, 2], [True, False, True]),
        ([], [], []),
    ],
)
def test_lines_that_regions_share_are_kept_once(boxes, regions, kept):
    boxes = np.array(boxes, float).reshape(-1, 4)
    assert kept_once(boxes, np.array(regions, int)).tolist() == kept


def test_without_text_the_command_that_makes_it_is_named(bare, tmp_path):
    for form in ("text", "pdf"):
        with pytest.raises(UserError, match="ocr") as error:
            export_results(bare, form, tmp_path / form)
        assert "snakemake" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_document_of_5000_pages(tmp_path):
    run = write_run(tmp_path / "run", {"a.pdf": [Page()]}, shards=1)
    for name in ("pages", "regions"):
        path = run / "results" / name / "00000.parquet"
        [row] = read_table(path).to_pylist()
        write_table(from_rows(name, [row | {"page": page} for page in range(1, 5001)]), path)
    add_text(run)
    export_results(run, "text", tmp_path / "text")
    pages = (tmp_path / "text" / "a.pdf.txt").read_text(encoding="utf-8").split("\f")
    assert len(pages) == 5000
    assert pages[4999].startswith("region 5000.1 of a.pdf")


# COCO ---------------------------------------------------------------------------------------------


def test_coco_results_load_against_the_coco_dataset(run, tmp_path):
    for form in ("coco", "coco-results"):
        export_results(run, form, tmp_path / f"{form}.json")
    dataset = COCO(tmp_path / "coco.json")
    results = dataset.loadRes(str(tmp_path / "coco-results.json"))
    assert len(results.anns) == len(dataset.anns) == 5
    evaluation = COCOeval(dataset, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    image = next(each for each in dataset.imgs.values() if each["document"] == "letters/a.pdf")
    assert image["file_name"] == "store/letters/a.pdf/images/0001.jpg"
    assert (image["width"], image["height"], image["page"]) == (WIDTH, HEIGHT, 1)
    assert {each["name"] for each in dataset.cats.values()} == {"text", "figure"}
    [polygon] = [each for each in results.anns.values() if each["score"] == 0.8]
    assert polygon["segmentation"] == [OUTLINE]


def test_coco_comes_back(run, tmp_path):
    export_results(run, "coco", tmp_path / "coco.json")
    dataset = dataset_of(tmp_path / "coco.json", images=str(run / "results"), split=HALVES)
    assert {each.kind for each in dataset.problems} <= {"mixed_polygons"}
    regions = pd.read_parquet(run / "results/regions")
    for image in dataset.images:
        mine = regions[(regions.document == image.document) & (regions.page == image.page)]
        boxes = sorted(mine[["x_min", "y_min", "x_max", "y_max"]].round(2).itertuples(index=False))
        assert sorted(each.box for each in image.objects) == [tuple(box) for box in boxes]
        classes = sorted(dataset.classes[each.class_id] for each in image.objects)
        assert classes == sorted(mine.class_name)


# Label Studio -------------------------------------------------------------------------------------


def test_corrected_tasks_come_back_to_their_documents(bare, tmp_path):
    output = tmp_path / "tasks"
    said = export_results(bare, "label-studio", output)
    assert "4 of 4 pages, of 2 documents." in said
    tasks = json.loads((output / TASKS).read_text(encoding="utf-8"))
    corrected = exported(tasks)
    for task in corrected:
        for result in task["annotations"][0]["result"]:
            kind = result["type"]
            result["value"][kind] = ["title" if result["value"][kind] == ["text"] else "figure"]
    (output / EXPORT).write_text(json.dumps(corrected))
    dataset = dataset_of(output / EXPORT, split=HALVES)
    assert {each.kind for each in dataset.problems} <= {"mixed_polygons"}
    pages = {(image.document, image.page): image for image in dataset.images}
    assert set(pages) == {("letters/a.pdf", 1), ("letters/a.pdf", 2)} | {
        ('b "1", =x.pdf', page) for page in (1, 3)
    }
    assert set(dataset.classes) == {"title", "figure"}
    boxes = {each.box for each in pages["letters/a.pdf", 1].objects}
    assert boxes == {(10.5, 20.25, 80, 60), (0, 100, WIDTH, HEIGHT)}


# PAGE-XML and ALTO: see test_layout_xml -----------------------------------------------------------


@pytest.mark.parametrize("form", ["page-xml", "alto"])
def test_corrected_pages_come_back_from_folders_with_images(run, tmp_path, form):
    export_results(run, form, tmp_path / "pages", images=True)
    dataset = dataset_of(tmp_path / "pages", split=HALVES)
    assert {each.kind for each in dataset.problems} <= {"mixed_polygons"}
    assert {(image.document, image.file_name) for image in dataset.images} == {
        (document, f"{document}/{page:04d}.jpg")
        for document, page in [("letters/a.pdf", 1), ("letters/a.pdf", 2)]
        + [('b "1", =x.pdf', page) for page in (1, 3)]
    }
    assert set(dataset.classes) == {"text", "figure"}
    assert sum(len(image.objects) for image in dataset.images) == 5


def test_images_are_for_pages_alone(run, tmp_path):
    with pytest.raises(UserError, match="--images is for page-xml and alto"):
        export_results(run, "coco", tmp_path / "x.json", images=True)


# Names --------------------------------------------------------------------------------------------


def test_no_two_documents_have_the_same_file():
    documents = ["a", "a.pdf", "b.PDF", "x.pdf", "x.pdf/y.tif", "x.pdf/.", "%FF.tif", "z" * 300]
    names = file_names(documents, ".pdf")
    assert names["a.pdf"] == "a.pdf"
    assert names["a"] == "a%2Epdf.pdf"
    assert names["b.PDF"] == "b.PDF"
    assert names["x.pdf"] == "x.pdf%2Epdf.pdf"
    assert names["x.pdf/y.tif"] == "x.pdf/y.tif.pdf"
    assert len(set(names.values())) == len(documents)
    assert all(len(os.fsencode(part)) <= 255 for name in names.values() for part in name.split("/"))


# What cannot be written ---------------------------------------------------------------------------


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "there.csv").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(UserError, match="Give the name of a new file"):
        export_results(run, "csv", tmp_path / "there.csv")
    with pytest.raises(UserError, match="Give the name of a new folder"):
        export_results(run, "alto", tmp_path / "full")
    with pytest.raises(UserError, match="where runs write alone"):
        export_results(run, "csv", run / "results" / "regions.csv")


def test_a_run_that_is_not_finished_is_not_exported(tmp_path):
    run = write_run(tmp_path / "run", {"a.pdf": [Page()], "b.pdf": [Page()]})
    add_text(run)
    (run / "results/ocr/00001.parquet").unlink()
    with pytest.raises(UserError, match="is not finished: 1 of 2 shards have no ocr yet"):
        export_results(run, "csv", tmp_path / "regions.csv")
    assert not (tmp_path / "regions.csv").exists()


def test_a_run_without_pages_has_empty_exports(tmp_path, capsys):
    run = write_run(tmp_path / "run", {"a.pdf": [Page(ok=False)]}, shards=1)
    add_text(run)
    for form in ("csv", "coco", "coco-results", "page-xml", "alto", "text"):
        assert export_results(run, form, tmp_path / form).startswith("0 ")
    assert pd.read_csv(tmp_path / "csv").empty
    assert json.loads((tmp_path / "coco").read_text())["images"] == []
    assert json.loads((tmp_path / "coco-results").read_text()) == []
    with pytest.raises(UserError, match="No page of the 1 documents is ok"):
        export_results(run, "label-studio", tmp_path / "tasks")


def test_an_empty_shard_is_no_obstacle(tmp_path):
    run = write_run(tmp_path / "run", {"a.pdf": [Page()]}, {"a.pdf": {"year": "1888"}}, shards=2)
    export_results(run, "csv", tmp_path / "csv")
    assert pd.read_csv(tmp_path / "csv").year.tolist() == [1888]


def test_crops_are_not_needed(tmp_path):
    run = write_run(tmp_path / "run", {"a.pdf": [Page()]})
    for path in (run / "results/crops").iterdir():
        path.unlink()
    for form in ("csv", "coco", "alto"):
        assert export_results(run, form, tmp_path / form).startswith("1 ")


# The tool -----------------------------------------------------------------------------------------


def test_the_tool_says_what_was_written(run, tmp_path):
    output = tmp_path / "regions.csv"
    done = tool("export_results", run, "--format", "csv", "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"5 regions of 3 documents: {output}\n"
    again = tool("export_results", run, "--format", "csv", "--output", output)
    assert again.returncode == 1
    assert again.stderr.startswith(f"error: --output {output}: there is something already")

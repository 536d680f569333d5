"""Tasks for annotators: what is written, and that corrections come back to their documents and pages."""

import contextlib
import json
import os
import re
import shlex
import urllib.parse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from annotated_pages import dataset_of
from finished_run import MODEL, tool
from sampled_run import HEIGHT, OUTLINE, WIDTH, Page, exported, outlined, write_run

from scanmill.annotation_tasks import (
    EXPORT,
    IMAGES,
    LABELS,
    README,
    TASKS,
    distinct_colors,
    image_names,
    label_config,
    write_tasks,
)
from scanmill.annotations import read_annotations
from scanmill.errors import UserError
from scanmill.image_files import decode
from scanmill.sampling import SampledPage, sample_pages
from scanmill.store import document_folder

TWO = (("text", 0.9, (10.5, 20.25, 80, 60), None), ("figure", 0.6, (0, 100, WIDTH, HEIGHT), None))
OUTLINES = (outlined(), ("text", 0.7, (4, 4, 41, 30), [5, 5, 40, 5, 40, 30, 5, 30]))
HOSTILE = [
    'it\'s "here".pdf',
    "a b.pdf",
    "a_b.pdf",
    "A_B.PDF",
    "A_b.pdf",
    "%FF%2Fetc%0A.pdf",
    "ä/..&<x>.pdf",
    "x" * 300,
    "x" * 301,
    "%25",
    "書/巻一.pdf",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The working directory of a finished run: not to be changed."""
    documents = {
        "letters/a.pdf": [Page(TWO), Page(())],
        "letters/b.pdf": [Page(TWO, ".png", capped=True)],
        "maps.tif": [Page(TWO, ".jp2")],
        "d.pdf": [Page(TWO, ".jpg", ok=False), Page(TWO)],
    }
    return write_run(tmp_path_factory.mktemp("run"), documents)


def write_sample(run, output, n=100, **options):
    """Sample pages and write them; returns the tasks."""
    write_tasks(run, sample_pages(run, n).pages, output, **options)
    return json.loads((output / TASKS).read_text(encoding="utf-8"))


def by_page(tasks):
    return {(task["data"]["document"], task["data"]["page"]): task for task in tasks}


# What is written ----------------------------------------------------------------------------------


def test_tasks_are_what_the_run_found(run, tmp_path):
    tasks = write_sample(run, tmp_path / "sample")
    assert {path.name for path in (tmp_path / "sample").iterdir()} == {
        IMAGES,
        TASKS,
        LABELS,
        README,
    }
    task = by_page(tasks)["letters/b.pdf", 1]
    assert task["data"] == {
        "image": "/data/local-files/?d=sample/images/letters_b.pdf-0001.png",
        "file_name": "letters_b.pdf-0001.png",
        "document": "letters/b.pdf",
        "page": 1,
        "width": WIDTH,
        "height": HEIGHT,
        "stratum": "all",
        "flags": ["capped"],
    }
    [prediction] = task["predictions"]
    assert prediction["model_version"] == "m d"
    assert prediction["score"] == 0.75
    first, second = prediction["result"]
    assert first == {
        "id": "detection-1",
        "type": "rectanglelabels",
        "from_name": "rectangle",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "score": 0.9,
        "value": {
            "x": 9.5455,
            "y": 12.6562,
            "width": 63.1818,
            "height": 24.8438,
            "rotation": 0,
            "rectanglelabels": ["text"],
        },
    }
    assert second["value"] == {
        **{"x": 0, "y": 62.5, "width": 100, "height": 37.5, "rotation": 0},
        "rectanglelabels": ["figure"],
    }
    empty = by_page(tasks)["letters/a.pdf", 2]
    assert empty["predictions"] == [{"model_version": "m d", "result": []}]
    assert empty["data"]["flags"] == ["no_regions"]


def test_outlines_are_polygons(tmp_path):
    run = write_run(tmp_path, {"a.pdf": [Page((outlined(),))]})
    [task] = write_sample(run, tmp_path / "sample")
    [polygon] = task["predictions"][0]["result"]
    assert polygon["type"] == "polygonlabels"
    assert polygon["from_name"] == "polygon"
    assert polygon["value"]["polygonlabels"] == ["figure"]
    points = np.array(polygon["value"]["points"]) * (WIDTH, HEIGHT) / 100
    assert points.ravel() == pytest.approx(OUTLINE, abs=1e-4 * HEIGHT)
    [task] = write_sample(run, tmp_path / "boxes", boxes=True)
    [box] = task["predictions"][0]["result"]
    assert (box["type"], box["value"]["rectanglelabels"]) == ("rectanglelabels", ["figure"])


@pytest.mark.parametrize(
    "outline", [[5, 50, 30, 52, 55, 54], [5, 50, 60, 50, 60, 51, 5, 51], [5, 50, 60, 60]]
)
def test_of_an_outline_without_an_inside_the_box_is_taken(tmp_path, outline):
    region = ("text", 0.6, (5, 50, 60, 60), outline)
    run = write_run(tmp_path / "run", {"a.pdf": [Page((region,))], "b.pdf": [Page((region,))]})
    tasks = write_sample(run, tmp_path / "sample")
    assert tasks[0]["predictions"][0]["result"][0]["type"] == "rectanglelabels"
    (tmp_path / EXPORT).write_text(json.dumps(exported(tasks)))
    split = {"train": 0.5, "val": 0.5}
    dataset = dataset_of(tmp_path / EXPORT, images=str(tmp_path / "sample"), split=split)
    assert not dataset.problems
    assert [len(image.objects) for image in dataset.images] == [1, 1]


def test_regions_below_the_score_are_left_out(run, tmp_path):
    tasks = write_sample(run, tmp_path / "sample", min_score=0.7)
    scores = [each["score"] for task in tasks for each in task["predictions"][0]["result"]]
    assert scores == [0.9] * 4
    with pytest.raises(UserError, match="--min-score 70"):
        write_sample(run, tmp_path / "other", min_score=70)


def test_images_are_as_they_are_or_what_browsers_show(run, tmp_path):
    tasks = by_page(write_sample(run, tmp_path / "sample"))
    images = tmp_path / "sample" / IMAGES
    assert {path.name for path in images.iterdir()} == {
        task["data"]["file_name"] for task in tasks.values()
    }
    for (document, page), task in tasks.items():
        [source] = (document_folder(run / "results", document) / IMAGES).glob(f"{page:04d}.*")
        written = images / task["data"]["file_name"]
        if source.suffix == ".jp2":
            assert written.suffix == ".png"
            assert written.read_bytes().startswith(b"\x89PNG")
            assert np.array_equal(decode(written.read_bytes()), decode(source.read_bytes()))
        else:
            assert written.suffix == source.suffix
            assert written.read_bytes() == source.read_bytes()


def test_tasks_are_in_the_order_of_the_sample_and_the_same_each_time(run, tmp_path):
    sample = sample_pages(run, 100)
    tasks = write_sample(run, tmp_path / "one" / "sample")
    places = [(task["data"]["document"], task["data"]["page"]) for task in tasks]
    assert places == [(page.document, page.page) for page in sample.pages]
    write_sample(run, tmp_path / "two" / "sample")
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file() and path.name != README
        }
        for name in ("one", "two")
    )
    assert one == two


def test_labels_are_the_classes_of_the_model_in_colours_of_their_own():
    classes = ["text", "title", 'a "quoted" <class> & more', *(f"class {n}" for n in range(60))]
    root = ElementTree.fromstring(label_config(classes))
    [image] = root.iter("Image")
    assert (image.get("name"), image.get("value")) == ("image", "$image")
    for tag, name in (("RectangleLabels", "rectangle"), ("PolygonLabels", "polygon")):
        [control] = root.iter(tag)
        assert (control.get("name"), control.get("toName")) == (name, "image")
        assert [label.get("value") for label in control] == classes
        colors = [label.get("background") for label in control]
        assert len(set(colors)) == len(classes)
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    # As in drawings, where no other class has it.
    assert distinct_colors(["figure", "text"]) == {"figure": "#cc79a7", "text": "#0072b2"}
    with pytest.raises(UserError, match=r"another name in its model\.json"):
        label_config(["text\x01"])


def test_what_the_readme_says_is_true(run, tmp_path):
    output = tmp_path / "it's a #sample"
    tasks = write_sample(run, output)
    text = (output / README).read_text(encoding="utf-8")
    assert "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true" in text
    [root] = re.findall(r"LOCAL_FILES_DOCUMENT_ROOT=(.*)", text)
    root = Path(shlex.split(root)[0])
    for task in tasks:
        query = urllib.parse.urlsplit(task["data"]["image"]).query
        path = root / urllib.parse.parse_qs(query)["d"][0]
        assert path.parent == output / IMAGES
        assert path.is_file()
    assert f"\n     {output / IMAGES}\n" in text
    (output / EXPORT).write_text(json.dumps(exported(tasks)))
    block = text[text.index("dataset:\n") : text.index("   The export")]
    settings = yaml.safe_load(block)["dataset"]
    dataset = dataset_of(*settings.pop("annotations"), **settings)
    assert not dataset.problems
    assert len(dataset.images) == len(tasks)


# Names --------------------------------------------------------------------------------------------


def test_names_are_safe_readable_and_unique():
    pages = [(document, page) for document in HOSTILE for page in (1, 12345)]
    names = image_names(pages)
    assert len({name.casefold() for name in names}) == len(pages)
    for name in names:
        assert re.fullmatch(r"\w[\w.-]*", name)
        assert len(name.encode()) < 200
    known = dict(zip(pages, names, strict=True))
    assert known["書/巻一.pdf", 1] == "書_巻一.pdf-0001"
    assert known["a b.pdf", 12345] == "a_b.pdf-3-12345"
    assert known["a_b.pdf", 1] == "a_b.pdf-4-0001"
    assert known["A_B.PDF", 1] == "A_B.PDF-0001"
    assert image_names([("//", 1), ("..", 2)]) == ["document-2-0001", "document-0002"]
    # A number cannot be taken for a page, nor for another's name.
    tricky = [("a", 1), ("a-0001", 1), ("a-2", 1), ("A", 1), ("a-0001", 12)]
    assert len({name.casefold() for name in image_names(tricky)}) == len(tricky)


def test_hostile_documents_stay_in_the_folder_and_come_back(tmp_path):
    run = write_run(tmp_path / "run", {name: [Page(), Page(TWO)] for name in HOSTILE})
    tasks = write_sample(run, tmp_path / "sample")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "sample"}
    assert len(list((tmp_path / "sample" / IMAGES).iterdir())) == 2 * len(HOSTILE)
    (tmp_path / "sample" / EXPORT).write_text(json.dumps(exported(tasks)))
    dataset = dataset_of(tmp_path / "sample" / EXPORT)
    assert not dataset.problems
    back = {(image.document, image.page): len(image.objects) for image in dataset.images}
    assert back == {(name, page): page for name in HOSTILE for page in (1, 2)}


# The way back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [TWO, OUTLINES], ids=["boxes", "outlines"])
def test_what_is_submitted_as_it_is_comes_back_as_it_was(tmp_path, regions):
    documents = {
        f"box {number}/a.pdf": [Page(regions), Page((), ".png"), Page(regions[:1], ".jp2")]
        for number in range(4)
    }
    run = write_run(tmp_path / "run", documents)
    output = tmp_path / "sample"
    tasks = write_sample(run, output)
    (output / EXPORT).write_text(json.dumps(exported(tasks)))
    dataset = dataset_of(output / EXPORT, images=str(output / IMAGES))
    assert not dataset.problems
    assert set(dataset.classes) == set(MODEL["classes"])
    assert len(dataset.images) == 12
    for image in dataset.images:
        regions = documents[image.document][image.page - 1].regions
        back = {dataset.classes[each.class_id]: each for each in image.objects}
        assert len(back) == len(image.objects) == len(regions)
        for name, _, box, polygon in regions:
            if polygon:
                points = np.reshape(polygon, (-1, 2))
                box = (*points.min(axis=0), *points.max(axis=0))
                assert back[name].polygons[0] == pytest.approx(polygon, abs=0.0002 * WIDTH)
            assert back[name].box == pytest.approx(box, abs=0.0002 * WIDTH)
    # Documents stay whole, though their images lie in one folder.
    splits = {image.document: set() for image in dataset.images}
    for image in dataset.images:
        splits[image.document].add(image.split)
    assert len(splits) == 4
    assert all(len(split) == 1 for split in splits.values())


def test_rounds_come_back_together(run, tmp_path):
    for documents in ("letters/a.pdf", "letters/b.pdf", "maps.tif"):
        output = tmp_path / "annotated" / documents.replace("/", "-")
        write_tasks(run, sample_pages(run, 9, documents=[documents]).pages, output)
        tasks = json.loads((output / TASKS).read_text(encoding="utf-8"))
        (output / EXPORT).write_text(json.dumps(exported(tasks)))
    dataset = dataset_of(*(tmp_path / "annotated").glob(f"*/{EXPORT}"))
    assert not dataset.problems
    assert len(dataset.images) == 4
    # A folder that was renamed, and one that was moved, are found as well.
    (tmp_path / "annotated" / "maps.tif").rename(tmp_path / "annotated" / "maps")
    (tmp_path / "annotated").rename(tmp_path / "elsewhere")
    dataset = dataset_of(*(tmp_path / "elsewhere").glob(f"*/{EXPORT}"))
    assert not dataset.problems
    assert len(dataset.images) == 4


def test_skipped_pages_do_not_come_back(run, tmp_path):
    tasks = write_sample(run, tmp_path / "sample")
    (tmp_path / "sample" / EXPORT).write_text(json.dumps(exported(tasks, skipped={1})))
    pages, problems = read_annotations([tmp_path / "sample" / EXPORT])
    skipped = tasks[1]["data"]
    assert len(pages) == len(tasks) - 1
    assert (skipped["document"], skipped["page"]) not in {
        (each.document, each.page) for each in pages
    }
    assert [problem.kind for problem in problems] == ["not_annotated"]


ADDRESSES = [
    "/data/local-files/?d=other/root/sample/images/{}",
    "/data/local-files/?d={}",
    "/data/upload/7/3f2a9c1b-{}",
    "http://localhost:8080/data/upload/7/3f2a9c1b-{}",
    "s3://bucket/prefix/{}",
    "https://bucket.example.org/prefix/{}?X-Amz-Expires=60&response-content-type=image%2Fpng",
    # Where nothing of the name is left.
    "/tasks/7/resolve/?fileuri=czM6Ly9idWNrZXQvcHJlZml4L2E=",
    "https://iiif.example.org/image/77/full/full/0/default",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_images_are_found_whatever_became_of_their_address(run, tmp_path, address):
    output = tmp_path / "sample"
    tasks = write_sample(run, output)
    for task in tasks:
        name = urllib.parse.quote(task["data"]["file_name"])
        task["data"]["image"] = address.format(name)
    (tmp_path / EXPORT).write_text(json.dumps(exported(tasks)))
    dataset = dataset_of(tmp_path / EXPORT, images=str(output / IMAGES))
    assert not dataset.problems
    assert {(image.document, image.page): image.file_name for image in dataset.images} == {
        place: task["data"]["file_name"] for place, task in by_page(tasks).items()
    }


# What cannot be written ---------------------------------------------------------------------------


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "export.json").write_text("[]")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="Give the name of a new folder"):
            write_sample(run, tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write_sample(run, tmp_path / "link")
    assert (tmp_path / "empty" / README).is_file()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["export.json"]


def test_nothing_is_written_into_results(run, tmp_path):
    (tmp_path / "link").symlink_to(run / "results")
    for folder in (run / "results", run / "results" / "a" / "b", tmp_path / "link" / "a"):
        with pytest.raises(UserError, match="where runs write alone"):
            write_sample(run, folder)
    assert not (run / "results" / "a").exists()


def test_what_is_interrupted_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        write_sample(run, tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_gone_or_others_are_named(tmp_path):
    run = write_run(tmp_path / "run", {f"{name}.pdf": [Page(), Page()] for name in "abcd"})
    images = sorted(run.glob("results/store/*/images/*.jpg"))
    images[0].write_bytes(images[1].read_bytes())
    with pytest.raises(UserError, match=r"a\.pdf, page 1, was rendered but its") as error:
        write_sample(run, tmp_path / "sample")
    assert "verify_results.py --repair" in str(error.value)
    for path in images[1:]:
        path.unlink()
    with pytest.raises(UserError, match="7 of the 8 chosen pages have no image any more") as error:
        write_sample(run, tmp_path / "sample")
    said = str(error.value)
    assert str(run / "results/store") in said
    assert "\n  and 2 more\n" in said
    assert f"verify_results.py --directory {run} --repair" in said
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_regions_that_are_gone_are_named(tmp_path):
    run = write_run(tmp_path / "run", {"a.pdf": [Page()]})
    sampled = [SampledPage("a.pdf", 2, "all")]
    with pytest.raises(UserError, match=r"page 2 of a\.pdf is not in"):
        write_tasks(run, sampled, tmp_path / "sample")
    (document_folder(run / "results", "a.pdf") / "regions.parquet").unlink()
    with pytest.raises(UserError, match=r"verify_results\.py .*--repair"):
        write_sample(run, tmp_path / "sample")


# The tool -----------------------------------------------------------------------------------------


def test_the_tool_says_what_was_chosen_and_what_to_do_next(run, tmp_path):
    output = tmp_path / "sample"
    options = (
        "--output",
        output,
        "--n",
        "2",
        "--by",
        "document",
        "--documents",
        "**",
        "--seed",
        "3",
    )
    done = tool("sample_pages", run, *options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "2 of 5 pages, of 2 documents."
    assert re.fullmatch(r"\d regions found by m d\.", lines[-2])
    assert lines[-1] == f"What to do next: {output / README}"
    assert len(json.loads((output / TASKS).read_text())) == 2
    again = tool("sample_pages", run, *options)
    assert again.returncode == 1
    assert again.stderr.startswith(f"error: --output {output}: there is something already")
    flags = tool("sample_pages", run, "--output", tmp_path / "flagged", "--n", "9", "--flags")
    assert flags.stdout.splitlines()[:3] == [
        "2 of 2 pages, of 2 documents.",
        "  capped           1 of 1",
        "  no_regions       1 of 1",
    ]
    wrong = tool("sample_pages", run, "--output", tmp_path / "x", "--n", "2", "--by", "year")
    assert wrong.stderr.startswith("error: --by year: there is no such column")

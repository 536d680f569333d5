"""Datasets: every fault of annotations, images and splits; what is written."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotated_pages import (
    HEIGHT,
    WIDTH,
    annotation,
    dataset_of,
    save_image,
    write_books,
    write_coco,
)
from PIL import Image
from pycocotools.coco import COCO

from scanmill.annotations import Annotations, read_annotations
from scanmill.coco import (
    coco_files,
    count_classes,
    make_dataset,
    object_table,
    prepare_dataset,
    problem_table,
    write_dataset,
)
from scanmill.errors import UserError
from scanmill.splits import SPLITS
from scanmill.tables import read_table

DATA = Path(__file__).parents[3] / "shared/data"
FILES = [
    "dataset.parquet",
    "problems.parquet",
    "report.html",
    "test.json",
    "train.json",
    "val.json",
]


def real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def found(dataset, *kinds):
    """(kind, severity, name of the file, image, annotation) of the problems, of `kinds` if given."""
    return [
        (each.kind, each.severity, Path(each.file).name, each.image, each.annotation)
        for each in dataset.problems
        if not kinds or each.kind in kinds
    ]


def with_page(folder, name, *annotations, **fields):
    """The dataset of some sound books and of one page more."""
    return dataset_of(write_books(folder, extra={name: (fields, list(annotations))}))


def page_of(dataset, name):
    return next(image for image in dataset.images if image.file_name == name)


def message_of(dataset, kind):
    [problem] = [each for each in dataset.problems if each.kind == kind]
    return problem.message


# Sound --------------------------------------------------------------------------------------------


def test_sound_dataset(tmp_path):
    dataset = dataset_of(write_books(tmp_path))
    assert dataset.problems == ()
    assert dataset.classes == ("text", "table")
    assert dataset.image_folder == str(tmp_path)
    assert len(dataset.images) == 18
    splits = Counter(image.split for image in dataset.images)
    assert splits == {"train": 12, "val": 3, "test": 3}
    for image in dataset.images:
        assert image.document == image.file_name.split("/")[0]
        assert (image.width, image.height) == (WIDTH, HEIGHT)
        assert image.path == tmp_path / image.file_name
    by_document = {(image.document, image.split) for image in dataset.images}
    assert len(by_document) == 6
    assert page_of(dataset, "book0/p1.png").objects == (
        (0, (5, 10, 45, 40), (), "2"),
        (1, (5, 45, 45, 75), (), "3"),
    )


def test_order_of_pages_and_files_does_not_matter(tmp_path):
    one = write_books(tmp_path, file="a.json")
    save_image(tmp_path / "z/p.png")
    extra = annotation("table", (0, 0, 200, 30))
    two = write_coco(tmp_path / "b.json", {"z/p.png": [annotation(), extra], "z/no.png": []})
    expected = dataset_of(one, two)
    assert expected.problems
    assert dataset_of(two, one) == expected
    annotations = read_annotations([one, two])
    for seed in range(3):
        random.Random(seed).shuffle(annotations.pages)
        assert make_dataset(annotations, {"min_examples": 1}) == expected


def test_seed_chooses_among_equal_divisions(tmp_path):
    file = write_books(tmp_path)
    divisions = {
        tuple(image.split for image in dataset_of(file, seed=seed).images) for seed in range(8)
    }
    assert len(divisions) > 1
    assert dataset_of(file, seed=3) == dataset_of(file, seed=3)


# Images -------------------------------------------------------------------------------------------


def test_missing_image(tmp_path):
    dataset = with_page(tmp_path, "book1/gone.png", annotation())
    assert found(dataset) == [("missing_image", "error", "a.json", "book1/gone.png", "")]
    assert "with 1 annotations" in message_of(dataset, "missing_image")
    assert len(dataset.images) == 18


def damaged(folder):
    """Files that are no sound images, by name."""
    whole = save_image(folder / "whole.png").read_bytes()
    jpeg = save_image(folder / "whole.jpg", width=200, height=300).read_bytes()
    tiff = folder / "pages.tif"
    pages = [Image.new("L", (20, 30), grey) for grey in (0, 9)]
    pages[0].save(tiff, save_all=True, append_images=pages[1:])
    floats = folder / "floats.tif"
    Image.fromarray(np.ones((20, 20), np.float32)).save(floats)
    return {
        "empty.png": b"",
        "text.png": b"hello",
        "half.png": whole[: len(whole) // 2],
        "half.jpg": jpeg[: len(jpeg) // 2],
        "head.jpg": jpeg[:20],
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "pages.tif": tiff.read_bytes(),
        "floats.tif": floats.read_bytes(),
    }


def test_unreadable_images(tmp_path):
    files = damaged(tmp_path / "x")
    (tmp_path / "bad").mkdir()
    for name, data in files.items():
        (tmp_path / "bad" / name).write_bytes(data)
    extra = {f"bad/{name}": [annotation()] for name in files}
    dataset = dataset_of(write_books(tmp_path, extra=extra))
    expected = [("unreadable_image", "error", "a.json", name, "") for name in sorted(extra)]
    assert found(dataset) == expected
    assert len(dataset.images) == 18


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_tiny_image(tmp_path, size):
    save_image(tmp_path / "tiny.png", width=size[0], height=size[1])
    dataset = with_page(tmp_path, "tiny.png", annotation(), width=size[0], height=size[1])
    assert found(dataset) == [("tiny_image", "error", "a.json", "tiny.png", "")]


def test_size_that_lies_in_proportion_is_scaled(tmp_path):
    save_image(tmp_path / "book9/p.png")
    corners = [10.0, 20.0, 90.0, 20.0, 90.0, 80.0]
    outlined = annotation(box=(10, 20, 80, 60), segmentation=[corners])
    dataset = with_page(tmp_path, "book9/p.png", outlined, width=120, height=180)
    assert found(dataset, "size_mismatch") == [
        ("size_mismatch", "warning", "a.json", "book9/p.png", "")
    ]
    [region] = page_of(dataset, "book9/p.png").objects
    assert region.box == (5, 10, 45, 40)
    assert region.polygons == ((5, 10, 45, 10, 45, 40),)
    message = message_of(dataset, "size_mismatch")
    assert "60 x 90" in message
    assert "120 x 180" in message


def test_ratios_are_the_same_up_to_one_hundredth(tmp_path):
    save_image(tmp_path / "book9/p.png", width=1000, height=1000)
    dataset = with_page(tmp_path, "book9/p.png", annotation(), width=500, height=504)
    assert page_of(dataset, "book9/p.png").objects[0].box == (10, 19.84, 90, 79.37)
    dataset = with_page(tmp_path, "book9/p.png", annotation(), width=500, height=506)
    assert found(dataset) == [("size_mismatch", "error", "a.json", "book9/p.png", "")]


def test_size_that_lies_otherwise_leaves_the_page_out(tmp_path):
    save_image(tmp_path / "book9/p.png")
    dataset = with_page(tmp_path, "book9/p.png", annotation(), width=HEIGHT, height=WIDTH)
    assert found(dataset) == [("size_mismatch", "error", "a.json", "book9/p.png", "")]
    assert "EXIF" in message_of(dataset, "size_mismatch")
    assert len(dataset.images) == 18


@pytest.mark.parametrize("claim", [None, 0, -3, "wide"])
def test_size_that_is_not_said(tmp_path, claim):
    save_image(tmp_path / "book9/p.png")
    dataset = with_page(tmp_path, "book9/p.png", annotation(), width=claim, height=claim)
    assert found(dataset) == [("size_mismatch", "warning", "a.json", "book9/p.png", "")]
    assert page_of(dataset, "book9/p.png").objects[0].box == (5, 10, 45, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_image(tmp_path, orientation):
    turned = orientation >= 5
    stored = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
    path = tmp_path / "book9/p.jpg"
    save_image(path, width=stored[0], height=stored[1], orientation=orientation)
    dataset = with_page(tmp_path, "book9/p.jpg", annotation())
    assert not dataset.problems
    assert page_of(dataset, "book9/p.jpg")[5:7] == (WIDTH, HEIGHT)


def test_duplicate_images(tmp_path):
    original = tmp_path / "book2/p1.png"
    file = write_books(tmp_path)
    (tmp_path / "book9").mkdir()
    (tmp_path / "book9/copy.png").write_bytes(original.read_bytes())
    copies = write_coco(tmp_path / "b.json", {"book9/copy.png": [annotation()]})
    dataset = dataset_of(file, copies)
    assert found(dataset) == [("duplicate_image", "error", "b.json", "book9/copy.png", "")]
    assert "book2/p1.png" in message_of(dataset, "duplicate_image")
    assert len(dataset.images) == 18
    # The page with more annotations stays, whichever comes first.
    copies = write_coco(tmp_path / "b.json", {"book9/copy.png": [annotation()] * 3})
    dataset = dataset_of(file, copies)
    assert found(dataset) == [("duplicate_image", "error", "a.json", "book2/p1.png", "")]


# Finding images -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/1/3f2a9c1b-Seite_1.png",
        "images/3f2a9c1b-Seite_1.png",
        "images\\3f2a9c1b-Seite_1.png",
        "3f2a9c1b-Seite_1.png",
        "/data/local-files/?d=scans/Seite%201.png",
        "http://localhost:8080/data/upload/1/3f2a9c1b-Seite_1.png",
        "/elsewhere/images/Seite 1.png",
        "Seite 1.png",
    ],
)
def test_renamed_images_are_found(tmp_path, name):
    save_image(tmp_path / "scans/deep/Seite 1.png")
    dataset = with_page(tmp_path, name, annotation())
    assert not dataset.problems
    assert page_of(dataset, "scans/deep/Seite 1.png")


def test_prefix_that_is_part_of_the_name_stays(tmp_path):
    save_image(tmp_path / "x/3f2a9c1b-p.png")
    save_image(tmp_path / "x/p.png")
    dataset = with_page(tmp_path, "3f2a9c1b-p.png", annotation())
    assert page_of(dataset, "x/3f2a9c1b-p.png")


def test_ambiguous_image(tmp_path):
    dataset = with_page(tmp_path, "/data/upload/1/3f2a9c1b-p0.png", annotation())
    name = "/data/upload/1/3f2a9c1b-p0.png"
    assert found(dataset) == [("ambiguous_image", "error", "a.json", name, "")]
    assert "6 images" in message_of(dataset, "ambiguous_image")
    assert "book0/p0.png" in message_of(dataset, "ambiguous_image")


def test_images_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "images").mkdir()
    write_books(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels/a.json"
    file.write_bytes((tmp_path / "images/a.json").read_bytes())
    dataset = dataset_of(file, images=str(tmp_path / "images"))
    assert not dataset.problems
    assert dataset.image_folder == str(tmp_path / "images")
    assert dataset.images[0].file_name == "book0/p0.png"
    with pytest.raises(UserError, match="no such folder"):
        dataset_of(file, images=tmp_path / "nowhere")


def test_images_are_looked_for_beside_their_annotations_first(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = [write_books(tmp_path / name) for name in ("a", "b")]
    write_books(tmp_path)
    dataset = dataset_of(*files)
    assert {image.file_name.split("/")[0] for image in dataset.images} == {"a", "b"}
    # Unless a folder is named: then both are about the same images.
    dataset = dataset_of(*files, images=tmp_path)
    assert {image.file_name.split("/")[0] for image in dataset.images} == {
        f"book{n}" for n in range(6)
    }
    assert {each.kind for each in dataset.problems} == {"duplicate_image"}


def test_images_beside_and_above_page_xml(tmp_path):
    for book in "abc":
        save_image(tmp_path / book / "p1.png")
        (tmp_path / book / "page").mkdir()
        (tmp_path / book / "page/p1.xml").write_text(
            f'<PcGts><Page imageFilename="p1.png" imageWidth="{WIDTH}" imageHeight="{HEIGHT}">'
            '<TextRegion id="r"><Coords points="5,10 45,10 45,40"/></TextRegion></Page></PcGts>'
        )
    dataset = dataset_of(tmp_path)
    assert not dataset.problems
    names = ["a/p1.png", "b/p1.png", "c/p1.png"]
    assert [image.file_name for image in dataset.images] == names
    assert [image.document for image in dataset.images] == ["a", "b", "c"]


def test_label_studio_in_hundredths(tmp_path):
    results = [
        {
            "id": "r1",
            "type": "rectanglelabels",
            "original_width": 2 * WIDTH,
            "original_height": 2 * HEIGHT,
            "value": {"x": 10, "y": 20, "width": 50, "height": 50, "rectanglelabels": ["text"]},
        }
    ]
    tasks = [
        {
            "id": number,
            "data": {"image": f"x/p{number}.png", "document": f"d{number}", "page": 2},
            "annotations": [{"id": 1, "result": results}],
        }
        for number in range(3)
    ]
    for number in range(3):
        save_image(tmp_path / f"x/p{number}.png")
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    dataset = dataset_of(tmp_path / "a.json")
    assert [each[:2] for each in found(dataset)] == [("size_mismatch", "warning")] * 3
    image = dataset.images[0]
    assert (image.document, image.page) == ("d0", 2)
    assert image.objects[0].box == (6, 18, 36, 63)


# Boxes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "kind", "severity", "expected"),
    [
        ((-5, 10, 40, 30), "clipped_box", "warning", (0, 10, 35, 40)),
        ((5, -5, 40, 30), "clipped_box", "warning", (5, 0, 45, 25)),
        ((30, 10, 40, 30), "clipped_box", "warning", (30, 10, WIDTH, 40)),
        ((5, 70, 40, 30), "clipped_box", "warning", (5, 70, 45, HEIGHT)),
        ((5, 95, 40, 30), "outside_page", "error", None),
        ((-50, 10, 40, 30), "outside_page", "error", None),
        ((5, 10, 0, 30), "degenerate_box", "error", None),
        ((5, 10, 40, 0.5), "degenerate_box", "error", None),
        ((5, 10, -40, 30), "degenerate_box", "error", None),
        ((59.5, 10, 40, 30), "outside_page", "error", None),
    ],
)
def test_boxes_outside_or_without_area(tmp_path, box, kind, severity, expected):
    save_image(tmp_path / "book9/p.png")
    dataset = with_page(tmp_path, "book9/p.png", annotation(), annotation(box=box))
    identity = str(6 * 4 + 2)  # After those of the books.
    assert found(dataset) == [(kind, severity, "a.json", "book9/p.png", identity)]
    boxes = [each.box for each in page_of(dataset, "book9/p.png").objects]
    assert boxes == [(5, 10, 45, 40), *([expected] if expected else [])]


def test_edge_within_a_pixel_is_no_problem(tmp_path):
    save_image(tmp_path / "book9/p.png")
    dataset = with_page(tmp_path, "book9/p.png", annotation(box=(-0.6, 10, 61, 30)))
    assert not dataset.problems
    assert page_of(dataset, "book9/p.png").objects[0].box == (0, 10, WIDTH, 40)


def test_polygons_are_moved_into_the_page(tmp_path):
    save_image(tmp_path / "book9/p.png")
    wide = [5.0, 10.0, 80.0, 10.0, 80.0, 40.0, 5.0, 40.0]
    flat = [5.0, 10.0, 45.0, 10.0, 5.0, 10.0]
    dataset = with_page(
        tmp_path,
        "book9/p.png",
        annotation(box=(5, 10, 75, 30), segmentation=[wide]),
        annotation(segmentation=[flat, [5, 10, 45, 10, 45, 40]]),
    )
    first, second = page_of(dataset, "book9/p.png").objects
    assert first.polygons == ((5, 10, 60, 10, 60, 40, 5, 40),)
    assert second.polygons == ((5, 10, 45, 10, 45, 40),)
    areas = [each["area"] for file in coco_files(dataset).values() for each in file["annotations"]]
    assert {55 * 30, 600} <= set(areas)
    assert found(dataset, "clipped_box", "bad_polygon") == [
        ("bad_polygon", "warning", "a.json", "book9/p.png", "26"),
        ("clipped_box", "warning", "a.json", "book9/p.png", "25"),
    ]
    assert "2 objects have a polygon and 24 only a box" in message_of(dataset, "mixed_polygons")


# Classes ------------------------------------------------------------------------------------------


def test_classes_by_frequency_then_name(tmp_path):
    save_image(tmp_path / "book9/p.png")
    extra = {"book9/p.png": [annotation("beta"), annotation("alpha")]}
    file = write_books(tmp_path, extra=extra, classes=("text", "table", "beta", "alpha"))
    assert dataset_of(file).classes == ("text", "table", "alpha", "beta")


def test_classes_in_the_order_given(tmp_path):
    file = write_books(tmp_path)
    dataset = dataset_of(file, classes=["table", "figure", "text"])
    assert dataset.classes == ("table", "figure", "text")
    assert {each.class_id for image in dataset.images for each in image.objects} == {0, 2}
    assert found(dataset) == [("class_without_examples", "warning", "", "", "")]
    assert "figure" in message_of(dataset, "class_without_examples")


def test_map_merges_renames_and_drops(tmp_path):
    save_image(tmp_path / "book9/p.png")
    extra = {"book9/p.png": [annotation("heading"), annotation("noise")]}
    file = write_books(tmp_path, extra=extra, classes=("text", "table", "heading", "noise"))
    dataset = dataset_of(file, map={"heading": "text", "noise": None, "Tabel": "table"})
    assert dataset.classes == ("text", "table")
    assert len(page_of(dataset, "book9/p.png").objects) == 1
    assert [each[:2] for each in found(dataset)] == [
        ("dropped_class", "note"),
        ("unused_map", "warning"),
    ]
    assert "1 annotations of the class noise" in message_of(dataset, "dropped_class")
    assert "is it table?" in message_of(dataset, "unused_map")


def test_unknown_class_names_the_nearest(tmp_path):
    file = write_books(tmp_path)
    with pytest.raises(UserError) as error:
        dataset_of(file, classes=["Text", "Tables"], map={"text": "Text"})
    for part in ("a.json", "class table", "is it Tables?", "map: {table: null}", "6 annotations"):
        assert part in str(error.value)


def test_map_to_what_is_no_class(tmp_path):
    with pytest.raises(UserError, match=r"map makes Texd of text.*is it Text\?"):
        dataset_of(write_books(tmp_path), classes=["Text"], map={"text": "Texd", "table": None})
    with pytest.raises(UserError, match="classes has a twice"):
        dataset_of(write_books(tmp_path), classes=["a", "a"])


@pytest.mark.parametrize("name", ["background", "Background", "__background__"])
def test_class_named_background(tmp_path, name):
    save_image(tmp_path / "book9/p.png")
    file = write_books(
        tmp_path, extra={"book9/p.png": [annotation(name)]}, classes=("text", "table", name)
    )
    with pytest.raises(UserError, match=rf"A class is named {name}.*map: "):
        dataset_of(file)
    with pytest.raises(UserError, match="named background"):
        dataset_of(file, map={name: "background"})
    with pytest.raises(UserError, match="A class is named"):
        dataset_of(file, classes=["text", "table", name])
    assert dataset_of(file, map={name: None}).classes == ("text", "table")
    assert "paper" in dataset_of(file, map={name: "paper"}).classes


def test_few_examples(tmp_path):
    dataset = dataset_of(write_books(tmp_path), min_examples=5)
    assert found(dataset) == [("few_examples", "warning", "", "", "")]
    assert "the class table has 4 examples" in message_of(dataset, "few_examples")


# Splits -------------------------------------------------------------------------------------------


def given(folder):
    """Annotations of train, val and test, of books of their own."""
    files = {}
    for name in SPLITS:
        (folder / name).mkdir()
        files[name] = [write_books(folder / name, books=2)]
    return files


def test_given_splits(tmp_path):
    files = given(tmp_path)
    dataset = dataset_of(*(file for each in files.values() for file in each), annotations=files)
    assert not dataset.problems
    for image in dataset.images:
        assert image.split == image.file_name.split("/")[0]
    without_test = {"train": files["train"], "val": files["val"]}
    dataset = dataset_of(*files["train"], *files["val"], annotations=without_test)
    assert Counter(image.split for image in dataset.images) == {"train": 6, "val": 6}


def test_document_on_both_sides_of_a_given_split(tmp_path):
    files = given(tmp_path)
    paths = [file for each in files.values() for file in each]
    dataset = dataset_of(*paths, annotations=files, document=r"(book\d)/")
    assert [each[:2] for each in found(dataset)] == [("document_in_two_splits", "warning")] * 2
    assert "book0 has pages on both sides: 3 in train and 3 in val" in dataset.problems[0].message


@pytest.mark.parametrize("other", ["val", "test"])
def test_same_image_on_both_sides_of_a_given_split(tmp_path, other):
    files = given(tmp_path)
    copy = tmp_path / other / "book0/p1.png"
    copy.write_bytes((tmp_path / "train/book0/p1.png").read_bytes())
    paths = [file for each in files.values() for file in each]
    dataset = dataset_of(*paths, annotations=files)
    name = "train/book0/p1.png"
    assert found(dataset) == [("duplicate_image", "error", "a.json", name, "")]
    assert f"and in {other}" in message_of(dataset, "duplicate_image")


def test_class_without_examples_in_training(tmp_path):
    files = given(tmp_path)
    content = json.loads(files["train"][0].read_text())
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 1]
    files["train"][0].write_text(json.dumps(content))
    paths = [file for each in files.values() for file in each]
    with pytest.raises(UserError, match=r"class table has no example in training, but 2 in val"):
        dataset_of(*paths, annotations=files)


def test_divided_class_of_one_book_is_trained_on(tmp_path):
    save_image(tmp_path / "book9/p.png")
    for seed in range(5):
        file = write_books(
            tmp_path,
            extra={"book9/p.png": [annotation("map")]},
            classes=("text", "table", "map"),
        )
        assert page_of(dataset_of(file, seed=seed), "book9/p.png").split == "train"


def test_empty_validation_set(tmp_path):
    file = write_books(tmp_path)
    with pytest.raises(UserError, match="The validation set would be empty: its share"):
        dataset_of(file, split={"train": 1.0})
    with pytest.raises(UserError, match=r"validation set would be empty.*none for val"):
        dataset_of(file, annotations={"train": [file]})
    with pytest.raises(UserError, match=r"training set would be empty.*none for train"):
        dataset_of(file, annotations={"val": [file]})
    files = given(tmp_path)
    content = json.loads(files["val"][0].read_text())
    for image in content["images"]:
        image["file_name"] = "gone.png"
    files["val"][0].write_text(json.dumps(content))
    paths = [file for each in files.values() for file in each]
    with pytest.raises(UserError, match=r"validation set is empty.*6 missing_image.*gone\.png"):
        dataset_of(*paths, annotations=files)


def test_pages_to_judge_by_need_no_others(tmp_path):
    files = given(tmp_path)
    dataset = dataset_of(*files["test"], annotations={"test": files["test"]}, min_examples=99)
    assert Counter(image.split for image in dataset.images) == {"test": 6}
    assert not dataset.problems
    shutil.rmtree(tmp_path / "test" / "book0")
    shutil.rmtree(tmp_path / "test" / "book1")
    with pytest.raises(UserError, match=r"test set is empty.*6 missing_image"):
        dataset_of(*files["test"], annotations={"test": files["test"]})


def test_dataset_is_prepared_from_what_the_settings_name(tmp_path, caplog):
    caplog.set_level("INFO")
    files = {name: list(map(str, paths)) for name, paths in given(tmp_path).items()}
    prepare_dataset({"annotations": files, "min_examples": 1}, tmp_path / "dataset")
    assert "18 pages (train 6, val 6, test 6), 24 objects of 2 classes: text, table" in caplog.text
    assert len(json.loads((tmp_path / "dataset/val.json").read_text())["images"]) == 6
    with pytest.raises(UserError, match=r"dataset\.annotations is empty"):
        prepare_dataset({"annotations": []}, tmp_path / "none")
    with pytest.raises(
        UserError, match=r"dataset\.annotations has dev: there are train, val, test"
    ):
        prepare_dataset({"annotations": {"dev": ["a.json"]}}, tmp_path / "none")


def test_given_splits_that_contradict(tmp_path):
    files = given(tmp_path)
    double = {"train": files["train"], "val": files["train"]}
    with pytest.raises(UserError, match=r"given for train and for val"):
        dataset_of(*files["train"], annotations=double)
    others = {"train": files["train"], "val": files["val"]}
    with pytest.raises(UserError, match=r"is in none of train, val and test"):
        dataset_of(*files["test"], annotations=others)


def test_nothing_at_all():
    with pytest.raises(UserError, match="The training set is empty"):
        make_dataset(Annotations([], []), {})


def test_one_document_cannot_be_divided(tmp_path):
    file = write_books(tmp_path, books=1)
    with pytest.raises(UserError, match=r"belong to 1 document \(book0\).*document: "):
        dataset_of(file)
    dataset = dataset_of(file, document="(.*)")
    assert Counter(image.split for image in dataset.images) == {"train": 1, "val": 1, "test": 1}


def test_documents_by_expression(tmp_path):
    for name in ("a_1", "a_2", "b_1", "c_1", "c_2", "loose"):
        save_image(tmp_path / f"{name}.png")
    names = ("a_1", "a_2", "b_1", "c_1", "c_2", "loose")
    file = write_coco(tmp_path / "a.json", {f"{name}.png": [annotation()] for name in names})
    dataset = dataset_of(file, document=r"^(.)_\d+\.png$")
    assert [image.document for image in dataset.images] == ["a", "a", "b", "c", "c", "loose.png"]
    assert found(dataset) == [("no_document", "warning", "a.json", "loose.png", "")]
    with pytest.raises(UserError, match="is no regular expression"):
        dataset_of(file, document="(")
    with pytest.raises(UserError, match="which has no group"):
        dataset_of(file, document=".*")
    with pytest.raises(UserError, match=r"matches none of 6 file names.*a_1\.png"):
        dataset_of(file, document="(x)y")


# Writing ------------------------------------------------------------------------------------------


def mixed(folder):
    """A dataset with polygons, a page without objects, and problems of several kinds."""
    save_image(folder / "book8/empty.png")
    save_image(folder / "book9/p.png")
    two = [[5, 10, 45, 10, 45, 40], [10, 50, 20, 50, 20, 60, 10, 60]]
    extra = {
        "book8/empty.png": ({"page": 4, "document": "Atlas <I>"}, []),
        "book9/p.png": [annotation(box=(5, 10, 40, 50), segmentation=two), annotation()],
        "book9/gone.png": [],
        "book9/<script>.png": [],
    }
    return dataset_of(write_books(folder, extra=extra))


def test_written_files(tmp_path):
    dataset = mixed(tmp_path)
    write_dataset(dataset, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    contents = [json.loads((tmp_path / f"out/{name}.json").read_text()) for name in SPLITS]
    categories = [{"id": 1, "name": "text"}, {"id": 2, "name": "table"}]
    assert [content["categories"] for content in contents] == [categories] * 3
    images = [image for content in contents for image in content["images"]]
    assert len({image["id"] for image in images}) == len(images) == 20
    rows = [each for content in contents for each in content["annotations"]]
    assert len({each["id"] for each in rows}) == len(rows) == 26
    ids = {image["file_name"]: image for image in images}
    assert ids["book8/empty.png"] == {
        "id": ids["book8/empty.png"]["id"],
        "file_name": "book8/empty.png",
        "width": WIDTH,
        "height": HEIGHT,
        "document": "Atlas <I>",
        "page": 4,
        "sha256": hashlib.sha256((tmp_path / "book8/empty.png").read_bytes()).hexdigest(),
        "grey": True,
    }
    outlined = [each for each in rows if each["segmentation"]]
    assert len(outlined) == 1
    assert outlined[0] | {"id": 0} == {
        "id": 0,
        "image_id": ids["book9/p.png"]["id"],
        "category_id": 1,
        "bbox": [5.0, 10.0, 40.0, 50.0],
        "area": 700.0,
        "iscrowd": 0,
        "segmentation": [
            [5.0, 10.0, 45.0, 10.0, 45.0, 40.0],
            [10.0, 50.0, 20.0, 50.0, 20.0, 60.0, 10.0, 60.0],
        ],
    }
    table = read_table(tmp_path / "out/dataset.parquet")
    assert table.num_rows == 26
    [row] = [row for row in table.to_pylist() if row["polygon"]]
    assert row | {"annotation_id": 0, "image_id": 0, "split": ""} == {
        "split": "",
        "document": "book9",
        "page": None,
        "file_name": "book9/p.png",
        "image_id": 0,
        "annotation_id": 0,
        "class_id": 0,
        "class_name": "text",
        "x_min": 5,
        "y_min": 10,
        "x_max": 45,
        "y_max": 60,
        "polygon": [5, 10, 45, 10, 45, 40],
        "page_width": WIDTH,
        "page_height": HEIGHT,
    }
    assert row["annotation_id"] == outlined[0]["id"]
    problems = read_table(tmp_path / "out/problems.parquet").to_pylist()
    assert [row["kind"] for row in problems] == [each.kind for each in dataset.problems]
    assert {row["annotation"] for row in problems} == {None}


def load_with_detectron2(folder, images):
    """The records and warnings of load_coco_json for each split, in a process without our torch."""
    code = """
import json, logging, sys
from scanmill import torch_setup
from detectron2.data.datasets import load_coco_json
class Keep(logging.Handler):
    def emit(self, record):
        kept.append(record.getMessage())
kept, counts = [], {}
logger = logging.getLogger("detectron2.data.datasets.coco")
logger.addHandler(Keep(logging.WARNING))
for name in ("train", "val", "test"):
    records = load_coco_json(f"{sys.argv[1]}/{name}.json", sys.argv[2], f"pages_{name}")
    objects = [each for record in records for each in record["annotations"]]
    counts[name] = [len(records), len(objects), sorted({each["category_id"] for each in objects})]
print("RESULT", json.dumps([counts, kept]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder, images], capture_output=True, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return json.loads(line.removeprefix("RESULT"))


def check_loaded(dataset, folder):
    """pycocotools and Detectron2 read all that is in the dataset, without a warning."""
    counts, warnings = load_with_detectron2(folder, dataset.image_folder)
    assert warnings == []
    for name in SPLITS:
        images = [image for image in dataset.images if image.split == name]
        objects = [each for image in images for each in image.objects]
        assert counts[name][:2] == [len(images), len(objects)]
        assert counts[name][2] == sorted({each.class_id for each in objects})
        api = COCO(folder / f"{name}.json")
        assert len(api.getImgIds()) == len(images)
        assert len(api.getAnnIds()) == len(objects)
        assert [each["name"] for each in api.loadCats(api.getCatIds())] == list(dataset.classes)


def test_written_coco_loads_elsewhere(tmp_path):
    dataset = mixed(tmp_path)
    write_dataset(dataset, tmp_path / "out")
    check_loaded(dataset, tmp_path / "out")
    apis = [COCO(tmp_path / f"out/{name}.json") for name in SPLITS]
    [mask] = [
        api.annToMask(each) for api in apis for each in api.anns.values() if each["segmentation"]
    ]
    assert mask.sum() == pytest.approx(700, rel=0.1)


def test_bytes_are_the_same_again_and_elsewhere(tmp_path, monkeypatch):
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("pages").mkdir()
        dataset = mixed(Path("pages"))
        write_dataset(dataset, Path("out"))
        written.append({path.name: path.read_bytes() for path in Path("out").iterdir()})
    assert sorted(written[0]) == FILES
    assert written[0] == written[1]
    assert all(str(tmp_path).encode() not in data for data in written[0].values())


def test_names_that_are_no_text_are_stored(tmp_path):
    content = json.loads(write_books(tmp_path).read_text())
    content["categories"][0]["name"] = "te\ud800xt"
    content["images"].append({"id": 99, "file_name": "\udc80\ud800.png", "width": 1, "height": 1})
    content["images"].append({"id": 98, "file_name": "nul\0.png", "width": 1, "height": 1})
    content["images"].append({"id": 97, "file_name": "x" * 5000, "width": 1, "height": 1})
    content["images"].append({"id": 96, "file_name": "/", "width": 1, "height": 1})
    content["images"].append({"id": 95, "file_name": "book0", "width": 1, "height": 1})
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = dataset_of(tmp_path / "a.json")
    assert {each.kind for each in dataset.problems} == {"missing_image"}
    assert len(dataset.problems) == 5
    write_dataset(dataset, tmp_path / "out")
    names = set(read_table(tmp_path / "out/dataset.parquet")["class_name"].to_pylist())
    assert names == {"te\\ud800xt", "table"}


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    dataset = mixed(tmp_path)
    monkeypatch.setattr(
        "scanmill.coco.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        write_dataset(dataset, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# Real data ----------------------------------------------------------------------------------------

ISSUE = r"(DerPionier_\d{8}|Kolonie\d{8})"


@pytest.mark.parametrize(
    ("name", "settings", "pages", "objects", "documents"),
    [
        ("cremma_books/coco.json", {}, 88, 376, 7),
        ("gbn_newspapers/coco.json", {"document": ISSUE}, 34, 2529, 18),
        ("gbn_newspapers/data", {"document": ISSUE}, 34, 2529, 18),
        ("ndl_docl_samples/coco.json", {}, 21, 662, 4),
    ],
)
def test_real_data(name, settings, pages, objects, documents, tmp_path):
    dataset = dataset_of(real(name), **settings)
    assert dataset.problems == ()
    assert len(dataset.images) == pages
    assert sum(len(image.objects) for image in dataset.images) == objects
    assert len({image.document for image in dataset.images}) == documents
    assert len({(image.document, image.split) for image in dataset.images}) == documents
    counts = {split: count_classes(dataset.images, split, len(dataset.classes)) for split in SPLITS}
    assert all(counts["train"])
    assert sum(map(sum, counts.values())) == objects
    shares = Counter(image.split for image in dataset.images)
    if documents > 5:
        assert 0.6 <= shares["train"] / pages <= 0.8
    for split, content in coco_files(dataset).items():
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    check_loaded(dataset, tmp_path)
    assert object_table(dataset).num_rows == objects


def test_real_given_split_by_issue():
    folder = real("gbn_newspapers")
    files = {name: [folder / f"coco_{name}.json"] for name in ("train", "val")}
    paths = [*files["train"], *files["val"]]
    # Its field `document` is a folder of many issues.
    dataset = dataset_of(*paths, annotations=files)
    assert [each.kind for each in dataset.problems] == ["document_in_two_splits"] * 2
    dataset = dataset_of(*paths, annotations=files, document=ISSUE)
    assert problem_table(dataset.problems).num_rows == 0
    assert Counter(image.split for image in dataset.images) == {"train": 27, "val": 7}

"""Synthetic pages: gathered, made, written as COCO that training reads; equal seeds, equal pages."""

import itertools
import json

import cv2
import numpy as np
import pytest
import typeset
from typeset import needs_chromium

from scanmill import synthesis
from scanmill.annotations import PART_PAGES, annotate, read_annotations, synthetic_parts
from scanmill.coco import make_dataset
from scanmill.errors import UserError
from scanmill.materials import MOST_SIDE, gather, load_materials
from scanmill.scanning import Scan
from scanmill.sheets import Page
from scanmill.synthesis import CLASSES, make_page, part_seed, synthesize_pages
from scanmill.typesetting import Typesetter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesis")
    sources = {
        "texts": [str(typeset.write_texts(folder / "texts")), str(folder / "not there")],
        "pictures": [str(typeset.write_pictures(folder / "pictures"))],
        "translations": [],
    }
    gather(sources, folder / "materials")
    return folder


def test_pictures_are_reduced_and_what_is_none_is_left_out(folder):
    names = sorted(path.name for path in (folder / "materials/pictures").iterdir())
    assert len(names) == 6
    assert sum(name.startswith("picture-") for name in names) == 3
    for name in names:
        image = cv2.imread(str(folder / "materials/pictures" / name))
        assert max(image.shape) <= MOST_SIDE
        assert image.shape[1] == round(1.5 * image.shape[0])


@pytest.mark.parametrize(("left", "what"), [("texts", "article"), ("pictures", "picture")])
def test_without_materials_the_error_says_what_is_missing(tmp_path, left, what):
    sources = {"texts": [], "pictures": [], "translations": []}
    if what == "picture":
        texts = typeset.write_texts(tmp_path / "texts", 1)
        (texts / "package0" / "map.png").unlink()
        (texts / "package0" / "icon.png").unlink()
        sources["texts"] = [str(texts)]
    with pytest.raises(UserError, match=f"no {what}.*make synthesis-packages"):
        gather(sources, tmp_path / "materials")
    with pytest.raises(UserError, match="no materials"):
        load_materials(tmp_path / "elsewhere")


@needs_chromium
def test_pages_are_written_as_coco_that_training_reads(folder):
    materials = load_materials(folder / "materials")
    assert set(materials.sentences) == {"Latn"}
    assert len(materials.sentences["Latn"]) > 150
    counts = synthesize_pages(materials, folder / "pages", "train-000", 12, 5)
    path = folder / "pages/train-000.json"
    content = json.loads(path.read_text())
    assert [each["name"] for each in content["categories"]] == list(CLASSES)
    assert len(content["images"]) == 12
    assert len(content["annotations"]) == sum(counts.values()) > 30
    for image in content["images"]:
        pixels = cv2.imread(str(folder / "pages" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (image["height"], image["width"])
    settings = {
        "annotations": [str(path)],
        "split": {"train": 0.7, "val": 0.3, "test": 0},
        "classes": list(CLASSES),
    }
    dataset = make_dataset(read_annotations([str(path)]), settings)
    assert len(dataset.images) == 12
    assert all(each.grey for each in dataset.images)
    kinds = {problem.kind for problem in dataset.problems if problem.severity == "error"}
    assert not kinds


@needs_chromium
def test_equal_seeds_give_equal_pages(folder):
    materials = load_materials(folder / "materials")
    for name in ("a", "b"):
        synthesize_pages(materials, folder / name, "val-000", 3, 9)
    contents = [(folder / name / "val-000.json").read_bytes() for name in ("a", "b")]
    assert contents[0] == contents[1]
    for number in range(1, 4):
        images = [(folder / name / f"val-000/{number:05d}.jpg").read_bytes() for name in ("a", "b")]
        assert images[0] == images[1]


@needs_chromium
def test_a_page_does_not_depend_on_those_before_it_but_for_what_shows_through(folder):
    materials = load_materials(folder / "materials")
    with Typesetter() as typesetter:
        first, clean = make_page(typesetter, materials, (3, 7))
        other, _ = make_page(typesetter, materials, (3, 8))
        again, behind = make_page(typesetter, materials, (3, 7))
    assert (first.pixels == again.pixels).all()
    assert (clean == behind).all()
    assert other.pixels.shape != first.pixels.shape or (other.pixels != first.pixels).any()


@needs_chromium
def test_type_that_cannot_be_seen_is_on_no_page(folder, monkeypatch):
    materials = load_materials(folder / "materials")
    blank = '<p data-region="text" style="color:#fff">white on white</p>'
    pages = itertools.chain([blank, '<p data-region="text">seen</p>'], itertools.repeat(blank))

    def compose(*_):
        return Page("book", "Latn", f"<body style='background:#fff'>{next(pages)}", 300, 200)

    monkeypatch.setattr(synthesis, "compose_page", compose)
    monkeypatch.setattr(synthesis, "SPREADS", 0)
    with Typesetter() as typesetter:
        _, clean = make_page(typesetter, materials, (1,))
        assert clean.min() < 100
        with pytest.raises(UserError, match="none could be set"):
            make_page(typesetter, materials, (1,))


@needs_chromium
def test_type_that_a_scan_loses_is_no_region(folder, monkeypatch):
    """As where black and white cuts at a grey that is darker than the ink."""

    def lose_the_left(page, outlines, *_):
        scanned = page.copy()
        scanned[:, : page.shape[1] // 2] = 255
        return Scan(scanned, outlines)

    html = (
        "<body style='margin:0;background:#fff'>"
        "<p data-region='text' style='position:absolute;left:10px'>lost</p>"
        "<p data-region='title' style='position:absolute;left:200px'>kept</p>"
    )
    monkeypatch.setattr(synthesis, "compose_page", lambda *_: Page("law", "Latn", html, 300, 200))
    monkeypatch.setattr(synthesis, "scan_page", lose_the_left)
    monkeypatch.setattr(synthesis, "OVERTURNED", 0)
    with Typesetter() as typesetter:
        page, _ = make_page(typesetter, load_materials(folder / "materials"), (1,))
    assert [region.class_name for region in page.regions] == ["title"]


@needs_chromium
def test_two_pages_of_an_open_book_lie_side_by_side(folder, monkeypatch):
    materials = load_materials(folder / "materials")
    monkeypatch.setattr(synthesis, "scan_page", lambda page, outlines, *_: Scan(page, outlines))
    monkeypatch.setattr(synthesis, "OVERTURNED", 0)
    monkeypatch.setattr(synthesis, "SPREADS", 1)
    with Typesetter() as typesetter:
        page, _ = make_page(typesetter, materials, (4, 1), kinds=("dictionary",))
    height, width = page.pixels.shape
    assert width > height
    middles = np.array([each.outline.mean(axis=0) for each in page.regions])
    assert (middles[:, 0] < 0.5 * width).any()
    assert (middles[:, 0] > 0.55 * width).any()
    for region in page.regions:
        low, high = np.rint([region.outline.min(axis=0), region.outline.max(axis=0)]).astype(int)
        box = page.pixels[low[1] : high[1], low[0] : high[0]].astype(int)
        assert np.ptp(box) > 60


def test_a_region_is_annotated_in_pixels():
    outline = np.array([[10, 20], [110, 20], [110, 60], [10, 60]], float)
    entry = annotate(7, 3, 2, outline)
    assert (entry["bbox"], entry["area"]) == ([10, 20, 100, 40], 4000)
    assert entry["segmentation"] == [[10, 20, 110, 20, 110, 60, 10, 60]]
    assert (entry["id"], entry["image_id"], entry["category_id"], entry["iscrowd"]) == (7, 3, 2, 0)


def test_parts_have_all_pages_and_seeds_of_their_own():
    parts = synthetic_parts({"train": 2 * PART_PAGES + 1, "val": 30, "test": PART_PAGES, "seed": 4})
    assert parts == {
        "train-000": PART_PAGES,
        "train-001": PART_PAGES,
        "train-002": 1,
        "val-000": 30,
        "test-000": PART_PAGES,
    }
    seeds = {part_seed(part, seed) for part in parts for seed in (0, 1)}
    assert len(seeds) == 2 * len(parts)

"""Synthetic annotated pages: outlines within their boxes and pages, equal for a seed, divided."""

import json

import cv2
import numpy as np
import pytest
from make_annotated_pages import CLASSES, SIDE, SPLITS, cut_vignette, draw_blob, make_pages

from scanmill.errors import UserError


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "pages"
    make_pages(folder, (10, 3, 4))
    return folder


def read(folder):
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in SPLITS}


def area_of(points):
    x, y = points.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_splits_have_their_pages_and_no_document_in_common(pages):
    truth = read(pages)
    assert [len(truth[split]["images"]) for split in SPLITS] == [10, 3, 4]
    documents = [{image["document"] for image in truth[split]["images"]} for split in SPLITS]
    assert [len(each) for each in documents] == [5, 2, 2]
    assert len(set.union(*documents)) == 9
    images = [image for each in truth.values() for image in each["images"]]
    assert len({image["sha256"] for image in images}) == 17
    assert sorted(image["id"] for image in images) == list(range(1, 18))
    assert all(
        [each["name"] for each in content["categories"]] == list(CLASSES)
        for content in truth.values()
    )


def test_images_are_of_the_size_that_is_said(pages):
    for content in read(pages).values():
        for image in content["images"]:
            pixels = cv2.imread(str(pages / "images" / image["file_name"]), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (image["height"], image["width"])
            assert SIDE <= image["width"] <= SIDE + 1


def test_outlines_lie_in_their_boxes_and_on_their_pages(pages):
    loose = []
    for content in read(pages).values():
        images = {image["id"]: image for image in content["images"]}
        for each in content["annotations"]:
            points = np.array(each["segmentation"][0]).reshape(-1, 2)
            x, y, width, height = each["bbox"]
            image = images[each["image_id"]]
            assert points.min(axis=0) == pytest.approx([x, y])
            assert points.max(axis=0) == pytest.approx([x + width, y + height])
            assert (points >= 0).all()
            assert (points <= (image["width"], image["height"])).all()
            assert each["area"] == pytest.approx(area_of(points), abs=0.1)
            assert each["area"] > 10
            loose.append(each["area"] / (width * height))
    # They are not just their boxes, or there was nothing for a mask to learn.
    assert np.median(loose) < 0.95


def test_outlines_are_where_the_ink_is(pages):
    """Of a figure's vignette and of a text's turned rectangle: darker inside than paper around."""
    [content] = [each for split, each in read(pages).items() if split == "train"]
    darker = []
    for image in content["images"]:
        pixels = cv2.imread(str(pages / "images" / image["file_name"]), cv2.IMREAD_GRAYSCALE)
        inside = np.zeros(pixels.shape, np.uint8)
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        for each in objects:
            points = np.rint(np.array(each["segmentation"][0]).reshape(1, -1, 2)).astype(np.int32)
            cv2.fillPoly(inside, points, 1)
        ring = cv2.dilate(inside, np.ones((7, 7), np.uint8)) - cv2.dilate(
            inside, np.ones((3, 3), np.uint8)
        )
        darker.append(pixels[ring == 1].mean() - pixels[inside == 1].mean())
    assert min(darker) > 10


def test_a_seed_makes_the_same_bytes_and_another_other_ones(pages, tmp_path):
    make_pages(tmp_path / "again" / "pages", (10, 3, 4))
    make_pages(tmp_path / "other" / "pages", (2, 1, 1), seed=1)

    def contents(folder):
        return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}

    assert contents(tmp_path / "again" / "pages") == contents(pages)
    assert not set(contents(tmp_path / "other" / "pages").values()) & set(contents(pages).values())
    one, other = (read(each)["train"]["annotations"] for each in (pages, tmp_path / "again/pages"))
    assert one == other


def test_pages_that_are_there_are_not_written_over(pages):
    with pytest.raises(UserError, match="already exists"):
        make_pages(pages, (2, 1, 1))


def test_blobs_fill_the_unit_square():
    for seed in range(20):
        points = draw_blob(np.random.default_rng(seed))
        assert points.min(axis=0) == pytest.approx([0, 0])
        assert points.max(axis=0) == pytest.approx([1, 1])
        assert 0.4 < area_of(points) < 0.95


def test_vignette_leaves_paper_beyond_its_outline():
    pixels = np.full((60, 80), 100, np.uint8)
    outline = 10 + 40 * draw_blob(np.random.default_rng(0))
    cut_vignette(pixels, outline, False)
    assert pixels[30, 30] == 82
    assert pixels[10, 10] == 255
    assert pixels[30, 70] == 100

"""The report on a dataset: self-contained, complete, safe, with pages drawn."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from annotated_pages import annotation, dataset_of, save_image, write_books

from scanmill.annotations import Problem
from scanmill.dataset_report import MAX_PAGES, report, shown_pages
from scanmill.drawing import class_color

HOSTILE = "<script>alert('x')</script> $\\frac{$"


@pytest.fixture
def dataset(tmp_path):
    save_image(tmp_path / "book9/p.png", width=300, height=450)
    regions = [annotation(HOSTILE, box=(50, 100, 200, 200)), annotation("表")]
    size = {"width": 300, "height": 450}
    extra = {"book9/p.png": (size, regions), "book9/gone.png": []}
    file = write_books(tmp_path, extra=extra, classes=("text", "table", HOSTILE, "表"))
    return dataset_of(file)


class Tags(HTMLParser):
    """Names and attributes of all tags, and which are left open."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def parse(page):
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    return tags


def pictures(tags):
    """The decoded pictures by their description, uint8 BGR."""
    found = {}
    for tag, attributes in tags.tags:
        if tag == "img":
            kind, data = attributes["src"].split(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            pixels = np.frombuffer(base64.b64decode(data), np.uint8)
            found[attributes["alt"]] = cv2.imdecode(pixels, cv2.IMREAD_COLOR)
    return found


def test_page_needs_nothing_but_itself(dataset):
    page = report(dataset)
    tags = parse(page)
    names = {tag for tag, _ in tags.tags}
    assert not names & {"script", "link", "iframe", "object", "svg"}
    assert all("href" not in each and "onload" not in each for _, each in tags.tags)
    assert "http" not in re.sub(r'src="data:[^"]*"|http-equiv', "", page)
    assert page == report(dataset)
    # The hostile class: shown as text, and drawn without matplotlib taking it for a formula.
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_counts_per_class_and_split(dataset):
    text = " ".join(parse(report(dataset)).text.split())
    # Of 7 books, book9 alone has two of the classes, so that it is trained on.
    assert "class_id class train val test all 0 text" in text
    splits = [image.split for image in dataset.images]
    counts = [splits.count(name) for name in ("train", "val", "test")]
    assert f"0 text {' '.join(str(3 * (n // 3)) for n in counts)} 18" in text
    assert "2 <script>" in text
    assert re.search(r"all 7 19 0 26", text)


def test_problems_by_kind_with_examples(dataset):
    many = [
        Problem("clipped_box", "warning", "a.json", f"p{n}.png", str(n), "<b>") for n in range(9)
    ]
    tags = parse(report(dataset._replace(problems=(*dataset.problems, *many))))
    text = " ".join(tags.text.split())
    assert "error: missing_image, 1" in text
    assert "book9/gone.png" in text
    assert "warning: clipped_box, 9" in text
    assert "p4.png" in text
    assert "p5.png" not in text
    assert "And 4 more, in problems.parquet." in text
    assert text.index("missing_image, 1") < text.index("clipped_box, 9")
    assert "None was found" in report(dataset._replace(problems=()))


def test_pages_are_drawn_in_the_colours_of_their_classes(dataset):
    drawn = pictures(parse(report(dataset)))
    assert len(drawn) == 3 + MAX_PAGES
    [name] = [name for name in drawn if "book9/p.png" in name]
    assert name == "train: book9/p.png, 2 objects"
    picture = drawn[name]
    assert picture.shape == (450, 300, 3)
    color = np.array(class_color(HOSTILE))
    distance = np.abs(picture[:, 55:250].astype(int) - color).sum(axis=2)
    assert (distance[88:99] < 60).mean() > 0.1  # The label above the box, full of letters.
    assert (distance[150:250] < 60).mean() < 0.02
    assert np.abs(picture[10:40, 260:290].astype(int).mean() - 127) < 15


def test_figures_have_the_colours_of_classes(dataset):
    images = tuple(
        image._replace(
            objects=tuple(each._replace(box=(0, 0, 10, 5 + 4 * place)) for each in image.objects)
        )
        for place, image in enumerate(dataset.images)
    )
    drawn = pictures(parse(report(dataset._replace(images=images))))
    for label in ("height in pixels", "height / width"):
        figure = drawn[f"Distribution by class: {label}"].reshape(-1, 3)
        for name in ("text", "table"):
            assert (figure == class_color(name)).all(axis=1).any()


def test_shown_pages_show_every_class(dataset):
    pages = shown_pages(dataset)
    assert len(pages) == MAX_PAGES
    assert {each.class_id for image in pages for each in image.objects} == {0, 1, 2, 3}
    few = dataset._replace(images=dataset.images[:3])
    assert len(shown_pages(few)) == 3


def test_dataset_without_objects(dataset):
    images = tuple(image._replace(objects=()) for image in dataset.images)
    page = report(dataset._replace(images=images))
    assert page.count("There are no objects.") == 2

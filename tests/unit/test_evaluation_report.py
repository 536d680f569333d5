"""An evaluation's files."""

import base64
import json
import re
import struct
from html.parser import HTMLParser

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from evaluated import CLASSES, make_detections, make_truth, metric, perturb, random_truth
from PIL import Image

from scanmill.detection_errors import ERRORS
from scanmill.errors import UserError
from scanmill.evaluation import evaluate
from scanmill.evaluation_report import METRICS, draw_worst_pages, write_evaluation
from scanmill.tables import read_table

BOX = (100, 100, 300, 300)
FILES = [
    "confusion.png",
    "evaluation.json",
    "evaluation.parquet",
    "matches.parquet",
    "precision_recall.png",
    "report.html",
]


def make_images(truth, folder):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for image in truth["images"]:
        small = rng.integers(180, 256, (image["height"] // 50, image["width"] // 50), np.uint8)
        page = cv2.resize(small, (image["width"], image["height"]))
        cv2.imwrite(str(folder / image["file_name"]), page)
    return folder


def write(truth, detections, folder, name="evaluation", **options):
    images = make_images(truth, folder / "images")
    evaluation = evaluate(truth, detections, 800, 1333, **options)
    write_evaluation(evaluation, truth, detections, images, folder / name)
    return evaluation


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Twenty-four pages: truth, detections, evaluation, folder."""
    folder = tmp_path_factory.mktemp("written")
    truth = random_truth(pages=24, objects=8, masks=True, crowds=0.05)
    detections = perturb(truth, masks=True)
    evaluation = write(truth, detections, folder, samples=20)
    return truth, detections, evaluation, folder / "evaluation"


def test_files_are_those_promised_and_no_others(written):
    assert sorted(path.name for path in written[3].iterdir()) == FILES


def test_json_holds_all_numbers(written):
    *_, evaluation, folder = written
    text = (folder / "evaluation.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, sort_keys=True, indent=1) + "\n"
    each = metric(evaluation, "box_AP")
    entry = {"value": each.value, "low": each.low, "high": each.high}
    assert found["overall"]["box_AP"] == entry
    assert found["by_class"]["title"]["mask_AP50"]["value"] == pytest.approx(
        metric(evaluation, "mask_AP50", "title").value
    )
    assert found["min_score"] == evaluation.min_score
    assert found["confusion"] == evaluation.confusion
    assert found["overall"]["gain_missed"] == {"value": evaluation.gains["missed"]}
    count = sum(each.count for each in evaluation.errors if each.kind == "class")
    assert found["overall"]["errors_class"] == {"value": count}
    assert [page["image_id"] for page in found["pages"]] == [p.image_id for p in evaluation.pages]
    assert len(found["curves"]["text"]["0.75"]["precision"]) == 101


def test_tables_hold_the_same_numbers(written):
    *_, evaluation, folder = written
    table = read_table(folder / "evaluation.parquet")
    assert table.schema.remove_metadata() == METRICS
    rows = {(row["class_name"], row["metric"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    for each in evaluation.metrics:
        assert rows[each.class_name, each.metric] == each._asdict()
    for kind in ERRORS:
        total = rows[None, f"errors_{kind}_selected"]["value"]
        assert total == sum(rows[name, f"errors_{kind}_selected"]["value"] for name in CLASSES)
    assert read_table(folder / "matches.parquet").equals(evaluation.matches)


def test_equal_evaluations_are_equal_bytes(tmp_path):
    truth = random_truth(pages=4, objects=6)
    detections = perturb(truth)
    for name in ("first", "second"):
        write(truth, detections, tmp_path, name, samples=5)
    for file in FILES:
        first, second = ((tmp_path / name / file).read_bytes() for name in ("first", "second"))
        assert first == second, file
        assert str(tmp_path).encode() not in first, file
    again = pq.read_table(tmp_path / "first/matches.parquet")
    assert again.num_rows


class Page(HTMLParser):
    """Sources of images, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_needs_no_other_file(written):
    *_, evaluation, folder = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.links
    assert "@import" not in text
    assert "url(" not in text
    pictures = [source.split(",", 1) for source in page.sources]
    kinds = [kind for kind, _ in pictures]
    assert kinds == ["data:image/png;base64"] * 2 + ["data:image/jpeg;base64"] * 20
    curves = base64.b64decode(pictures[0][1])
    assert curves == (folder / "precision_recall.png").read_bytes()
    captions = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert captions == [page.image for page in evaluation.pages[:20]]


def test_report_shows_thresholds_that_the_config_takes(written):
    *_, evaluation, folder = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    settings = yaml.safe_load(re.search("<pre>(.*?)</pre>", text, re.DOTALL).group(1))
    assert settings == {"regions": {"min_score": evaluation.min_score}}
    assert f"{100 * metric(evaluation, 'box_AP').value:.1f}" in text


def test_names_are_text_and_not_markup(tmp_path):
    classes = ("<b>&", "$\\x$", "Überschrift")
    truth = make_truth((1, "<b>&", BOX), (1, "$\\x$", BOX), classes=classes)
    detections = make_detections((1, "$\\x$", 0.9, (0, 0, 50, 50)), classes=classes)
    write(truth, detections, tmp_path)
    text = (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")
    Page(text)
    assert "&lt;b&gt;&amp;" in text
    assert "<b>&" not in text


@pytest.mark.parametrize("detected", [False, True])
@pytest.mark.parametrize("annotated", [False, True])
def test_nothing_detected_nothing_annotated(tmp_path, detected, annotated):
    truth = make_truth(*[(1, "text", BOX)] * annotated, pages=2)
    write(truth, make_detections(*[(1, "text", 0.9, BOX)] * detected), tmp_path)
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == FILES
    text = (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")
    assert ("No page has an error" in text) == (detected == annotated)


# Drawn pages --------------------------------------------------------------------------------------


def drawn(truth, detections, folder):
    evaluation = evaluate(truth, detections, 800, 1333, samples=0)
    pages = draw_worst_pages(evaluation, truth, detections, folder)
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for _, jpeg in pages]


def test_truth_is_left_and_prediction_right(tmp_path):
    truth = make_truth((1, "text", BOX), (1, "text", (600, 600, 900, 900)))
    make_images(truth, tmp_path)
    cv2.imwrite(str(tmp_path / "1.png"), np.full((1000, 1000), 255, np.uint8))
    found = make_detections((1, "text", 0.9, BOX), (1, "text", 0.3, (600, 100, 900, 300)))
    [picture] = drawn(truth, found, tmp_path)
    assert picture.shape == (1000, 2012, 3)
    is_marked = (picture < 200).any(axis=2)
    left, right = is_marked[:, :1000], is_marked[:, 1012:]
    assert left[595:605, 650:850].any()
    assert not right[500:].any()
    for side in (left, right):
        assert side[150:250, 97:103].any()
    # Below the threshold: not drawn.
    assert not right[:, 550:].any()


def test_pages_are_turned_as_their_exif_says(tmp_path):
    truth = make_truth((1, "text", BOX), size=(600, 900))
    truth["images"][0]["file_name"] = "1.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right makes it upright
    Image.new("L", (900, 600), 255).save(tmp_path / "1.jpg", exif=exif)
    [picture] = drawn(truth, make_detections(), tmp_path)
    assert picture.shape == (900, 1212, 3)


def test_large_pages_are_drawn_small(tmp_path):
    truth = make_truth((1, "text", (1000, 1000, 3000, 3000)), size=(4001, 5003))
    make_images(truth, tmp_path)
    [picture] = drawn(truth, make_detections(), tmp_path)
    assert picture.shape[0] == 1200
    assert (picture[240:244, 300:600] < 150).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "1.png cannot be read .*No such file"), (b"no image", "1.png is no image")],
)
def test_pages_that_cannot_be_drawn_name_their_file(tmp_path, content, message):
    truth = make_truth((1, "text", BOX))
    if content:
        (tmp_path / "1.png").write_bytes(content)
    evaluation = evaluate(truth, make_detections(), 800, 1333)
    with pytest.raises(UserError, match=message):
        write_evaluation(evaluation, truth, make_detections(), tmp_path, tmp_path / "results")
    # The numbers are there all the same.
    assert (tmp_path / "results/evaluation.json").exists()
    assert not list((tmp_path / "results").glob(".tmp*"))


def test_an_image_of_another_size_is_not_drawn_on(tmp_path):
    truth = make_truth((1, "text", BOX))
    cv2.imwrite(str(tmp_path / "1.png"), np.full((500, 1000), 255, np.uint8))
    with pytest.raises(UserError, match="about 1000 x 500 pixels, in the annotations 1000 x 1000"):
        drawn(truth, make_detections(), tmp_path)


def test_plots_are_pngs_without_dates(written):
    for name in ("confusion.png", "precision_recall.png"):
        data = (written[3] / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", data[16:24])[0] > 300
        assert b"tEXt" not in data

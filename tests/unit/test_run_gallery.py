"""The page to look at: it needs nothing else, and hostile names only show."""

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from finished_run import SCRIPTS
from sampled_run import HEIGHT, WIDTH, Page, write_run

from scanmill import store
from scanmill.run_differences import compare_runs, open_run
from scanmill.run_gallery import describe, write_gallery

TEXT = ("text", 0.9, (10, 10, 90, 60), None)
FIGURE = ("figure", 0.8, (10, 80, 90, 140), None)
HOSTILE = "<script>alert(1)</script>\"'&\u202egpj.exe\u05d0.pdf"


def compared(tmp_path, a, b):
    runs = [write_run(tmp_path / name, pages, shards=1) for name, pages in (("A", a), ("B", b))]
    (tmp_path / "out").mkdir()
    return compare_runs(*map(open_run, runs), tmp_path / "out", 10)


class Tags(HTMLParser):
    """Names and attributes of all elements, and their texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def pictures(text):
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(each), np.uint8), -1) for each in data]


def test_hostile_names_only_show(tmp_path):
    comparison = compared(tmp_path, {HOSTILE: [Page((TEXT, FIGURE))]}, {HOSTILE: [Page((TEXT,))]})
    text = write_gallery(comparison, tmp_path / "out").read_text()
    page = Tags(text)
    assert not page.open
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "bdi"),
        *("table", "tr", "td", "th", "figure", "figcaption", "img"),
    }
    assert HOSTILE in page.texts
    # Its mark turns nothing around it.
    assert all(
        re.search(r"<bdi>[^<]*$", text[: mark.start()]) for mark in re.finditer("\u202e", text)
    )
    # Nothing is fetched.
    links = {
        value for _, each in page.tags for key, value in each.items() if key in ("src", "href")
    }
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    [policy] = [each["content"] for tag, each in page.tags if "http-equiv" in each]
    assert policy.startswith("default-src 'none'")


def test_what_is_lost_is_drawn_in_a_alone(tmp_path):
    comparison = compared(tmp_path, {"d.pdf": [Page((TEXT, FIGURE))]}, {"d.pdf": [Page((TEXT,))]})
    text = write_gallery(comparison, tmp_path / "out").read_text()
    assert "1 kept, 0 moved, 0 renamed, 1 lost, 0 new" in text
    [picture] = pictures(text)
    assert picture.shape[1] > 2 * WIDTH
    left, right = picture[:, :WIDTH].astype(int), picture[:, -WIDTH:].astype(int)
    # Pages of the test are grey: what has a colour was drawn.
    colour = [np.ptp(side, axis=2) > 60 for side in (left, right)]
    assert colour[0][78:142, 8:92].sum() > 4 * colour[1][78:142, 8:92].sum()


def test_page_images_that_were_dropped(tmp_path):
    comparison = compared(tmp_path, {"d.pdf": [Page((TEXT, FIGURE))]}, {"d.pdf": [Page((TEXT,))]})
    store.drop_images(comparison.a.results, "d.pdf")
    text = write_gallery(comparison, tmp_path / "out").read_text()  # B's is there.
    assert "in neither run" not in text
    [before] = pictures(text)
    store.drop_images(comparison.b.results, "d.pdf")
    text = write_gallery(comparison, tmp_path / "out").read_text()
    assert "Its image is in neither run any more" in text
    [after] = pictures(text)
    assert after.shape == before.shape
    assert np.median(after) == 255
    assert after.shape[:2] == (HEIGHT, 2 * WIDTH + 12)


def test_the_text_names_what_could_not_be_compared(tmp_path):
    comparison = compared(
        tmp_path,
        {"a.pdf": [Page(), Page(ok=False)], "b.pdf": [Page()], "c.pdf": [Page()]},
        {"a.pdf": [Page(), Page()], "c.pdf": [Page()]},
    )
    said = describe(comparison)
    assert "Compared: 2 pages of 2 documents." in said
    assert "In A alone, and not in B: 1 document." in said
    assert "1 timeout in A and ok in B" in said
    assert re.search(r"^text +2 +2 +2 +0 +0 +0 +0 +0$", said, re.MULTILINE)
    assert re.search(r"^all +2 +2 +2 +0 +0 +0 +0 +0$", said, re.MULTILINE)


@pytest.fixture
def tool():
    def call(*arguments):
        command = [sys.executable, SCRIPTS / "compare_runs.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


def test_the_tool(tool, tmp_path):
    a = write_run(tmp_path / "A", {"d.pdf": [Page((TEXT, FIGURE))]})
    b = write_run(tmp_path / "B", {"d.pdf": [Page((TEXT,))]})
    done = tool(a, b)
    assert done.returncode == 0
    assert f"To look at: {b / 'comparison/gallery.html'}" in done.stdout
    assert {path.name for path in (b / "comparison").iterdir()} == {
        *(
            "gallery.html",
            "regions.parquet",
            "pages.parquet",
            "documents.parquet",
            "classes.parquet",
        )
    }
    nothing = tool(a, tmp_path)
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: There are no regions in")

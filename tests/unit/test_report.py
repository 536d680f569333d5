"""The report: what it tells, and that it works in a browser from disk."""

import contextlib
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import pytest
from playwright.sync_api import expect, sync_playwright
from reported import (
    page_row,
    region_row,
    report_on,
    shard_files,
    write_empty_run,
    write_image,
    write_run,
)

from scanmill import report
from scanmill.report import shown_text
from scanmill.typesetting import BROWSERS

needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason="Chromium is not installed (make test-packages)"
)
HOSTILE = (
    "<script>document.title='hacked'</script>.pdf",
    "</script><img src=x onerror=document.title='hacked'>\"'`{{7*7}}${x}.pdf",
    "invoice\u202efdp.exe\u2066",
    "\u05e9\u05dc\u05d5\u05dd/\u0645\u0631\u062d\u0628\u0627.pdf",
    "bad\ufffe\x0b\x1b name.pdf",
)


def write_example(directory, names=("a.pdf", "b/c d.pdf")):
    """A run of a few pages: ordinary, flagged, failed ones; with images."""
    pages, regions = [], []
    for name in names:
        for number in range(1, 7):
            flags = {2: ["no_regions"], 5: ["low_scores", "small_type"]}.get(number, [])
            pages.append(
                page_row(name, number, flags=flags, **write_image(directory, name, number))
            )
            if number != 2:
                regions.append(region_row(name, number, 1, score=0.5 + number / 15))
                regions.append(region_row(name, number, 2, "table", 0.95, (30, 200, 200, 330)))
    failure = {"stage": "images", "reason": "corrupt", "message": f"cannot open {names[0]}"}
    lost = {"document": "lost.pdf", "page": None}
    pages.append({**lost, "status": "failed", **failure})
    write_run(directory, pages, regions, [{**lost, **failure}])
    for rule, computed in (("render_pages", 12), ("detect_layout", 12)):
        for folder, suffix in (("benchmarks", "tsv"), ("logs", "log")):
            (directory / folder / rule).mkdir(parents=True, exist_ok=True)
            path = directory / folder / rule / f"00000.{suffix}"
            text = "s\tmax_rss\n4.0\t512.3\n"
            path.write_text(
                text if suffix == "tsv" else f"x; computed {computed} pages; done in 1\n"
            )
    return report_on(directory)


class Page(HTMLParser):
    """The elements of a page, its text without scripts, and the data within."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.texts, self.inside = Counter(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())
        source = path.read_text(encoding="utf-8")
        found = re.search(
            r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL
        )
        self.data = json.loads(found[1])

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.inside.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.texts.append(data)


def test_it_tells_what_was_done_and_what_failed(tmp_path):
    page = Page(write_example(tmp_path))
    for words in (
        "Documents 3",
        "Regions 20",
        "Pages to look at 4 33 %",
        "Documents that failed 1",
        "render_pages 1 12 4 s 3.00 512 MB",
        "text 10 10 0.77 21 %",
        "images corrupt 1 lost.pdf : cannot open a.pdf",
        "--reason corrupt",
        "scanmill-layout",
        "/data/scans",
        "no_regions 2 No region was found.",
    ):
        assert words in page.text, words
    assert {each["page"] for each in page.data["pages"]} == {1, 2, 3, 4, 5, 6}
    assert page.data["documents"]["flagged"] == [2, 2, 0]
    # Nothing is loaded: links lead to sections, and to one site where somebody clicks.
    assert all(link.startswith("#") or link == "https://duckdb.org" for link in page.links)


def test_names_of_all_kinds_are_shown_and_do_nothing(tmp_path):
    path = write_example(tmp_path, HOSTILE)
    source, page = path.read_text(encoding="utf-8"), Page(path)
    assert page.tags["script"] == 2
    assert page.tags["img"] == 0
    shown = {each["document"] for each in page.data["pages"]}
    assert shown == set(map(shown_text, HOSTILE))
    assert shown_text(HOSTILE[2]) == "invoice<U+202E>fdp.exe<U+2066>"
    # Of right-to-left names the letters stay.
    assert shown_text(HOSTILE[3]) == HOSTILE[3]
    assert shown_text(HOSTILE[4]) == "bad<U+FFFE><U+000B><U+001B> name.pdf"
    assert not re.search("[\x00-\x08\x0b-\x1f\ufffe\u202a-\u202e\u2066-\u2069]", source)


def test_a_run_without_pages_has_a_report(tmp_path):
    (tmp_path / "results").mkdir()
    write_empty_run(tmp_path)
    page = Page(report_on(tmp_path, shards=[]))
    assert "Documents 0" in page.text
    assert "The archive has no documents" in page.text
    assert page.data["pages"] == []
    failed = {"document": "x", "page": None, "status": "failed"}
    failure = {**failed, "stage": "images", "reason": "empty", "message": "no page"}
    del failure["status"]
    write_run(tmp_path, [failed], failures=[failure])
    assert "No page came out" in Page(report_on(tmp_path)).text


def test_a_document_of_5000_pages_is_one_line_and_some_pictures(tmp_path):
    pages = [page_row("big.pdf", number, flags=["small_type"]) for number in range(1, 5001)]
    write_run(tmp_path, pages, [region_row("big.pdf", number, 1) for number in range(1, 5001)])
    path = report_on(tmp_path)
    page = Page(path)
    assert page.data["documents"]["pages"] == [5000]
    assert "small_type 5 000" in page.text.replace("\u202f", " ")
    assert 100 < len(page.data["pages"]) < 400
    assert path.stat().st_size < 1_500_000


def test_histograms_are_not_pressed_flat_by_one_page():
    counted = Counter(dict.fromkeys(range(12), 100)) + Counter({1000: 1})
    chart = report._per_page(counted)
    assert len(chart.bars) == 12
    assert chart.bars[-1].label == "11 or more"
    assert chart.bars[-1].count == 101
    assert chart.total == 1201
    assert report._per_page(Counter({5: 3})).bars[0].label == "5"
    wide = report._per_page(Counter(range(400)))
    assert wide.bars[0].label == "0 to 9"
    assert sum(bar.count for bar in wide.bars) == 400


def test_a_report_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = write_example(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(report, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_on(tmp_path)
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.glob(".tmp*")) == []
    assert shard_files(tmp_path).pages.exists()


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, width=1600, **options):
    """The report in a new window; in the end it must have asked for nothing, complained of nothing."""
    context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def cards(page):
    return page.locator(".card .name").all_inner_texts()


@needs_chromium
@pytest.mark.parametrize("width", [1600, 700, 400])
def test_it_fits_into_windows_and_shows_its_pictures(browser, tmp_path, width):
    path = write_example(tmp_path, ("a.pdf", "a-name-without-any-place-to-break-" * 6 + ".pdf"))
    with opened(browser, path, width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("select[name=flag]").select_option("")
        expect(page.locator(".card")).to_have_count(12)
        page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
        assert widths == [300] * 12
        # Boxes lie on the picture in its proportions: the page's image is 3 to 4.
        sides = page.locator(".sheet").first.bounding_box()
        assert sides["width"] / sides["height"] == pytest.approx(0.75, abs=0.01)


@needs_chromium
def test_filters_choose_pages(browser, tmp_path):
    with opened(browser, write_example(tmp_path)) as page:
        select = page.locator("select[name=flag]")
        # First come the pages to look at.
        assert select.input_value() == "any"
        assert len(cards(page)) == 4
        status = page.locator("#shown")

        def wait(text):
            expect(status).to_have_text(re.compile(f"^{text}"))

        page.locator("button[data-flag=small_type]").click()
        assert status.inner_text() == "2 of 2 pages shown"
        select.select_option("")
        wait("12 of 12")
        page.locator("select[name=class]").select_option(label="table")
        wait("10 of 10")
        assert page.locator(".card rect").count() == 10
        page.locator("select[name=class]").select_option(label="text")
        page.locator("input[name=high]").fill("0.65")
        wait("2 of 2")
        page.locator("input[name=document]").fill("C D")
        wait("1 of 1")
        assert cards(page) == ["b/c d.pdf"]
        page.locator("input[name=document]").fill("nowhere")
        wait("No pictured page")
        page.locator("button[type=reset]").click()
        wait("4 of 4")


@needs_chromium
def test_a_page_can_be_looked_at_with_the_keyboard(browser, tmp_path):
    with opened(browser, write_example(tmp_path)) as page:
        page.locator("select[name=flag]").select_option("")
        page.locator("select[name=class]").select_option(label="table")
        expect(page.locator(".card")).to_have_count(10)
        page.locator(".card button").first.focus()
        page.keyboard.press("Enter")
        title = page.locator("#page-title")
        first = title.inner_text()
        assert page.locator("dialog rect").count() == 1
        assert "draw_regions.py" in page.locator("dialog .facts").inner_text()
        page.keyboard.press("ArrowRight")
        assert title.inner_text() != first
        page.keyboard.press("ArrowLeft")
        assert title.inner_text() == first
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible()


@needs_chromium
def test_hostile_names_are_shown_in_every_place(browser, tmp_path):
    with opened(browser, write_example(tmp_path, HOSTILE)) as page:
        page.locator("select[name=flag]").select_option("")
        expect(page.locator(".card")).to_have_count(24)
        page.locator("#more").click()
        page.locator(".card button").first.click()
        assert page.title() == "Scanmill report"
        assert set(cards(page)) == set(map(shown_text, HOSTILE))
        listed = page.locator("[data-table=documents] tbody td:first-child").all_inner_texts()
        assert set(listed) == {*map(shown_text, HOSTILE), "lost.pdf"}
        assert page.locator("script").count() == 2


@needs_chromium
def test_lists_of_10_000_documents_are_searched_and_sorted(browser, tmp_path):
    pages = [page_row(f"volume {number}", 1 + number % 3) for number in range(10_000)]
    pages[4321] |= {"flags": ["capped"]}
    write_run(tmp_path, pages)
    with opened(browser, report_on(tmp_path)) as page:
        took = page.evaluate("performance.now()")
        rows = page.locator("[data-table=documents] tbody tr")
        assert rows.count() == 50
        page.get_by_role("button", name="Flagged pages").click()
        assert rows.first.inner_text().split("\t")[0] == "volume 4321"
        page.get_by_role("button", name="Document", exact=True).click()
        assert rows.nth(2).inner_text().split("\t")[0] == "volume 2"
        page.locator("[data-table=documents] input").fill("volume 99")
        status = page.locator("[data-table=documents] .status")
        assert status.inner_text() == "50 of 111 rows shown"
        took = page.evaluate("performance.now()") - took
        assert took < 10_000  # Milliseconds, of a machine that is busy.


@needs_chromium
def test_dark_windows_and_paper_have_their_own_colours(browser, tmp_path):
    path = write_example(tmp_path)
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, path, color_scheme="dark") as page:
        assert page.evaluate(background) == "rgb(21, 24, 27)"
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        assert not page.locator("#filters").is_visible()
        assert page.pdf()[:5] == b"%PDF-"
    with opened(browser, path, color_scheme="light") as page:
        assert page.evaluate(background) == "rgb(255, 255, 255)"


@needs_chromium
def test_a_report_without_pages_opens(browser, tmp_path):
    (tmp_path / "results").mkdir()
    write_empty_run(tmp_path)
    with opened(browser, report_on(tmp_path, shards=[])) as page:
        assert page.locator(".card").count() == 0

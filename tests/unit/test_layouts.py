"""Pages of every kind are set with their regions inside, apart from one another, in every style."""

import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
import typeset
from typeset import needs_chromium

from scanmill.layouts import KINDS, compose_page
from scanmill.manuscripts import Block
from scanmill.page_parts import draw_logo
from scanmill.paneled_pages import divide
from scanmill.sheets import Materials, Sheet
from scanmill.synthesis import CLASSES
from scanmill.typefaces import Typefaces
from scanmill.typesetting import Typesetter
from scanmill.typography import Composer, _heading_css, new_style, style_sheet

FACES = {"Latn": Typefaces(("DejaVu Sans", "DejaVu Serif"), (), ())}


@pytest.fixture(scope="module")
def typesetter():
    with Typesetter() as typesetter:
        yield typesetter


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    folder = typeset.write_pictures(tmp_path_factory.mktemp("materials") / "pictures")
    pictures = [str(path) for path in sorted(folder.glob("?.png"))]
    return Materials({}, {"Latn": typeset.PROSE}, {"Latn": ["Of the harbour"]}, pictures, FACES)


def composer(seed=0, **changes):
    rng = np.random.default_rng(seed)
    style = new_style("Latn", FACES["Latn"], rng, 1, 14)._replace(**changes)
    sheet = Sheet(Materials({}, {"Latn": typeset.PROSE}, {}, (), FACES), "Latn", "A4", 1, 14, rng)
    return Composer(style, sheet.author, (), rng)


def boxes(regions):
    return np.array([[*each.outline.min(axis=0), *each.outline.max(axis=0)] for each in regions])


@needs_chromium
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_regions_of_every_kind_of_page_are_on_it_and_apart(typesetter, materials, kind):
    counts = Counter()
    for seed in range(6):
        page = compose_page(materials, np.random.default_rng([seed, 1]), [kind])
        done = typesetter.set_page(page.html, page.width, page.height)
        assert (page.kind, page.script) == (kind, "Latn")
        assert done is not None
        pixels, regions = done
        assert pixels.shape == (page.height, page.width, 3)
        counts.update(each.class_name for each in regions)
        if not regions:
            continue
        found = boxes(regions)
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= (page.width, page.height)).all()
        sides = found[:, 2:] - found[:, :2]
        areas = sides.prod(axis=1)
        for i in range(len(found)):
            low = np.maximum(found[i, :2], found[i + 1 :, :2])
            high = np.minimum(found[i, 2:], found[i + 1 :, 2:])
            shared = (high - low).clip(0).prod(axis=1)
            # Lines set tight reach into one another; no region lies within another.
            assert (shared < 0.5 * np.minimum(areas[i], areas[i + 1 :])).all()
    assert set(counts) <= set(CLASSES)
    assert bool(counts) == (kind != "nothing")


@needs_chromium
def test_regions_are_where_there_is_ink(typesetter, materials):
    empty = total = 0
    for seed in range(12):
        page = compose_page(
            materials, np.random.default_rng([seed, 2]), ["article", "report", "form"]
        )
        pixels, regions = typesetter.set_page(page.html, page.width, page.height)
        grey = pixels.min(axis=2)
        for x, y, x_max, y_max in np.rint(boxes(regions)).astype(int):
            total += 1
            empty += np.ptp(grey[y:y_max, x:x_max].astype(int)) < 60
    assert total > 60
    assert empty / total < 0.02


@needs_chromium
def test_all_classes_come_about_as_often_as_in_publaynet(typesetter, materials):
    """Of PubLayNet's 3.3 million regions, 72 % are text, 19 % titles, 2.5 % lists, 3 % tables and
    3.5 % figures."""
    counts = Counter()
    for seed in range(60):
        page = compose_page(materials, np.random.default_rng([seed, 3]))
        done = typesetter.set_page(page.html, page.width, page.height)
        counts.update(each.class_name for each in done[1])
    total = sum(counts.values())
    assert 5 < total / 60 < 20
    for name, low, high in (
        ("text", 0.55, 0.85),
        ("title", 0.08, 0.3),
        ("list", 0.015, 0.1),
        ("table", 0.01, 0.09),
        ("figure", 0.01, 0.1),
    ):
        assert low < counts[name] / total < high


def test_clauses_of_acts_are_texts_each_by_itself(materials):
    """Whether their numbers begin their first line or hang out beside it."""
    flush = hanging = deeper = 0
    for seed in range(40):
        html = compose_page(materials, np.random.default_rng([seed, 4]), ["law"]).html
        assert 'data-region="list"' not in html
        assert html.count('data-region="title"') > 4
        begun = re.findall(r'<p[^>]*data-region="text"[^>]*>\d+[.)] ', html)
        beside = re.findall(r'data-region="text"[^>]*><div class="item">', html)
        assert html.count('class="item"') == len(beside)
        flush, hanging = flush + (len(begun) > 3), hanging + (len(beside) > 3)
        insets = {float(each) for each in re.findall(r"margin-inline-start:([\d.]+)em", html)}
        deeper += len(insets) > 1
        assert len(insets) < 3
        assert len(insets) < 2 or max(insets) == 2 * min(insets)
    assert flush > hanging > 5
    assert deeper > 5


def test_lines_of_an_imprint_are_texts_where_labels_open_them(materials):
    labelled = roles = 0
    for seed in range(20):
        html = compose_page(materials, np.random.default_rng([seed, 9]), ["imprint"]).html
        texts = re.findall(r'<p[^>]*data-region="text"[^>]*>(.*?)</p>', html)
        assert texts
        lines = [text for text in texts if re.match(r"<(b|i|span)>[^<]*:</", text)]
        assert not any("<br>" in text for text in lines)
        labelled += len(lines)
        roles += sum(bool(re.match(r"<(b|i|span)>[^<:]*</\1><br>", text)) for text in texts)
    assert labelled > roles > 5


def test_chapters_in_contents_may_stand_without_their_page(materials):
    """Then in bold; what is in them always says its page."""
    without = 0
    for seed in range(30):
        html = compose_page(materials, np.random.default_rng([seed, 3]), ["contents"]).html
        entries = re.findall(r'<div style="display:flex;align-items:end;([^"]*)">(.*?)</div>', html)
        bare = [css for css, line in entries if not re.search(r"<span>\d+</span>$", line)]
        assert all("bold" in css for css in bare)
        without += bool(bare)
    assert 0 < without < 15


def test_contents_by_author_are_one_table_or_a_table_for_each_part(materials):
    """Titles stand between tables; in a table the parts' names are no regions."""
    whole = parted = 0
    for seed in range(60):
        html = compose_page(materials, np.random.default_rng([seed, 3]), ["contents"]).html
        if not re.search(r"max-width:\d+%", html):
            continue
        tables = html.count('data-region="table"')
        inside = re.findall(r'<b style="display:block[^"]*">', html)
        if inside:
            assert tables == 1
        else:
            assert html.count("<h2") in (tables, tables - 1)
        whole, parted = whole + bool(inside), parted + (tables > 1)
    assert min(whole, parted) > 5


def test_a_logo_may_have_its_name_in_it_or_as_a_text_beside_it(materials):
    rng = np.random.default_rng(0)
    sheet = Sheet(materials, "Latn", "A4", 1, 14, rng)
    logos = [draw_logo(sheet) for _ in range(200)]
    assert all(logo.count('data-region="figure"') == 1 for logo in logos)
    named = [logo for logo in logos if "sans-serif" in logo]
    beside = [logo for logo in named if 'data-region="text"' in logo]
    assert 60 < len(named) < 120
    assert 20 < len(beside) < len(named) - 20
    assert all(logo.count("data-region") == 1 for logo in logos if logo not in beside)


def test_equal_seeds_compose_equal_pages(materials):
    pages = [compose_page(materials, np.random.default_rng(seed)).html for seed in (1, 1, 2)]
    assert pages[0] == pages[1] != pages[2]


def test_panels_fill_their_box_and_lie_apart():
    for seed in range(50):
        panels = np.array(divide((10, 20, 810, 1020), 200, 12, np.random.default_rng(seed)))
        assert (panels[:, 2:] > panels[:, :2]).all()
        assert panels[:, :2].min(axis=0) == pytest.approx([10, 20])
        assert panels[:, 2:].max(axis=0) == pytest.approx([810, 1020])
        for i in range(len(panels)):
            gap = np.maximum(
                panels[i, :2] - panels[i + 1 :, 2:], panels[i + 1 :, :2] - panels[i, 2:]
            )
            assert (gap.max(axis=1) >= 12 - 1e-9).all()


# Blocks in a style --------------------------------------------------------------------------------


def test_texts_cannot_become_html():
    html = composer().paragraph(
        Block("paragraph", "If a < b & b > c, then <script>alert(1)</script>.")
    )
    assert "<script" not in html
    assert "&lt;script" in html


def test_headings_are_numbered_by_their_depth():
    setter = composer(numbered=True)
    setter.section = [2, 0, 0]
    lines = [setter.heading(Block("heading", "Of grain", level=level)) for level in (2, 3, 3, 2, 3)]
    numbers = [re.sub(r"<[^>]*>", "", line).split(" ")[0].rstrip(".") for line in lines]
    assert numbers == ["3", "3.1", "3.2", "4", "4.1"]


def test_a_nested_list_is_one_region():
    html = composer().list(Block("list", items=("one", ("two", ("a", "b")), "three"), ordered=True))
    assert html.count("data-region") == 1
    assert all(f">{text}<" in html for text in ("one", "two", "a", "b", "three"))


def test_numbers_of_long_items_hang_out():
    """Where they did not, the items would look as texts do."""
    setter = composer()

    def flush(text, ordered):
        block = Block("list", items=(text, text), ordered=ordered)
        return sum('class="list inline"' in setter.list(block) for _ in range(100))

    assert flush("Of rye and barley. " * 12, True) == 0
    assert flush("Of rye and barley. " * 12, False) > 5
    assert flush("Of rye", True) > 5


def test_a_ledger_is_one_table_with_codes_at_several_depths():
    html = composer().ledger(600)
    assert re.findall(r'data-region="(\w+)"', html) == ["table"]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", html)]
    assert len(rows) > 10
    assert len({next(i for i, cell in enumerate(row) if cell) for row in rows}) > 1
    assert all(re.fullmatch(r"\d+", next(filter(None, row))) for row in rows)


def test_formulas_are_texts_some_with_matrices_and_cases():
    setter = composer()
    several = 0
    for _ in range(100):
        html = setter.formula()
        assert re.findall(r'data-region="(\w+)"', html) == ["text"]
        tree = ElementTree.fromstring(html)
        for table in tree.iter("mtable"):
            several += 1
            columns = {len(row) for row in table}
            assert len(table) > 1
            assert len(columns) == 1
    assert 5 < several < 60


def test_headings_may_differ_from_the_text_by_their_colour_alone():
    rng = np.random.default_rng(0)
    ways = [_heading_css("#000", rng) for _ in range(400)]
    colored = [css for css in ways if re.match(r"font-weight:normal;color:#(?!000)", css)]
    assert 10 < len(colored) < 60
    assert not any("italic" in css or "case" in css or "caps" in css for css in colored)
    normal = [css for css in ways if css.startswith("font-weight:normal")]
    assert all(";" in css for css in normal)  # None is as the text is.


def test_captions_are_text_beside_their_table_or_figure():
    setter = composer()
    table = setter.table(Block("table", "Prices", rows=(("a", "b"),) * 5), 400, 900)
    assert table.count('data-region="table"') == 1
    regions = [
        each
        for i in range(20)
        for each in re.findall(
            'data-region="(.*?)"', setter.figure(Block("figure", "Map"), 400, 800)
        )
    ]
    assert set(regions) == {"figure", "text"}


def test_wide_tables_lose_columns_in_narrow_ones():
    setter = composer()
    rows = (tuple("abcdefghij"),) * 6
    assert setter.table(Block("table", "", rows=rows), 150, 900).count("<td") <= 6 * 4
    assert setter.table(Block("table", "", rows=rows), 1500, 900).count("<td") >= 6 * 8


def test_tables_of_sentences_are_one_region_and_as_high_as_there_is_room():
    setter, points, letters = composer(), 0, []
    for _ in range(60):
        low, high = setter.worded_table(500, 200), setter.worded_table(500, 800)
        assert low.count("data-region") == high.count("data-region") == 1
        points += 'class="item"' in high
        assert low.count("<tr") >= 2
        letters.append([len(re.sub("<.*?>", "", each)) for each in (low, high)])
    assert points > 5
    low, high = np.mean(letters, axis=0)
    assert high > 2 * low
    sentences = setter.table(Block("table", "Prices"), 500, 800)
    assert sentences.count('data-region="table"') == 1
    assert "Prices" in sentences


def test_tables_of_sentences_are_parted_by_rows_that_span_them():
    setter = composer()
    tables = [setter.worded_table(500, 800) for _ in range(60)]
    assert 3 < sum(table.count("colspan") > 1 for table in tables) < 40


def test_legends_are_part_of_their_figure():
    setter, legends = composer(), 0
    for _ in range(200):
        html = setter.picture(400, 300)
        assert html.count("data-region") == 1
        legends += "&ensp;" in html
    assert 5 < legends < 60


@pytest.mark.parametrize("rules", ["three", "grid", "rows", "stripes", "none", "outer", "columns"])
def test_styles_are_whole_css(rules):
    sheet = style_sheet(composer(table_rules=rules).style)
    assert sheet.count("{") == sheet.count("}")
    assert "{{" not in sheet

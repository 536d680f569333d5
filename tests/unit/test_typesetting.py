"""Regions are where Chromium draws them: as many as columns, and never cut."""

import numpy as np
import pytest
import typeset
from typeset import needs_chromium

from scanmill import typesetting
from scanmill.errors import UserError
from scanmill.typesetting import Typesetter, find_browser, outline_of

STYLE = """<style>
* { box-sizing: border-box }
body { margin: 0; font: 20px/30px "DejaVu Sans"; width: 600px; height: 800px;
  position: relative; overflow: hidden }
p { margin: 0 }
.zone { position: absolute; overflow: hidden; column-fill: auto }
.item { display: flex }
.mark { width: 30px }
td { padding: 4px }
</style>"""


@pytest.fixture(scope="module")
def typesetter():
    with Typesetter() as typesetter:
        yield typesetter


def box(region):
    return np.concatenate([region.outline.min(axis=0), region.outline.max(axis=0)])


def ink(pixels, region, margin=0):
    """The box of what is dark within a region's box and a margin."""
    more = np.array([-margin, -margin, margin, margin])
    x, y, x_max, y_max = np.rint(box(region)).astype(int) + more
    rows, columns = np.nonzero(pixels[max(y, 0) : y_max, max(x, 0) : x_max].min(axis=2) < 160)
    return np.array([columns.min() + x, rows.min() + y, columns.max() + 1 + x, rows.max() + 1 + y])


def zone(inner, css=""):
    return (
        f'<div class="zone" style="left:50px;top:60px;width:500px;height:300px;{css}">{inner}</div>'
    )


@needs_chromium
def test_a_paragraph_is_where_its_ink_is(typesetter):
    text = (
        '<p data-region="text">Hpgjy Typography of lines that fill more than one line of type</p>'
    )
    pixels, [region] = typesetter.set_page(STYLE + zone(text), 600, 800)
    assert pixels.shape == (800, 600, 3)
    assert region.class_name == "text"
    found, drawn = box(region), ink(pixels, region, 12)
    assert (np.abs(found - drawn)[[0, 2]] <= 3).all()
    # From descenders to just above capitals: 20 px of type.
    assert 0 <= drawn[1] - found[1] <= 4
    assert 0 <= found[3] - drawn[3] <= 4


@needs_chromium
@pytest.mark.parametrize("word", ["nnn", "Hlp", "ggg"])
def test_a_line_is_as_high_as_its_type_whatever_its_letters(typesetter, word):
    _, [region] = typesetter.set_page(
        STYLE + zone(f'<h1 style="font-size:30px" data-region="title">{word}</h1>'), 600, 800
    )
    assert np.ptp(region.outline[:, 1]) == pytest.approx(30, abs=0.1)


@needs_chromium
def test_a_paragraph_in_two_columns_is_two_regions(typesetter):
    text = f'<p data-region="text">{" ".join(typeset.PROSE * 2)}</p>'
    pixels, regions = typesetter.set_page(
        STYLE + zone(text, "column-count:2;column-gap:40px"), 600, 800
    )
    assert [each.class_name for each in regions] == ["text", "text"]
    first, second = map(box, regions)
    assert first[2] <= 281
    assert second[0] >= 319
    for region in regions:
        drawn = ink(pixels, region)
        assert (np.abs(box(region) - drawn) <= 5)[[0, 1]].all()
    # What overflows both columns is on no page.
    assert second[3] <= 360


@needs_chromium
def test_a_list_is_one_region_with_its_marks_and_what_is_not_marked_is_none(typesetter):
    items = "".join(
        f'<div class="item"><span class="mark">{i}.</span><div>item</div></div>' for i in (1, 2, 3)
    )
    pixels, [region] = typesetter.set_page(
        STYLE + "<i>Running head</i>" + zone(f'<div data-region="list">{items}</div>'), 600, 800
    )
    assert region.class_name == "list"
    assert abs(box(region)[0] - ink(pixels, region, 10)[0]) <= 3
    assert np.ptp(region.outline[:, 1]) == pytest.approx(80, abs=1)


@needs_chromium
def test_a_table_reaches_to_its_rules_or_to_its_words(typesetter):
    rows = "<tr><td>Rye</td><td>3.5</td></tr><tr><td>Salt</td><td>9.1</td></tr>"
    bare = f'<table style="width:400px" data-region="table">{rows}</table>'
    ruled = bare.replace("width:400px", "width:400px;border-top:2px solid;border-bottom:2px solid")
    widths = {}
    for name, table in (("bare", bare), ("ruled", ruled)):
        pixels, [region] = typesetter.set_page(STYLE + zone(table), 600, 800)
        widths[name] = np.ptp(region.outline[:, 0])
        drawn = ink(pixels, region, 12)
        assert (np.abs(box(region) - drawn) <= 5).all()
    assert widths["ruled"] == pytest.approx(400, abs=1)
    assert widths["bare"] < 390


@needs_chromium
def test_what_would_be_cut_is_taken_away_and_the_rest_moves_up(typesetter):
    css = "height:400px;width:90px;background:#000"
    tall = f'<div class="float"><div data-region="figure" style="{css}"></div></div>'
    text = '<p data-region="text">What follows.</p>'
    pixels, regions = typesetter.set_page(STYLE + zone(tall + text), 600, 800)
    assert [each.class_name for each in regions] == ["text"]
    assert box(regions[0])[1] < 75
    assert (pixels[200:] == 255).all()


@needs_chromium
def test_pages_follow_one_another_without_traces(typesetter):
    first = STYLE + zone('<p data-region="text">First</p>')
    before = typesetter.set_page(first, 600, 800)
    typesetter.set_page(STYLE + zone('<p data-region="text">Second</p>'), 500, 700)
    after = typesetter.set_page(first, 600, 800)
    assert (before[0] == after[0]).all()
    assert (before[1][0].outline == after[1][0].outline).all()


def test_without_chromium_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(typesetting.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="apt-get install chromium"):
        find_browser()


@pytest.mark.parametrize(
    ("lines", "corners"),
    [
        ([[0, 0, 100, 10], [0, 10, 100, 20], [0, 20, 99, 30]], 4),
        ([[20, 0, 100, 10], [0, 10, 100, 20], [0, 20, 100, 30]], 6),
        ([[20, 0, 100, 10], [0, 10, 100, 20], [0, 20, 60, 30]], 8),
        ([[20, 0, 90, 10], [0, 10, 100, 20], [5, 20, 60, 30]], 12),
        ([[20, 0, 100, 10], [0, 10, 60, 20]], 4),
    ],
)
def test_outlines_follow_the_first_and_the_last_line(lines, corners):
    lines = np.array(lines, float)
    outline = outline_of(lines)
    assert len(outline) == corners
    assert (outline.min(axis=0) == [0, 0]).all()
    assert (outline.max(axis=0) == [100, lines[:, 3].max()]).all()
    x, y = outline.T
    area = (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area > 0  # Clockwise, as y grows downwards.
    if len(lines) > 2:
        filled = 1000 * (len(lines) - 2) + sum((line[2] - line[0]) * 10 for line in lines[[0, -1]])
        assert area == pytest.approx(filled, rel=0.01)


@needs_chromium
def test_a_chromium_that_dies_is_started_anew_and_sets_the_same_page(typesetter, caplog):
    page = STYLE + zone('<p data-region="text">Once more</p>')
    before = typesetter.set_page(page, 600, 800)
    typesetter.browser.close()
    with caplog.at_level("WARNING"):
        after = typesetter.set_page(page, 600, 800)
    assert "started anew" in caplog.text
    assert (before[0] == after[0]).all()
    typesetter.done = typesetting.RESTART
    assert (typesetter.set_page(page, 600, 800)[0] == before[0]).all()
    assert typesetter.done == 0


@needs_chromium
def test_a_chromium_that_fails_again_is_an_error(typesetter, monkeypatch):
    def fail(*_):
        raise typesetting.PlaywrightError("Unable to capture screenshot")

    monkeypatch.setattr(typesetter, "_set_page", fail)
    with pytest.raises(UserError, match="cannot set a page: Unable to capture"):
        typesetter.set_page("", 10, 10)

"""Figures are well-formed SVG that fills its place."""

from xml.etree import ElementTree

import numpy as np
import pytest
import typeset
from typeset import needs_chromium

from scanmill import illustrations
from scanmill.illustrations import draw_figure
from scanmill.manuscripts import Author
from scanmill.typesetting import Typesetter

KINDS = [name for name in dir(illustrations) if name.startswith("draw_") and name != "draw_figure"]


def words(seed=0):
    return Author("Latn", typeset.PROSE, [], np.random.default_rng(seed)).words


@pytest.mark.parametrize("seed", range(40))
def test_a_figure_is_well_formed_and_of_its_size(seed):
    svg = draw_figure(420, 260, words(), np.random.default_rng(seed))
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("height")) == ("420", "260")
    assert len(list(root.iter())) > 4
    assert svg == draw_figure(420, 260, words(), np.random.default_rng(seed))


@needs_chromium
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_fills_its_place(kind):
    def picture(seed):
        rng = np.random.default_rng(seed)
        inner = getattr(illustrations, kind)(
            400, 300, words(), ("#000", "#333", "#777", "#999"), rng
        )
        return f'<body style="margin:0"><svg width="400" height="300">{inner}</svg></body>'

    with Typesetter() as typesetter:
        filled = []
        for seed in range(5):
            pixels, _ = typesetter.set_page(picture(seed), 400, 300)
            rows, columns = np.nonzero(pixels.min(axis=2) < 200)
            filled.append([np.ptp(columns) / 400, np.ptp(rows) / 300])
    assert (np.median(filled, axis=0) > 0.75).all()

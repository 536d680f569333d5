"""What tests of synthetic pages share: Chromium where there is one, a few texts and pictures."""

import shutil

import cv2
import numpy as np
import pytest

from scanmill.typesetting import BROWSERS

needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)) or shutil.which("fc-list") is None,
    reason="Chromium or fontconfig is not installed (make synthesis-packages)",
)

PROSE = [
    "The harbour was built in the spring of that year, and ships came from the whole coast.",
    "Prices of grain rose again, although the council had fixed them a month before.",
    "Of the older houses near the gate, only three were left standing after the fire.",
    "She wrote to her brother that the roads were dry, and that he should come soon.",
    "The mill at the lower bridge ground rye for the town and barley for the brewers.",
]
ARTICLE = """<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>
<div class="navigation"><ul><li>back</li><li>forth</li></ul></div>
<h1>A short history of the town</h1>
{paragraphs}
<h2>What was sold</h2>
<ul><li>rye</li><li>barley <ul><li>for bread</li><li>for beer</li></ul></li><li>salt</li></ul>
<table><caption>Prices of a sack</caption><tr><th>Year</th><th>Rye</th></tr>
<tr><td>1710</td><td>3.5</td></tr><tr><td>1711</td><td>4.1</td></tr></table>
<div class="figure"><img src="map.png" alt="A map"><p>The town and its mills.</p></div>
<p><img src="icon.png"> Mind the water that stands in the lower street.</p>
<pre>a = 1\nb = 2</pre>
</body></html>"""


def write_texts(folder, articles=3):
    """HTML articles with a figure and an icon each below `folder`, and pictures beside them."""
    rng = np.random.default_rng(0)
    for number in range(articles):
        package = folder / f"package{number}"
        package.mkdir(parents=True)
        paragraphs = "".join(
            f"<p>{' '.join(rng.permutation(PROSE))} Of the year {1700 + 40 * number + i}.</p>"
            for i in range(40)
        )
        (package / "index.html").write_text(ARTICLE.format(paragraphs=paragraphs), encoding="utf-8")
        cv2.imwrite(str(package / "map.png"), rng.integers(0, 255, (200, 300, 3), np.uint8))
        cv2.imwrite(str(package / "icon.png"), np.zeros((16, 16), np.uint8))
    return folder


def write_pictures(folder, count=3):
    """Pictures below `folder`: photographs of noise, one too small, one that is none."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(count):
        small = rng.integers(0, 255, (8, 12, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(small, (1800, 1200)))
    cv2.imwrite(str(folder / "small.png"), rng.integers(0, 255, (20, 20), np.uint8))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder

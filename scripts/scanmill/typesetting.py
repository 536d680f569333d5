"""HTML pages set by Chromium: their pixels, and where the regions are that they are made of.

An element of the page with `data-region="text"` (or title, list, table, figure) is a region. Pieces of
one that runs through several columns are as many regions. What is in no such element is none: running
heads, page numbers, ornaments.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import cv2
import numpy as np
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright

from scanmill.errors import UserError
from scanmill.progress import logger

#: Names under which Chromium is installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_MEASURE = Path(__file__).with_name("measure_regions.js")
#: Milliseconds for a page that takes a tenth of a second, on machines that are busy.
_PATIENCE = 60_000
#: Pages after which Chromium is started anew: its memory grows.
RESTART = 400
#: Type without hinting and without colours at its edges, as PDF engines draw it.
_FLAGS = (
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--allow-file-access-from-files",
    "--no-sandbox",
    "--disable-gpu",
)
#: Quality of the JPEG in which the pixels come: losses are far below those of any scanner.
_QUALITY = 95
#: Pixels by which a first or last line must be shorter to show in a region's outline.
INDENT = 4.0


class SetRegion(NamedTuple):
    """A region as it is set."""

    class_name: str
    outline: np.ndarray
    """(P, 2) float64, pixels of the page, clockwise."""


class Typesetter:
    """Chromium, as a context manager; not to be shared between processes."""

    def __init__(self) -> None:
        """Raises UserError where there is no Chromium."""
        self.browser_path = find_browser()
        self.script = _MEASURE.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        """Start Chromium; raises UserError where it does not start."""
        self.folder = Path(tempfile.mkdtemp(prefix="scanmill-typesetting-"))
        self.playwright = sync_playwright().start()
        try:
            self._launch()
        except PlaywrightError as error:
            self.__exit__(None, None, None)
            raise UserError(f"Chromium does not start: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.playwright.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> None:
        self.browser = self.playwright.chromium.launch(
            executable_path=self.browser_path, args=_FLAGS
        )
        self.page = self.browser.new_page()
        self.done = 0

    def set_page(
        self, html: str, width: int, height: int
    ) -> tuple[np.ndarray, list[SetRegion]] | None:
        """Set a page: its pixels, (height, width, 3) uint8 BGR, and its regions within them. None where
        regions would be cut whatever is taken away.

        A Chromium that failed, or that has set RESTART pages, is started anew; raises UserError where it
        fails again.
        """
        self.done += 1
        try:
            if self.done > RESTART:
                self._relaunch()
            return self._set_page(html, width, height)
        except PlaywrightError as error:
            logger.warning("Chromium failed, and is started anew: %s", str(error).splitlines()[0])
        try:
            self._relaunch()
            return self._set_page(html, width, height)
        except PlaywrightError as error:
            raise UserError(f"Chromium cannot set a page: {error}") from error

    def _relaunch(self) -> None:
        with contextlib.suppress(PlaywrightError):
            self.browser.close()
        self._launch()

    def _set_page(
        self, html: str, width: int, height: int
    ) -> tuple[np.ndarray, list[SetRegion]] | None:
        path = self.folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(path.as_uri(), timeout=_PATIENCE)
        found = self.page.evaluate(self.script)
        if found is None:
            return None
        data = self.page.screenshot(type="jpeg", quality=_QUALITY, timeout=_PATIENCE)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        regions = []
        for each in found:
            outline = outline_of(np.array(each["lines"], np.float64))
            outline = outline.clip(0, (width, height))
            if (np.ptp(outline, axis=0) >= 2).all():
                regions.append(SetRegion(each["class_name"], outline))
        return pixels, regions


def find_browser() -> str:
    """Chromium's path. Raises UserError where it is not installed."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise UserError(
        f"None of {', '.join(BROWSERS)} is installed; Chromium sets the synthetic pages. On Debian: "
        "apt-get install chromium"
    )


def outline_of(lines: np.ndarray) -> np.ndarray:
    """The outline (P, 2) of boxes (N, 4) below one another: a rectangle, but for a first and a last line
    that are shorter, by INDENT or more at either end."""
    left, top = lines[:, :2].min(axis=0)
    right, bottom = lines[:, 2:].max(axis=0)
    rectangle = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    rows = _rows(lines)
    if len(rows) < 3:
        return rectangle
    first, last = rows[0], rows[-1]
    under_first, over_last = rows[1][1], rows[-2][3]
    points: list[tuple[float, float]] = []
    # Clockwise from the first line's left end; a corner where it is full, three points where it is not.
    for row, x, edge, inner in (
        (first, 0, top, under_first),
        (first, 2, top, under_first),
        (last, 2, bottom, over_last),
        (last, 0, bottom, over_last),
    ):
        side = right if x else left
        if abs(row[x] - side) <= INDENT:
            points.append((side, edge))
            continue
        step = [(side, inner), (row[x], inner), (row[x], edge)]
        clockwise = (x == 0) == (row is first)
        points += step if clockwise else step[::-1]
    return np.array(points)


def _rows(lines: np.ndarray) -> list[np.ndarray]:
    """Boxes (N, 4) that lie side by side as one, from top to bottom."""
    rows: list[np.ndarray] = []
    for line in lines[np.argsort(lines[:, 1] + lines[:, 3])]:
        middle = (line[1] + line[3]) / 2
        if rows and middle < rows[-1][3]:
            rows[-1] = np.concatenate(
                [np.minimum(rows[-1][:2], line[:2]), np.maximum(rows[-1][2:], line[2:])]
            )
        else:
            rows.append(line)
    return rows

"""The kinds of pages that archives hold, and how often synthetic pages are of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from scanmill.form_pages import compose_form, compose_letter
from scanmill.paneled_pages import compose_brochure, compose_newspaper
from scanmill.prose_pages import compose_article, compose_book, compose_guide, compose_report
from scanmill.sheets import Materials, Page, Sheet
from scanmill.single_pages import (
    compose_contents,
    compose_cover,
    compose_dictionary,
    compose_imprint,
    compose_law,
    compose_nothing,
    compose_plate,
    compose_slide,
    compose_tables,
)
from scanmill.typography import pick


class Kind(NamedTuple):
    """How pages of one kind are made, and how often."""

    weight: float
    compose: Callable[[Sheet], None]
    sizes: Sequence[str]
    columns: Sequence[int]
    type_size: tuple[float, float]
    """CSS pixels, least and most."""
    real: float = 0.4


_COMMON = ("A4", "A4", "letter", "journal", "journal", "B5")
_BOOKS = ("A5", "octavo", "octavo", "B5", "A4", "quarto")
_NEWSPAPERS = ("broadsheet", "tabloid", "A4")
_BROCHURES = ("A4", "letter", "A5", "square", "slide")
KINDS: dict[str, Kind] = {
    "article": Kind(27, compose_article, _COMMON, (2, 2, 2, 1, 1, 3), (10.5, 15), 0.3),
    "book": Kind(14, compose_book, _BOOKS, (1, 1, 1, 1, 2), (11.5, 19), 0.35),
    "report": Kind(13, compose_report, ("A4", "letter", "letter", "B5"), (1, 1, 1, 2), (11.5, 17), 0.5),
    "guide": Kind(9, compose_guide, ("A4", "letter", "B5", "A5"), (1, 1, 2, 2, 3), (11, 17), 0.75),
    "newspaper": Kind(6, compose_newspaper, _NEWSPAPERS, (3, 4, 4, 5, 6), (11, 15), 0.1),
    "brochure": Kind(8, compose_brochure, _BROCHURES, (1,), (11, 17), 0.0),
    "form": Kind(5, compose_form, ("A4", "letter", "legal", "A5"), (1,), (11, 15), 0.0),
    "letter": Kind(3, compose_letter, ("A4", "letter", "octavo"), (1,), (13, 19), 0.0),
    "tables": Kind(8, compose_tables, ("A4", "letter", "slide", "legal"), (1,), (10, 15), 0.0),
    "plate": Kind(2.5, compose_plate, _COMMON, (1,), (11, 15), 0.0),
    "contents": Kind(7, compose_contents, ("A4", "octavo", "letter"), (1,), (12, 17), 0.0),
    "dictionary": Kind(1.5, compose_dictionary, ("octavo", "A4", "B5"), (2, 2, 3), (10, 14), 0.0),
    "law": Kind(7, compose_law, ("A4", "letter", "B5", "octavo"), (1, 1, 1, 2), (11.5, 16), 0.0),
    "cover": Kind(3.5, compose_cover, ("A4", "octavo", "letter", "A5"), (1,), (13, 20), 0.0),
    "imprint": Kind(2.5, compose_imprint, ("A4", "A5", "octavo", "B5"), (1,), (11, 16), 0.0),
    "slide": Kind(1.5, compose_slide, ("slide",), (1,), (20, 32), 0.0),
    "nothing": Kind(1, compose_nothing, ("A4", "octavo", "letter"), (1,), (12, 16), 0.0),
}  # fmt: skip


def compose_page(
    materials: Materials,
    rng: np.random.Generator,
    kinds: Iterable[str] = tuple(KINDS),
    latin: float = 0.7,
) -> Page:
    """A page of a random kind, in Latin script so often, otherwise in any other that there is."""
    names = list(kinds)
    weights = np.array([KINDS[name].weight for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    kind = KINDS[name]
    script = _choose_script(materials, rng, latin)
    size = rng.uniform(*kind.type_size)
    format_, columns = pick(rng, kind.sizes), pick(rng, kind.columns)
    sheet = Sheet(materials, script, format_, columns, size, rng, kind.real)
    lying = rng.random() < 0.04 and name in ("report", "guide", "article")
    if lying and sheet.width < sheet.height:
        sheet.width, sheet.height = sheet.height, sheet.width
        sheet.right, sheet.bottom = sheet.width - sheet.left, sheet.height - sheet.top
    if script in ("Jpan", "Hans") and name in ("book", "newspaper") and rng.random() < 0.5:
        sheet.restyle(vertical=True)
    kind.compose(sheet)
    return sheet.page(name)


def _choose_script(materials: Materials, rng: np.random.Generator, latin: float) -> str:
    scripts = sorted(set(materials.typefaces) & set(materials.sentences))
    others = [script for script in scripts if script != "Latn"]
    if not others or (rng.random() < latin and "Latn" in scripts):
        return "Latn"
    # East Asian pages and Cyrillic ones are the most numerous in archives.
    common = [each for each in ("Hans", "Jpan", "Kore", "Cyrl", "Arab") if each in others]
    return pick(rng, common if common and rng.random() < 0.6 else others)

"""HTML and SVG as text: elements, and among them those that are regions of a page.

An element with `data-region` is a region of the class that it names, as `typesetting` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def _attributes(given: Mapping[str, object]) -> str:
    """As they stand in a tag: `class_` and `data_region` as class and data-region; None stands not."""
    return "".join(
        f' {name.strip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in given.items()
        if value is not None
    )


def element(tag: str, inner: str = "", css: str = "", **attributes: object) -> str:
    """An element of HTML around `inner`, which is HTML, too."""
    return f"<{tag}{_attributes({**attributes, 'style': css or None})}>{inner}</{tag}>"


def region(
    class_name: str, inner: str, css: str = "", tag: str = "div", **attributes: object
) -> str:
    """An element that is a region."""
    return element(tag, inner, css, **attributes, data_region=class_name)


def title(text: str, css: str = "", level: int = 2) -> str:
    """A heading, from plain text."""
    return region("title", escape(text), css, f"h{level}")


def paragraph(inner: str, css: str = "") -> str:
    """A paragraph of HTML, whose first line is not indented."""
    return region("text", inner, css, "p", class_="flat")


def plain(text: str, css: str = "") -> str:
    """A paragraph of plain text, whose first line is not indented."""
    return paragraph(escape(text), css)


def item(mark: str, inner: str, css: str = "") -> str:
    """An item of a list; `css` is its mark's."""
    return element(
        "div",
        element("span", mark, css, class_="mark") + element("div", inner, class_="say"),
        class_="item",
    )


def image(path: str, css: str) -> str:
    """The picture in a file."""
    return f"<img{_attributes({'src': f'file://{path}', 'style': css})}>"


def shape(tag: str, inner: str = "", **attributes: object) -> str:
    """An element of SVG around `inner`, SVG itself; of floats, one decimal stands."""
    given = {
        name: f"{value:.1f}" if isinstance(value, float) else value
        for name, value in attributes.items()
    }
    opened = f"<{tag}{_attributes(given)}"
    return f"{opened}>{inner}</{tag}>" if inner else f"{opened}/>"

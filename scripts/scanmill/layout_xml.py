"""Pages with their regions and text as PAGE-XML 2019-07-15 and ALTO 4.

Coordinates are pixels of the page image, the order of elements is the reading order. A region's class
stands where `annotations` reads it, so that corrections come back under the names that the model has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lxml import etree

import scanmill
from scanmill.annotations import is_outline

#: What XML 1.0 cannot hold, escaped or not (section 2.2, Char).
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: What stands in its place: U+FFFD, the replacement character.
REPLACEMENT = "\ufffd"

PAGE_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
ALTO_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"

#: Elements of PAGE-XML for classes whose regions are no text: names in lower case, without `region`.
PAGE_ELEMENTS = {
    "advert": "AdvertRegion",
    "advertisement": "AdvertRegion",
    "chart": "ChartRegion",
    "comics/cartoon": "LineDrawingRegion",
    "editorial cartoon": "LineDrawingRegion",
    "equation": "MathsRegion",
    "figure": "ImageRegion",
    "formula": "MathsRegion",
    "graphic": "GraphicRegion",
    "illustration": "ImageRegion",
    "image": "ImageRegion",
    "map": "MapRegion",
    "maths": "MathsRegion",
    "photograph": "ImageRegion",
    "picture": "ImageRegion",
    "separator": "SeparatorRegion",
    "table": "TableRegion",
}
#: @type of TextRegion (TextTypeSimpleType of the schema) by class in lower case.
PAGE_TEXT_TYPES = {
    "caption": "caption",
    "footer": "footer",
    "footnote": "footnote",
    "header": "header",
    "headline": "heading",
    "marginalia": "marginalia",
    "page-number": "page-number",
    "paragraph": "paragraph",
    "subtitle": "heading",
    "text": "paragraph",
    "title": "heading",
}
#: Elements of PAGE-XML whose regions are pictures: those are Illustrations of ALTO.
_PICTURES = ("ChartRegion", "GraphicRegion", "ImageRegion", "LineDrawingRegion", "MapRegion")

Page = Mapping[str, Any]
"""A row of `pages`."""
Regions = Sequence[Mapping[str, Any]]
"""Rows of `regions` in reading order, each with `text` and `lines` of the text table, null without."""


def xml_text(text: str) -> str:
    """A text that XML can hold: what it cannot is U+FFFD."""
    # What is printable is in XML; most texts are, and that is found out ten times as fast.
    return text if text.isprintable() else NOT_XML.sub(REPLACEMENT, text)


def _element(parent: etree._Element, tag: str, **attributes: object) -> etree._Element:
    """A child, in its parent's namespace; attributes that are None stand not."""
    namespace = parent.tag[: parent.tag.index("}") + 1]
    given = {key: xml_text(str(value)) for key, value in attributes.items() if value is not None}
    return etree.SubElement(parent, namespace + tag, given)


def _with_text(parent: etree._Element, tag: str, text: str) -> None:
    _element(parent, tag).text = xml_text(text)


def _serialized(root: etree._Element) -> bytes:
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _plain_name(class_name: str) -> str:
    return class_name.lower().removesuffix("region").strip()


# PAGE-XML -----------------------------------------------------------------------------------------


def page_xml(page: Page, regions: Regions, image: str, created: str) -> bytes:
    """A page as PAGE-XML. `image`: the name of its image; `created`: a date and time, ISO 8601."""
    root = etree.Element(f"{{{PAGE_NAMESPACE}}}PcGts", nsmap={None: PAGE_NAMESPACE})
    metadata = _element(root, "Metadata")
    _with_text(metadata, "Creator", f"Scanmill {scanmill.__version__}")
    _with_text(metadata, "Created", created)
    _with_text(metadata, "LastChange", created)
    _with_text(metadata, "Comments", f"{page['document']}, page {page['page']}")
    width, height = page["width"], page["height"]
    sheet = _element(root, "Page", imageFilename=image, imageWidth=width, imageHeight=height)
    if regions:  # The schema wants one member or more.
        order = _element(_element(sheet, "ReadingOrder"), "OrderedGroup", id="reading-order")
        for place, region in enumerate(regions):
            _element(order, "RegionRefIndexed", index=place, regionRef=_region_id(region))
    for place, region in enumerate(regions):
        _page_region(sheet, region, place, (width, height))
    return _serialized(root)


def _region_id(region: Mapping[str, Any]) -> str:
    return f"r{region['detection']}"


def page_element(class_name: str) -> str:
    """The element of PAGE-XML that a region of a class is."""
    return PAGE_ELEMENTS.get(_plain_name(class_name), "TextRegion")


def _page_region(
    sheet: etree._Element, region: Mapping[str, Any], place: int, size: tuple[int, int]
) -> None:
    name, identity = region["class_name"], _region_id(region)
    # As Transkribus writes it; there, what would end the type is written by its code.
    known = re.sub(r"[\\;{}]", lambda found: f"\\u{ord(found[0]):04x}", name)
    custom = f"readingOrder {{index:{place};}} structure {{type:{known};}}"
    tag = page_element(name)
    kind = PAGE_TEXT_TYPES.get(_plain_name(name)) if tag == "TextRegion" else None
    element = _element(sheet, tag, id=identity, type=kind, custom=custom)
    points = _region_points(region, size)
    _element(element, "Coords", points=points)
    if not region["text"]:
        return
    if tag != "TextRegion":  # Text lies in text regions alone: one of the same outline.
        element = _element(element, "TextRegion", id=f"{identity}-text")
        _element(element, "Coords", points=points)
    for number, line in enumerate(region["lines"] or (), 1):
        row = _element(element, "TextLine", id=f"{identity}-l{number}")
        _element(row, "Coords", points=_points(_corners(line), size))
        _page_text(row, line["text"], line["confidence"])
    _page_text(element, region["text"], region["confidence"])


def _page_text(element: etree._Element, text: str, confidence: float | None) -> None:
    equivalent = _element(element, "TextEquiv", conf=_confidence(confidence))
    _with_text(equivalent, "Unicode", text)


def _confidence(value: float | None) -> str | None:
    return None if value is None else f"{min(max(value, 0), 1):.4f}"


def _region_points(region: Mapping[str, Any], size: tuple[int, int]) -> str:
    polygon = region["polygon"] or ()
    return _points(polygon if is_outline(polygon) else _corners(region), size)


def _corners(box: Mapping[str, Any]) -> tuple[float, ...]:
    left, top, right, bottom = (box[side] for side in ("x_min", "y_min", "x_max", "y_max"))
    return left, top, right, top, right, bottom, left, bottom


def _points(polygon: Sequence[float], size: tuple[int, int]) -> str:
    """`x,y x,y ...`: PAGE-XML has whole pixels, within the page."""
    xs, ys = (
        [round(min(max(value, 0), side)) for value in polygon[axis::2]]
        for axis, side in enumerate(size)
    )
    return " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))


# ALTO ---------------------------------------------------------------------------------------------


def alto(page: Page, regions: Regions, image: str) -> bytes:
    """A page as ALTO 4. `image`: the name of its image.

    Lines are one String each: where their words lie is not known.
    """
    root = etree.Element(f"{{{ALTO_NAMESPACE}}}alto", nsmap={None: ALTO_NAMESPACE})
    description = _element(root, "Description")
    _with_text(description, "MeasurementUnit", "pixel")
    source = _element(description, "sourceImageInformation")
    _with_text(source, "fileName", image)
    _with_text(source, "documentIdentifier", page["document"])
    software = _element(_element(description, "Processing", ID="scanmill"), "processingSoftware")
    _with_text(software, "softwareName", "Scanmill")
    _with_text(software, "softwareVersion", scanmill.__version__)
    names = list(dict.fromkeys(region["class_name"] for region in regions))
    tags = {name: f"class{number}" for number, name in enumerate(names, 1)}
    if tags:
        listed = _element(root, "Tags")
        for name, tag in tags.items():
            _element(listed, "LayoutTag", ID=tag, LABEL=name)
    size = {"WIDTH": page["width"], "HEIGHT": page["height"]}
    layout = _element(root, "Layout")
    number = page["page"]
    sheet = _element(layout, "Page", ID=f"page{number}", PHYSICAL_IMG_NR=number, **size)
    space = _element(sheet, "PrintSpace", HPOS=0, VPOS=0, **size)
    for region in regions:
        _alto_block(space, region, tags[region["class_name"]])
    return _serialized(root)


def _alto_block(space: etree._Element, region: Mapping[str, Any], tag: str) -> None:
    identity, box = _region_id(region), _alto_box(region)
    is_picture = page_element(region["class_name"]) in _PICTURES and not region["text"]
    kind = "Illustration" if is_picture else "TextBlock"
    block = _element(space, kind, ID=identity, TAGREFS=tag, **box)
    polygon = region["polygon"] or ()
    if is_outline(polygon):
        points = " ".join(map("{},{}".format, polygon[::2], polygon[1::2]))
        _element(_element(block, "Shape"), "Polygon", POINTS=points)
    for number, line in enumerate((region["lines"] or ()) if region["text"] else (), 1):
        place = _alto_box(line)
        row = _element(block, "TextLine", ID=f"{identity}-l{number}", **place)
        confidence = _confidence(line["confidence"])
        _element(row, "String", CONTENT=line["text"], WC=confidence, **place)


def _alto_box(box: Mapping[str, Any]) -> dict[str, float]:
    """In hundredths of a pixel."""
    left, top, right, bottom = (
        round(box[side], 2) for side in ("x_min", "y_min", "x_max", "y_max")
    )
    sides = {"HPOS": left, "VPOS": top, "WIDTH": right - left, "HEIGHT": bottom - top}
    return {key: f"{value:.2f}" for key, value in sides.items()}

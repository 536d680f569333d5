"""PAGE-XML and ALTO: structure, reading back, and the official schemas where they are at hand.

SCANMILL_XSD names a folder with pagecontent.xsd (2019-07-15), alto.xsd (4.2 or later) and, for ALTO,
xlink.xsd; both are published by those who own the formats, and are not part of Scanmill.
"""

import os
from pathlib import Path

import pytest
import xmlschema
from lxml import etree

from scanmill.annotations import read_annotations
from scanmill.layout_xml import ALTO_NAMESPACE, PAGE_NAMESPACE, alto, page_xml

PAGE = {"document": "a\x01 <b>.pdf", "page": 3, "width": 200, "height": 300}
OUTLINE = [20, 100, 90, 100, 95, 140, 20, 145]
NAMES = ["text", "Title", "list", "table", "figure", "MathsRegion", "Comics/Cartoon", "a;b}c\\d"]
P, A = f"{{{PAGE_NAMESPACE}}}", f"{{{ALTO_NAMESPACE}}}"


def region(place, name, text=None, polygon=None, box=None):
    """Each a line below the other, but for those with a box."""
    top = 10.0 + 30 * place
    box = box or (10.25, top, 150.5, top + 20)
    sides = dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
    lines = [
        {
            "text": line,
            "confidence": 0.5,
            **sides | {"y_min": top + 5 * i, "y_max": top + 5 * i + 5},
        }
        for i, line in enumerate((text or "").split("\n"))
    ]
    read = {"text": text, "confidence": text and 0.75, "lines": lines if text else None}
    return {"detection": 100 - place, "class_name": name, "polygon": polygon, **sides, **read}


REGIONS = [
    region(0, NAMES[0], "one\nläßt\x0b 漢字 \ufffe <&>"),
    region(1, NAMES[1], "Title", OUTLINE, (18, 99, 97, 146)),
    *(region(place, name) for place, name in enumerate(NAMES[2:], 2)),
]
TABLE = [region(0, "table", "1 2\n3 4"), region(1, "figure", "caption")]


def made(form, regions, image="0003.jpg"):
    if form == "page-xml":
        return page_xml(PAGE, regions, image, "2026-01-02T03:04:05Z")
    return alto(PAGE, regions, image)


def read_back(tmp_path, data):
    (tmp_path / "0003.xml").write_bytes(data)
    pages, problems = read_annotations([tmp_path / "0003.xml"])
    assert not problems
    [page] = pages
    return page


@pytest.mark.parametrize("form", ["page-xml", "alto"])
@pytest.mark.parametrize("regions", [REGIONS, TABLE, []])
def test_regions_come_back_with_their_classes_and_boxes(tmp_path, form, regions):
    page = read_back(tmp_path, made(form, regions))
    assert (page.image, page.width, page.height) == ("0003.jpg", 200, 300)
    assert [each.class_name for each in page.regions] == [each["class_name"] for each in regions]
    assert [each.annotation for each in page.regions] == [
        f"r{each['detection']}" for each in regions
    ]
    for mine, given in zip(page.regions, regions, strict=True):
        box = [given[side] for side in ("x_min", "y_min", "x_max", "y_max")]
        # PAGE-XML has whole pixels, and no box beside the outline.
        assert mine.box == pytest.approx(box, abs=2 if form == "page-xml" else 0.01)
        if given["polygon"]:
            assert mine.polygons == (tuple(given["polygon"]),)


def test_page_xml_has_lines_order_and_kinds():
    root = etree.fromstring(made("page-xml", REGIONS))
    page = root.find(f"{P}Page")
    assert root.findtext(f"{P}Metadata/{P}Comments") == "a\ufffd <b>.pdf, page 3"
    kinds = [(etree.QName(each).localname, each.get("type")) for each in page[1:]]
    assert kinds == [
        *(("TextRegion", "paragraph"), ("TextRegion", "heading"), ("TextRegion", None)),
        *(("TableRegion", None), ("ImageRegion", None), ("MathsRegion", None)),
        *(("LineDrawingRegion", None), ("TextRegion", None)),
    ]
    order = [each.get("regionRef") for each in page.iter(f"{P}RegionRefIndexed")]
    assert order == [each.get("id") for each in page[1:]]
    first = page[1]
    lines = [each.findtext(f"{P}TextEquiv/{P}Unicode") for each in first.iter(f"{P}TextLine")]
    assert lines == ["one", "läßt\ufffd 漢字 \ufffd <&>"]
    assert first.find(f"{P}TextLine/{P}Coords").get("points") == "10,10 150,10 150,15 10,15"
    assert first.find(f"{P}TextLine/{P}TextEquiv").get("conf") == "0.5000"
    assert first.find(f"{P}TextEquiv").get("conf") == "0.7500"
    assert first.findtext(f"{P}TextEquiv/{P}Unicode") == "\n".join(lines)


def test_text_of_a_table_in_page_xml_lies_in_a_text_region_of_its_own():
    root = etree.fromstring(made("page-xml", TABLE))
    inner = root.find(f"{P}Page/{P}TableRegion/{P}TextRegion")
    assert [each.text for each in inner.iter(f"{P}Unicode")] == ["1 2", "3 4", "1 2\n3 4"]


def test_alto_has_blocks_lines_and_confidences():
    root = etree.fromstring(made("alto", REGIONS))
    space = root.find(f".//{A}PrintSpace")
    kinds = [etree.QName(each).localname for each in space]
    assert kinds == [*["TextBlock"] * 4, "Illustration", "TextBlock", "Illustration", "TextBlock"]
    strings = [dict(each.attrib) for each in space[0].iter(f"{A}String")]
    assert strings[1] == {
        "CONTENT": "läßt\ufffd 漢字 \ufffd <&>",
        "WC": "0.5000",
        **{"HPOS": "10.25", "VPOS": "15.00", "WIDTH": "140.25", "HEIGHT": "5.00"},
    }
    assert [
        etree.QName(each).localname
        for each in etree.fromstring(made("alto", TABLE)).iter(f"{A}TextBlock", f"{A}Illustration")
    ] == ["TextBlock", "TextBlock"]


def test_points_stay_within_the_page():
    wide = [region(0, "text", None, [-5, -5, 210, -5, 210, 310, -5, 310], (-5.0, -5.0, 210, 310))]
    root = etree.fromstring(made("page-xml", wide))
    assert root.find(f".//{P}TextRegion/{P}Coords").get("points") == "0,0 200,0 200,300 0,300"


@pytest.mark.parametrize(("form", "name"), [("page-xml", "pagecontent.xsd"), ("alto", "alto.xsd")])
def test_files_are_valid(form, name):
    folder = os.environ.get("SCANMILL_XSD")
    if not folder:
        pytest.skip("SCANMILL_XSD names no folder with the schemas of PAGE-XML and ALTO")
    options = {"locations": {"http://www.w3.org/1999/xlink": str(Path(folder, "xlink.xsd"))}}
    schema = xmlschema.XMLSchema(Path(folder, name), **options)
    for regions in (REGIONS, TABLE, []):
        schema.validate(etree.fromstring(made(form, regions)))

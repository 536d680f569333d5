"""Annotations of every format, whole and broken."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from scanmill.annotations import KINDS, annotation_files, image_path, read_annotations
from scanmill.errors import UserError

DATA = Path(__file__).parents[3] / "shared/data"
PAGE_2019 = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
PAGE_2010 = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2010-03-19"
TRIANGLE = (10.0, 10.0, 90.0, 10.0, 50.0, 60.0)


def real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def write(folder, content, name="a.json"):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder, content, name="a.json"):
    return read_annotations([write(folder, content, name)])


def coco(*annotations, images=None, categories=None):
    image = {"id": 1, "file_name": "p.jpg", "width": 100, "height": 200}
    return {
        "images": [image] if images is None else images,
        "categories": categories or [{"id": 1, "name": "text"}, {"id": 2, "name": "table"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 80, 50], **each}
            for number, each in enumerate(annotations, 41)
        ],
    }


def found(annotations):
    """(kind, severity, name of the file, image, annotation) of each problem."""
    return [
        (each.kind, each.severity, Path(each.file).name, each.image, each.annotation)
        for each in annotations.problems
    ]


def only_region(annotations):
    [page] = annotations.pages
    [region] = page.regions
    return region


# COCO ---------------------------------------------------------------------------------------------


def test_coco(tmp_path):
    content = coco({"segmentation": [list(TRIANGLE)]}, {"category_id": 2})
    content["images"][0] |= {"document": "a/b.pdf", "page": 3}
    pages, problems = read(tmp_path, content)
    assert not problems
    [page] = pages
    assert page[1:4] == ("p.jpg", 100, 200)
    assert (page.document, page.page, page.percent) == ("a/b.pdf", 3, False)
    assert page.file == str(tmp_path / "a.json")
    assert page.regions == (
        ("41", "text", (10, 10, 90, 60), (TRIANGLE,)),
        ("42", "table", (10, 10, 90, 60), ()),
    )


def test_coco_as_label_studio_exports_it(tmp_path):
    content = coco(
        {"id": 0, "image_id": 0, "category_id": 0, "segmentation": []},
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[10, 10, 80, 50]]},
        images=[{"id": 0, "file_name": "images\\3f2a9c1b-p.jpg", "width": 0, "height": None}],
        categories=[{"id": 0, "name": "text"}, {"id": 1, "name": "table"}],
    )
    pages, problems = read(tmp_path, content)
    assert not problems
    assert [(page.image, page.width, page.height) for page in pages] == [
        ("images\\3f2a9c1b-p.jpg", None, None)
    ]
    assert [region[:3] for region in pages[0].regions] == [
        ("0", "text", (10, 10, 90, 60)),
        ("1", "table", (10, 10, 90, 60)),
    ]
    assert [region.polygons for region in pages[0].regions] == [(), ()]


def test_category_orders_of_two_files_do_not_matter(tmp_path):
    one = write(tmp_path, coco({}), "one.json")
    turned = [{"id": 1, "name": "table"}, {"id": 2, "name": " text "}]
    two = write(tmp_path, coco({"category_id": 2}, categories=turned), "two.json")
    pages, _ = read_annotations([one, two])
    assert [page.regions[0].class_name for page in pages] == ["text", "text"]


BROKEN = [
    ({"category_id": 7}, "unknown_category"),
    ({"category_id": None}, "unknown_category"),
    ({"category_id": [1]}, "unknown_category"),
    ({"image_id": 9}, "unknown_image"),
    ({"image_id": {}}, "unknown_image"),
    ({"bbox": [1, 2, 3]}, "malformed_annotation"),
    ({"bbox": [1, 2, 3, "4"]}, "malformed_annotation"),
    ({"bbox": [1, 2, 3, float("nan")]}, "malformed_annotation"),
    ({"bbox": [1, 2, 3, 10**400]}, "malformed_annotation"),
    ({"bbox": {"x": 1}}, "malformed_annotation"),
    ({"bbox": None}, "malformed_annotation"),
    ({"bbox": [], "segmentation": [[1, 2, 3, 4]]}, "malformed_annotation"),
    ({"bbox": None, "segmentation": {"counts": [1], "size": [1, 1]}}, "unsupported_shape"),
    ({"iscrowd": 1}, "crowd"),
]


@pytest.mark.parametrize(("fault", "kind"), BROKEN)
def test_broken_annotation_of_coco_is_named_and_the_others_stay(tmp_path, fault, kind):
    annotations = read(tmp_path, coco({}, fault, {}))
    image = "" if kind == "unknown_image" else "p.jpg"
    assert found(annotations) == [(kind, "error", "a.json", image, "42")]
    assert [region.annotation for region in annotations.pages[0].regions] == ["41", "43"]


MENDED = [
    ({"segmentation": [[1, 2, 3, 4, 5]]}, "bad_polygon"),
    ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "bad_polygon"),
    ({"segmentation": "1 2 3 4 5 6"}, "bad_polygon"),
    ({"segmentation": {"counts": "abc", "size": [200, 100]}}, "unsupported_shape"),
]


@pytest.mark.parametrize(("fault", "kind"), MENDED)
def test_of_an_odd_polygon_the_box_is_taken(tmp_path, fault, kind):
    annotations = read(tmp_path, coco(fault))
    assert found(annotations) == [(kind, "warning", "a.json", "p.jpg", "41")]
    assert only_region(annotations)[2:] == ((10, 10, 90, 60), ())


def test_good_parts_of_a_polygon_stay(tmp_path):
    annotations = read(tmp_path, coco({"segmentation": [[1, 2], list(TRIANGLE)]}))
    assert found(annotations) == [("bad_polygon", "warning", "a.json", "p.jpg", "41")]
    assert only_region(annotations).polygons == (TRIANGLE,)


def test_box_comes_from_the_polygon_where_there_is_none_or_another(tmp_path):
    outline = {"segmentation": [list(TRIANGLE)]}
    annotations = read(tmp_path, coco({"bbox": None, **outline}))
    assert only_region(annotations).box == (10, 10, 90, 60)
    assert not annotations.problems
    # x_min, y_min, x_max, y_max in place of x, y, width, height.
    annotations = read(tmp_path, coco({"bbox": [10, 10, 90, 160], **outline}))
    assert only_region(annotations).box == (10, 10, 90, 60)
    assert found(annotations) == [("box_differs", "warning", "a.json", "p.jpg", "41")]


def test_broken_images_and_ids_of_coco(tmp_path):
    images = [
        {"id": 1, "file_name": "p.jpg"},
        {"id": 1, "file_name": "q.jpg"},
        {"id": 2},
        "nonsense",
        {"id": True, "file_name": "r.jpg"},
    ]
    annotations = read(tmp_path, coco({"id": 5}, {"id": 5}, {"id": None}, images=images))
    assert found(annotations) == [
        ("duplicate_id", "error", "a.json", "q.jpg", ""),
        ("malformed_image", "error", "a.json", "", ""),
        ("malformed_image", "error", "a.json", "", ""),
        ("malformed_image", "error", "a.json", "", ""),
        ("duplicate_id", "warning", "a.json", "p.jpg", "5"),
    ]
    assert [region.annotation for region in annotations.pages[0].regions] == ["5", "5", "#3"]


# Label Studio -------------------------------------------------------------------------------------


def rectangle(identity="r1", x=10, y=20, width=30, height=40, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    value["rectanglelabels"] = ["text"]
    value |= more.pop("value", {})
    size = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    return {"id": identity, "type": "rectanglelabels", "value": value, **size, **more}


def task(*results, **data):
    data = {"image": "/data/upload/1/3f2a9c1b-p.jpg", **data}
    return {"id": 7, "data": data, "annotations": [{"id": 1, "result": list(results)}]}


def test_label_studio(tmp_path):
    polygon = {
        "id": "r2",
        "type": "polygonlabels",
        "value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["table"]},
    }
    choice = {"id": "r3", "type": "choices", "value": {"choices": ["good"]}}
    content = [task(rectangle(), polygon, choice, document="a.pdf", page="4")]
    pages, problems = read(tmp_path, content)
    assert not problems
    [page] = pages
    assert page.image == "/data/upload/1/3f2a9c1b-p.jpg"
    assert (page.width, page.height, page.percent) == (200, 100, True)
    assert (page.document, page.page) == ("a.pdf", 4)
    assert page.regions == (
        ("r1", "text", (10, 20, 40, 60), ()),
        ("r2", "table", (0, 0, 50, 50), ((0, 0, 50, 0, 50, 50),)),
    )


def test_turned_rectangle_of_label_studio(tmp_path):
    # 60 x 40 pixels of 200 x 100, turned clockwise by 90 degrees about (100, 20).
    turned = rectangle(x=50, y=20, value={"rotation": 90})
    region = only_region(read(tmp_path, [task(turned)]))
    expected = (50, 20, 50, 80, 30, 80, 30, 20)
    assert region.polygons[0] == pytest.approx(expected)
    assert region.box == pytest.approx((30, 20, 50, 80))


def test_separate_labels_and_transcripts_are_one_region(tmp_path):
    place = {"x": 10, "y": 20, "width": 30, "height": 40}
    results = [
        {"id": "r1", "type": "textarea", "value": {**place, "text": ["Anno 1592"]}},
        {"id": "r1", "type": "rectangle", "value": place},
        {"id": "r1", "type": "labels", "value": {**place, "labels": ["text"]}},
    ]
    annotations = read(tmp_path, [task(*results)])
    assert only_region(annotations) == ("r1", "text", (10, 20, 40, 60), ())
    assert not annotations.problems


BROKEN_RESULTS = [
    (rectangle("bad", value={"rectanglelabels": []}), "malformed_annotation"),
    (rectangle("bad", x=None), "malformed_annotation"),
    (rectangle("bad", value={"rotation": "left"}), "malformed_annotation"),
    (rectangle("bad", value={"rotation": 5}, original_width=None), "malformed_annotation"),
    (rectangle("bad", value={"points": [[1, 2], [3]]}), "malformed_annotation"),
    ({"id": "bad", "type": "rectanglelabels"}, "malformed_annotation"),
    (rectangle("bad", image_rotation=90), "unsupported_shape"),
    (
        {"id": "bad", "type": "ellipselabels", "value": {"x": 1, "radiusX": 2}},
        "unsupported_shape",
    ),
    ({"id": "bad", "type": "brushlabels", "value": {"rle": [1]}}, "unsupported_shape"),
]


@pytest.mark.parametrize(("result", "kind"), BROKEN_RESULTS)
def test_broken_result_of_label_studio_is_named(tmp_path, result, kind):
    annotations = read(tmp_path, [task(rectangle(), result)])
    image = "/data/upload/1/3f2a9c1b-p.jpg"
    assert found(annotations) == [(kind, "error", "a.json", image, "bad")]
    assert only_region(annotations).annotation == "r1"


def test_several_labels_of_a_region(tmp_path):
    annotations = read(tmp_path, [task(rectangle(value={"rectanglelabels": ["a", "b"]}, id="r9"))])
    assert only_region(annotations).class_name == "a"
    assert [each[0] for each in found(annotations)] == ["several_classes"]
    assert annotations.problems[0].annotation == "r9"


def test_tasks_without_annotations_are_not_empty_pages(tmp_path):
    empty, nobody, skipped, no_image = task(), task(), task(), task()
    nobody["annotations"] = []
    skipped["annotations"][0]["was_cancelled"] = True
    no_image["data"] = {"text": "hello"}
    annotations = read(tmp_path, [empty, nobody, skipped, no_image])
    assert [len(page.regions) for page in annotations.pages] == [0]
    kinds = [(each.kind, each.severity) for each in annotations.problems]
    assert kinds == [
        ("not_annotated", "warning"),
        ("not_annotated", "warning"),
        ("malformed_image", "error"),
    ]


def test_of_several_annotations_the_truth_or_the_last_is_taken(tmp_path):
    def version(name, day, **more):
        return {
            "id": name,
            "result": [rectangle(name)],
            "updated_at": f"2026-01-0{day}T00:00:00Z",
            **more,
        }

    content = task()
    content["annotations"] = [version("old", 1), version("new", 3), version("mid", 2)]
    annotations = read(tmp_path, [content])
    assert only_region(annotations).annotation == "new"
    assert [each[0] for each in found(annotations)] == ["several_annotations"]
    content["annotations"][0]["ground_truth"] = True
    assert only_region(read(tmp_path, [content])).annotation == "old"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/data/upload/1/3f2a9c1b-p.jpg", "/data/upload/1/3f2a9c1b-p.jpg"),
        ("/data/local-files/?d=scans/a%20b.jpg", "scans/a b.jpg"),
        ("http://localhost:8080/data/upload/1/x-%C3%A4.jpg", "/data/upload/1/x-ä.jpg"),
        ("s3://bucket/scans/p.jpg", "/scans/p.jpg"),
        ("images\\p.jpg", "images/p.jpg"),
        ("100%.jpg", "100%.jpg"),
    ],
)
def test_paths_of_images(name, path):
    assert image_path(name) == path


# PAGE-XML -----------------------------------------------------------------------------------------


def page_xml(*regions, namespace=PAGE_2019, image='imageFilename="p.jpg"', before=""):
    return (
        f'{before}<PcGts xmlns="{namespace}"><Page {image} imageWidth="100" imageHeight="200">'
        f"<ReadingOrder><OrderedGroup/></ReadingOrder>{''.join(regions)}</Page></PcGts>"
    )


COORDS = '<Coords points="10,10 90,10 50,60"/>'


def test_page_xml(tmp_path):
    content = page_xml(
        f'<TextRegion id="r1" type="paragraph">{COORDS}'
        f'<TextRegion id="r2" type="heading">{COORDS}</TextRegion>'
        f'<TextLine id="l1">{COORDS}</TextLine></TextRegion>',
        *(
            f'<{name}Region id="{name}" type="x">{COORDS}</{name}Region>'
            for name in ("Image", "Table", "Separator", "Graphic")
        ),
        f'<TextRegion id="r3">{COORDS}</TextRegion>',
        f'<TextRegion id="r4" custom="readingOrder {{index:0;}} structure {{type:note;}}">{COORDS}'
        "</TextRegion>",
    )
    pages, problems = read(tmp_path, content, "p.xml")
    assert not problems
    [page] = pages
    assert page[1:4] == ("p.jpg", 100, 200)
    assert {region.annotation: region.class_name for region in page.regions} == {
        "r1": "paragraph",
        "r2": "heading",
        "Image": "ImageRegion",
        "Table": "TableRegion",
        "Separator": "SeparatorRegion",
        "Graphic": "GraphicRegion",
        "r3": "TextRegion",
        "r4": "note",
    }
    assert page.regions[0][2:] == ((10, 10, 90, 60), (TRIANGLE,))


def test_old_page_xml_with_points(tmp_path):
    points = "".join(f'<Point x="{x}" y="{y}"/>' for x, y in ((10, 10), (90, 10), (50, 60)))
    content = page_xml(
        f'<TextRegion id="r1" type="paragraph"><Coords>{points}</Coords></TextRegion>',
        namespace=PAGE_2010,
    )
    region = only_region(read(tmp_path, content.encode("utf-16"), "p.xml"))
    assert region == ("r1", "paragraph", (10, 10, 90, 60), (TRIANGLE,))


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "<Coords/>",
        '<Coords points=""/>',
        '<Coords points="1,2 3,4"/>',
        '<Coords points="1,2 3,4 5"/>',
        '<Coords points="1,2 3,4 5,x"/>',
        '<Coords points="1,2 3,4 5,nan"/>',
        '<Coords points="1,2 3,4 5,1e999"/>',
    ],
)
def test_broken_region_of_page_xml_is_named(tmp_path, inside):
    content = page_xml(
        f'<TextRegion id="good">{COORDS}</TextRegion><TextRegion id="bad">{inside}</TextRegion>'
    )
    annotations = read(tmp_path, content, "p.xml")
    assert found(annotations) == [("malformed_annotation", "error", "p.xml", "p.jpg", "bad")]
    assert only_region(annotations).annotation == "good"


def test_page_xml_without_an_image(tmp_path):
    assert found(read(tmp_path, page_xml(image=""), "p.xml")) == [
        ("malformed_image", "error", "p.xml", "", "")
    ]
    assert found(read(tmp_path, "<PcGts/>", "p.xml")) == [
        ("malformed_image", "error", "p.xml", "", "")
    ]


# ALTO ---------------------------------------------------------------------------------------------


def alto(*blocks, unit="pixel", version=4, image="p.jpg"):
    return (
        f'<alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#"><Description>'
        f"<MeasurementUnit>{unit}</MeasurementUnit><sourceImageInformation>"
        f"<fileName>{image}</fileName></sourceImageInformation></Description><Tags>"
        '<OtherTag ID="BT1" LABEL="MainZone:column#2" DESCRIPTION="block type"/>'
        '<LayoutTag ID="BT2" LABEL="GraphicZone"/><OtherTag ID="BT3" LABEL=""/>'
        '<NamedEntityTag ID="NE1" LABEL="Paris"/></Tags>'
        '<Layout><Page WIDTH="100" HEIGHT="200" ID="p1"><PrintSpace>'
        f"{''.join(blocks)}</PrintSpace></Page></Layout></alto>"
    )


PLACE = 'HPOS="10" VPOS="10" WIDTH="80" HEIGHT="50"'
SHAPE = '<Shape><Polygon POINTS="{}"/></Shape>'


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("points", ["10 10 90 10 50 60", "10,10 90,10 50,60"])
def test_alto(tmp_path, version, points):
    content = alto(
        f'<TextBlock ID="b1" {PLACE} TAGREFS="NE1 BT1">{SHAPE.format(points)}'
        '<TextLine ID="l1" TAGREFS="BT2"/></TextBlock>',
        f'<ComposedBlock ID="b2" {PLACE} TYPE="table">'
        f'<GraphicalElement ID="b3" {PLACE}/></ComposedBlock>',
        f'<Illustration ID="b4" {PLACE} TAGREFS="BT2"/>',
        f'<TextBlock ID="b5" TAGREFS="BT3">{SHAPE.format(points)}</TextBlock>',
        '<TextBlock ID="eSc_dummyblock_"><TextLine/></TextBlock>',
        version=version,
    )
    pages, problems = read(tmp_path, content, "p.xml")
    assert not problems
    [page] = pages
    assert page[1:4] == ("p.jpg", 100, 200)
    box = (10, 10, 90, 60)
    assert page.regions == (
        ("b1", "MainZone:column", box, (TRIANGLE,)),
        ("b2", "table", box, ()),
        ("b3", "GraphicalElement", box, ()),
        ("b4", "GraphicZone", box, ()),
        ("b5", "TextBlock", box, (TRIANGLE,)),
    )


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (f'<TextBlock ID="bad" {PLACE} TAGREFS="BT9"/>', "unknown_category"),
        ('<TextBlock ID="bad" TAGREFS="BT1"/>', "malformed_annotation"),
        ('<TextBlock ID="bad" HPOS="1" VPOS="2" WIDTH="3"/>', "malformed_annotation"),
        (f'<TextBlock ID="bad" {PLACE.replace("80", "wide")}/>', "malformed_annotation"),
        (
            f'<TextBlock ID="bad" {PLACE}>{SHAPE.format("1 2 3")}</TextBlock>',
            "malformed_annotation",
        ),
    ],
)
def test_broken_block_of_alto_is_named(tmp_path, block, kind):
    annotations = read(tmp_path, alto(f'<TextBlock ID="good" {PLACE}/>', block), "p.xml")
    assert found(annotations) == [(kind, "error", "p.xml", "p.jpg", "bad")]
    assert only_region(annotations).annotation == "good"


def test_two_tags_of_a_block(tmp_path):
    annotations = read(tmp_path, alto(f'<TextBlock ID="b" {PLACE} TAGREFS="BT2 BT1"/>'), "p.xml")
    assert only_region(annotations).class_name == "GraphicZone"
    assert found(annotations) == [("several_classes", "warning", "p.xml", "p.jpg", "b")]


@pytest.mark.parametrize("unit", ["mm10", "inch1200", ""])
def test_alto_that_is_not_in_pixels_is_refused_with_the_reason(tmp_path, unit):
    annotations = read(tmp_path, alto(f'<TextBlock ID="b" {PLACE}/>', unit=unit), "p.xml")
    assert not annotations.pages
    assert found(annotations) == [("unsupported_unit", "error", "p.xml", "", "")]
    assert "only `pixel`" in annotations.problems[0].message
    assert unit in annotations.problems[0].message


def test_alto_without_an_image(tmp_path):
    assert found(read(tmp_path, alto(image=""), "p.xml")) == [
        ("malformed_image", "error", "p.xml", "", "")
    ]


# Files --------------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">'
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "doctype",
    [
        BOMB + "]>",
        '<!DOCTYPE z [<!ENTITY i SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE z SYSTEM "http://127.0.0.1:1/z.dtd">',
        '<!DOCTYPE z [<!ENTITY % i SYSTEM "file:///etc/passwd"> %i;]>',
    ],
)
def test_document_types_are_refused(tmp_path, doctype):
    inside = "&i;" if "ENTITY i" in doctype else "x"
    region = f'<TextRegion id="r">{COORDS}<Unicode>{inside}</Unicode></TextRegion>'
    content = page_xml(region, before=doctype)
    started = time.perf_counter()
    annotations = read(tmp_path, content, "p.xml")
    assert time.perf_counter() - started < 1
    assert not annotations.pages
    assert found(annotations) == [("unreadable_file", "error", "p.xml", "", "")]
    assert "DOCTYPE" in annotations.problems[0].message


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "unknown_format"),
        (b"hello", "unknown_format"),
        (b"{}", "unknown_format"),
        (b"[]", "unknown_format"),
        (b"[1, 2]", "unknown_format"),
        (b'{"images": 3}', "unknown_format"),
        (b"<html/>", "unknown_format"),
        (b"{", "unreadable_file"),
        (b'{"a": "\xff"}', "unreadable_file"),
        (b"[" * 200_000, "unreadable_file"),
        (b"<PcGts>", "unreadable_file"),
        (b"<PcGts>&i;</PcGts>", "unreadable_file"),
        (b'<?xml version="1.0" encoding="nonsense"?><PcGts/>', "unreadable_file"),
        (b"<" + b"\0" * 50, "unreadable_file"),
    ],
)
def test_file_that_is_none_is_a_problem_and_the_next_is_read(tmp_path, content, kind):
    bad = write(tmp_path, content, "bad.json")
    good = write(tmp_path, coco({}), "good.json")
    annotations = read_annotations([bad, good])
    assert found(annotations) == [(kind, "error", "bad.json", "", "")]
    assert len(annotations.pages) == 1


def test_bytes_before_the_text_do_not_matter(tmp_path):
    text = json.dumps(coco({}))
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        assert read(tmp_path, text.encode(encoding)).pages
    assert read(tmp_path, b"\n  " + page_xml().encode(), "p.xml").pages


@pytest.mark.parametrize("make", [dict, list, lambda: None, lambda: 3, lambda: [None, 3, {}]])
def test_lists_that_are_something_else_do_not_crash(tmp_path, make):
    content = coco({})
    for key in ("annotations", "categories"):
        annotations = read(tmp_path, {**content, key: make()})
        assert annotations.pages[0].regions == ()
    broken = task(rectangle())
    for key in ("annotations", "data"):
        read(tmp_path, [task(), {**broken, key: make()}])
    broken["annotations"][0]["result"] = make()
    read(tmp_path, [broken])


def test_folders_and_missing_files(tmp_path):
    write(tmp_path, coco({}), "b.JSON")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", page_xml(), "a.xml")
    write(tmp_path, "notes", "readme.txt")
    names = [path.relative_to(tmp_path).as_posix() for path in annotation_files([tmp_path])]
    assert names == ["b.JSON", "sub/a.xml"]
    twice = annotation_files([tmp_path / "b.JSON", tmp_path])
    assert len(twice) == 2
    with pytest.raises(UserError, match=r"no\.json.*no such file"):
        read_annotations([tmp_path / "no.json"])
    with pytest.raises(UserError, match="There are no annotations in"):
        read_annotations([])


def test_every_kind_is_said_what_it_is():
    source = Path(__file__).parents[2].joinpath("scripts/scanmill")
    text = "".join((source / name).read_text() for name in ("annotations.py", "coco.py"))
    assert all(text.count(f'"{kind}"') >= 2 for kind in KINDS)


# Real data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pages", "regions", "classes"),
    [
        ("cremma_books/coco.json", 88, 376, 10),
        ("gbn_newspapers/coco.json", 34, 2529, 4),
        ("ndl_docl_samples/coco.json", 21, 662, 8),
    ],
)
def test_real_coco(name, pages, regions, classes):
    annotations = read_annotations([real(name)])
    names = Counter(each.class_name for page in annotations.pages for each in page.regions)
    assert (len(annotations.pages), names.total(), len(names)) == (pages, regions, classes)
    assert not annotations.problems


def test_real_page_xml_is_what_its_coco_says():
    folder = real("gbn_newspapers")
    from_coco = read_annotations([folder / "coco.json"])
    from_page = read_annotations([folder / "data"])
    assert not from_page.problems

    def boxes(annotations):
        return {
            Path(page.image).name: sorted((each.class_name, each.box) for each in page.regions)
            for page in annotations.pages
        }

    expected = boxes(from_coco)
    assert boxes(from_page).keys() == expected.keys()
    for name, regions in boxes(from_page).items():
        assert [region[0] for region in regions] == [region[0] for region in expected[name]]
        for region, same in zip(regions, expected[name], strict=True):
            assert region[1] == pytest.approx(same[1], abs=0.1)

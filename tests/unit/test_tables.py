"""Schemas, Parquet files, content digests."""

import os
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scanmill.errors import UserError
from scanmill.tables import (
    REASONS,
    SCHEMA_VERSION,
    SCHEMAS,
    TableWriter,
    by_document,
    by_page,
    check_schema_version,
    content_digest,
    digest_json,
    failed,
    from_rows,
    read_metadata,
    read_table,
    write_table,
)

IMAGE_COLUMNS = (
    "image string, width int32, height int32, dpi_x float, dpi_y float, source string, "
    "engine string, rotation int32, page_width_pt double, page_height_pt double, "
    "to_pdf 6 double, sha256 string"
)
DETECTION_COLUMNS = (
    "document string, page int32, detection int32, class_id int32, class_name string, "
    "score float, x_min float, y_min float, x_max float, y_max float, polygon list int32"
)
CROP_COLUMNS = (
    "document string, page int32, detection int32, class_name string, x_min int32, y_min int32, "
    "x_max int32, y_max int32, width int32, height int32, status string, reason string, "
    "message string"
)
OUTCOME = "document string, page int32, status string, stage string, reason string, message string"
#: As the documentation promises them: people's scripts rely on names, order and types.
COLUMNS = {
    "images": f"{OUTCOME}, {IMAGE_COLUMNS}",
    "detections": DETECTION_COLUMNS,
    "detected_pages": f"{OUTCOME}, n_detections int32, capped bool, n_proposals int32, "
    "precision string, device string, type_height float, ink 1024 uint8",
    "regions": f"{DETECTION_COLUMNS}, region int32",
    "pages": f"{OUTCOME}, {IMAGE_COLUMNS}, n_detections int32, n_regions int32, capped bool, "
    "type_height float, flags list string",
    "crops": f"{CROP_COLUMNS}, path string",
    "crop_images": f"{CROP_COLUMNS}, image struct",
    "ocr": "document string, page int32, detection int32, class_name string, status string, "
    "reason string, message string, text string, confidence float, source string, engine string, "
    "language string, lines list struct<text: string, confidence: float, x_min: float, y_min: float, "
    "x_max: float, y_max: float>",
    "documents": "document string, path string, bytes int64, sha256 string, pages int32, "
    "pages_ok int32, pages_failed int32, regions int32, status string, reason string",
    "failures": "document string, page int32, stage string, reason string, message string",
    "dataset": "split string, document string, page int32, file_name string, image_id int32, "
    "annotation_id int32, class_id int32, class_name string, x_min float, y_min float, x_max float, "
    "y_max float, polygon list float, page_width int32, page_height int32",
    "problems": "kind string, severity string, file string, image string, annotation string, "
    "message string",
}
DIGESTED = sorted(set(SCHEMAS) - {"crop_images", "ocr"})


def describe(kind):
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} {kind.value_type}"
    if pa.types.is_list(kind):
        return f"list {kind.value_type}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def test_schemas_are_those_documented():
    found = {
        name: ", ".join(f"{field.name} {describe(field.type)}" for field in schema)
        for name, schema in SCHEMAS.items()
    }
    assert found == COLUMNS


def test_crop_images_are_what_hugging_face_datasets_decode():
    kind = SCHEMAS["crop_images"].field("image").type
    assert [(field.name, str(field.type)) for field in kind] == [
        ("bytes", "binary"),
        ("path", "string"),
    ]


def value_of(kind, rng):
    """A value of an Arrow type, null now and then."""
    if rng.random() < 0.25:
        return None
    if pa.types.is_fixed_size_list(kind):
        return [present_value(kind.value_type, rng) for _ in range(kind.list_size)]
    return present_value(kind, rng)


def present_value(kind, rng):
    if pa.types.is_list(kind):
        return [present_value(kind.value_type, rng) for _ in range(rng.randrange(4))]
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type, rng) for field in kind}
    if pa.types.is_binary(kind):
        return rng.randbytes(5)
    if pa.types.is_string(kind):
        return rng.choice(["", "a", "ab", "Gärten", "ok"])
    if pa.types.is_boolean(kind):
        return rng.random() < 0.5
    if pa.types.is_floating(kind):
        return float(np.float32(rng.uniform(-10, 10)))
    return rng.randrange(200)


def make_rows(name, count, seed=0):
    rng = random.Random(seed)
    return [
        {field.name: value_of(field.type, rng) for field in SCHEMAS[name]} for _ in range(count)
    ]


@pytest.fixture(params=sorted(SCHEMAS))
def name(request):
    return request.param


def test_rows_come_back(name, tmp_path):
    rows = make_rows(name, 30)
    path = tmp_path / "folder" / "table.parquet"
    write_table(from_rows(name, rows), path)
    table = read_table(path)
    assert table.schema.remove_metadata().equals(SCHEMAS[name])
    assert table.to_pylist() == rows
    assert os.listdir(path.parent) == ["table.parquet"]
    first = table.schema.names[:2]
    assert read_table(path, first).equals(table.select(first))
    write_table(SCHEMAS[name].empty_table(), path)
    assert read_table(path).num_rows == 0
    assert read_table(path).schema.remove_metadata().equals(SCHEMAS[name])


def test_missing_columns_are_null_and_unknown_ones_errors():
    table = from_rows("failures", [{"document": "a.pdf"}, {"page": 2}])
    assert table["document"].to_pylist() == ["a.pdf", None]
    assert table["reason"].null_count == 2
    with pytest.raises(ValueError, match=r"failures has no column \['pagse'\]"):
        from_rows("failures", [{"document": "a.pdf"}, {"pagse": 2}])
    with pytest.raises(pa.ArrowInvalid):
        from_rows("failures", [{"page": 1 << 40}])


def test_equal_tables_are_equal_bytes(name, tmp_path):
    table = from_rows(name, make_rows(name, 100))
    write_table(table, tmp_path / "a", {"model": "x", "code": "y"})
    write_table(from_rows(name, make_rows(name, 100)), tmp_path / "b", {"code": "y", "model": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pieces_are_row_groups_of_the_same_rows(name, tmp_path):
    table = from_rows(name, make_rows(name, 100))
    with TableWriter(tmp_path / "pieces", table.schema) as writer:
        for start in range(0, 100, 30):
            writer.write(table.slice(start, 30))
    write_table(table, tmp_path / "whole")
    pieces = read_table(tmp_path / "pieces")
    assert pieces.equals(read_table(tmp_path / "whole"))
    assert pq.ParquetFile(tmp_path / "pieces").num_row_groups == 4
    if name in DIGESTED:
        assert content_digest(pieces) == content_digest(table)


def test_metadata_stand_under_scanmill(tmp_path):
    path = tmp_path / "table.parquet"
    table = from_rows("failures", []).replace_schema_metadata({"pandas": "{}"})
    write_table(table, path, {"model": "scanmill-layout", "classes": '["Gärten"]'})
    assert read_metadata(path) == {
        "model": "scanmill-layout",
        "classes": '["Gärten"]',
        "schema_version": SCHEMA_VERSION,
    }
    metadata = pq.read_schema(path).metadata
    assert metadata[b"scanmill.model"] == b"scanmill-layout"
    assert b"pandas" not in metadata


def test_other_columns_are_not_written(tmp_path):
    table = from_rows("failures", make_rows("failures", 3))
    with (
        pytest.raises(ValueError, match="page"),
        TableWriter(tmp_path / "table", SCHEMAS["failures"]) as writer,
    ):
        writer.write(table.drop_columns("page"))
    assert not os.listdir(tmp_path)


def test_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.parquet"
    table = from_rows("failures", make_rows("failures", 10))
    write_table(table, path)
    before = path.read_bytes()

    def write(error):
        with TableWriter(path, table.schema) as writer:
            writer.write(table)
            writer.write(table)
            assert path.read_bytes() == before
            if error:
                raise error

    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(error)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["table.parquet"]
    write(None)
    assert read_table(path).num_rows == 20
    assert os.listdir(tmp_path) == ["table.parquet"]


def test_damaged_file_names_itself_and_the_remedy(tmp_path):
    path = tmp_path / "table.parquet"
    write_table(from_rows("detections", make_rows("detections", 200)), path)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], b"x" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{re.escape(str(path))} is damaged.*Delete it"):
            read_table(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_table(path)


def test_flipped_bit_in_a_column_is_noticed(tmp_path):
    path = tmp_path / "table.parquet"
    write_table(from_rows("detections", make_rows("detections", 200)), path)
    whole = path.read_bytes()
    metadata = pq.read_metadata(path).row_group(0)
    for index in range(metadata.num_columns):
        column = metadata.column(index)
        data = bytearray(whole)
        # The last byte of a column chunk is one of its values, beyond the header.
        start = column.dictionary_page_offset or column.data_page_offset
        data[start + column.total_compressed_size - 1] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            read_table(path)


# Cutting tables -----------------------------------------------------------------------------------


def key_rows(*keys):
    return from_rows("regions", [{"document": document, "page": page} for document, page in keys])


def test_tables_are_cut_by_document_and_page():
    table = key_rows(("b", 1), ("b", 1), ("b", 3), ("a", 1), ("c", 2))
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    for each in (table, chunked):
        slices = by_document(each)
        assert list(slices) == ["b", "a", "c"]
        assert [part.num_rows for part in slices.values()] == [3, 1, 1]
        assert slices["a"].to_pylist() == table.slice(3, 1).to_pylist()
        pages = by_page(slices["b"])
        assert {page: part.num_rows for page, part in pages.items()} == {1: 2, 3: 1}
        # Slices of a slice start where they should.
        assert by_page(by_document(each.slice(2))["b"])[3].to_pylist() == [table.to_pylist()[2]]
    assert by_page(key_rows(("a", None)))[None].num_rows == 1
    assert by_document(table.slice(0, 0)) == by_page(table.slice(0, 0)) == {}
    assert by_document(SCHEMAS["regions"].empty_table()) == {}


def test_rows_that_are_not_together_are_an_error():
    with pytest.raises(ValueError, match="rows of document a are not together"):
        by_document(key_rows(("a", 1), ("b", 1), ("a", 2)))
    with pytest.raises(ValueError, match="rows of page 1 are not together"):
        by_page(key_rows(("a", 1), ("a", 2), ("a", 1)))


# Digests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIGESTED)
def test_digest_is_of_the_values_alone(name, tmp_path):
    rows = make_rows(name, 60)
    table = from_rows(name, rows)
    digest = content_digest(table)
    write_table(table, tmp_path / "table")
    other = from_rows(name, make_rows(name, 20, seed=1))
    embedded = pa.concat_tables([other, table, other])
    equal = {
        "read": read_table(tmp_path / "table"),
        "chunked": pa.concat_tables([table.slice(0, 7), table.slice(7, 0), table.slice(7)]),
        "sliced": embedded.slice(20, 60),
        "combined slice": embedded.combine_chunks().slice(20, 60),
        "metadata": table.replace_schema_metadata({"a": "b"}),
        "taken": table.take(pa.array(range(60))),
    }
    for how, same in equal.items():
        assert content_digest(same) == digest, how
    assert content_digest(table, table.schema.names) == digest
    assert content_digest(table.slice(0, 0)) == content_digest(SCHEMAS[name].empty_table())
    empty = pa.table({field.name: pa.chunked_array([], field.type) for field in SCHEMAS[name]})
    assert content_digest(empty) == content_digest(SCHEMAS[name].empty_table())


@pytest.mark.parametrize("name", DIGESTED)
def test_digest_tells_every_changed_cell(name):
    rows = make_rows(name, 6)
    digests = {content_digest(from_rows(name, rows))}
    changes = 0
    for index, row in enumerate(rows):
        for field in SCHEMAS[name]:
            old = row[field.name]
            for new in alternatives(old, field.type):
                changed = [*rows[:index], {**row, field.name: new}, *rows[index + 1 :]]
                digests.add(content_digest(from_rows(name, changed)))
                changes += 1
    assert len(digests) == changes + 1


def alternatives(value, kind):
    """Other values of a cell, those likely to be confused with it."""
    if value is None:
        if pa.types.is_fixed_size_list(kind):
            return [[0] * kind.list_size]
        return [
            {"string": "", "bool": False}.get(str(kind), [] if hasattr(kind, "value_type") else 0)
        ]
    if isinstance(value, str):
        return [None, value + "\0", value + " "]
    if isinstance(value, bool):
        return [None, not value]
    if isinstance(value, list):
        changed = list(value)
        if changed:
            changed[-1] = changed[-1] + ("x" if isinstance(changed[-1], str) else 1)
        elif not pa.types.is_fixed_size_list(kind):
            changed = ["" if pa.types.is_string(kind.value_type) else 0]
        return [None, changed]
    return [None, value + 1]


def test_digest_sees_where_strings_and_lists_end():
    def of(column, *values):
        return content_digest(from_rows("pages", [{column: value} for value in values]), [column])

    assert of("document", "ab", "c") != of("document", "a", "bc")
    assert of("document", None, "") != of("document", "", None)
    assert of("flags", ["a", "b"], []) != of("flags", ["a"], ["b"])
    assert of("flags", ["ab"]) != of("flags", ["a", "b"])
    assert of("flags", None) != of("flags", [])
    assert of("flags", [None]) != of("flags", [""])
    assert of("image", "x") != of("source", "x")
    assert of("width", 1) != of("dpi_x", 1)


def test_digest_of_chosen_columns():
    rows = make_rows("pages", 20)
    table = from_rows("pages", rows)
    changed = from_rows("pages", [{**row, "n_regions": 1000} for row in rows])
    assert content_digest(table, ["document", "page"]) == content_digest(
        changed, ["document", "page"]
    )
    assert content_digest(table) != content_digest(changed)
    assert content_digest(table, ["page", "document"]) != content_digest(
        table, ["document", "page"]
    )


def test_digests_are_the_same_everywhere():
    """Fixed, so that every release of Python and pyarrow agrees: results are reused by them."""
    rows = [
        {
            "document": "Gärten.pdf",
            "page": 1,
            "class_name": "text",
            "score": 0.5,
            "polygon": [1, -2],
        },
        {"document": "Gärten.pdf", "page": 2, "class_name": None, "score": None, "polygon": None},
    ]
    assert content_digest(from_rows("detections", rows)) == DETECTIONS_DIGEST
    ink = [{"page": 1, "capped": True, "ink": [*range(256)] * 4}, {"capped": None}]
    assert content_digest(from_rows("detected_pages", ink)) == DETECTED_PAGES_DIGEST
    assert digest_json({"b": [1, 2.5, None], "a": "ä"}) == JSON_DIGEST


DETECTIONS_DIGEST = "801e7a5c1979424738c5d51fb5c75bbe16c9f4e7b9c2f3386ec24ef43852c65c"
DETECTED_PAGES_DIGEST = "8bcca09e2131fcaef801ae8cc7d3864cf6f8623982ea4d6da10761128cf1e63c"
JSON_DIGEST = "4b12564ba8344d191c82cc500017c21887ae57ff2cd79203f3afc1500a4f50d5"


def test_digest_of_json_ignores_the_order_of_keys():
    assert digest_json({"a": 1, "b": {"c": 2, "d": 3}}) == digest_json(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert digest_json([1, 2]) != digest_json([2, 1])
    assert digest_json({"a": 1}) != digest_json({"a": "1"})
    assert digest_json({"a": None}) != digest_json({})


# Failures -----------------------------------------------------------------------------------------


def test_reasons_are_a_closed_list():
    reasons = "corrupt detector empty encrypted engine io memory timeout too_large unsupported"
    assert " ".join(sorted(REASONS)) == reasons
    with pytest.raises(ValueError, match="'broken' is not one of"):
        failed("images", "broken", "")


def test_messages_are_one_short_line():
    row = failed("images", "corrupt", "Syntax Error:\n\n  bad\txref\r\n" + "x" * 10_000)
    assert row["message"].startswith("Syntax Error: bad xref xxx")
    assert len(row["message"]) == 500
    assert row | {"message": ""} == {
        "status": "failed",
        "stage": "images",
        "reason": "corrupt",
        "message": "",
    }


def test_results_of_another_release_are_refused(tmp_path, monkeypatch):
    table = SCHEMAS["images"].empty_table()
    write_table(table, tmp_path / "images" / "00000.parquet")
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "00000.parquet").write_bytes(b"damaged")
    check_schema_version(tmp_path)
    monkeypatch.setattr("scanmill.tables.SCHEMA_VERSION", "2")
    with pytest.raises(
        UserError, match=r"images/00000\.parquet has tables of version 1.*another working"
    ):
        check_schema_version(tmp_path)

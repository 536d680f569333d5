"""Where results come from: an RO-Crate that says what the tables say, and remembers runs."""

import hashlib
import json
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rocrate.rocrate import ROCrate
from sampled_run import Page, write_run

from scanmill import provenance
from scanmill.data_dictionary import COLUMNS, DATASETS, TABLES
from scanmill.provenance import CRATE, archive_digest, describe_run
from scanmill.run_facts import models_of
from scanmill.tables import SCHEMAS, read_table, write_table

REGISTERED = provenance.ROOT / "models/scanmill-layout"
STARTED = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
DOCUMENTS = {
    "a.pdf": [Page(), Page(ok=False)],
    "b/c d.pdf": [
        Page((("text", 0.9, (1, 1, 50, 50), None), ("figure", 0.8, (1, 60, 50, 90), None)))
    ],
    "z.pdf": [Page()],
}


@pytest.fixture
def settings():
    given = yaml.safe_load((provenance.ROOT / "config/config.yaml").read_text())
    given["archive"]["path"] = "/home/someone/scans"
    return given


def write_results(directory, documents=DOCUMENTS, columns=None):
    results = write_run(directory, documents, columns) / "results"
    model = results / "models/scanmill-layout"
    model.mkdir(parents=True)
    for name in ("model.json", "config.yaml"):
        shutil.copyfile(REGISTERED / name, model / name)
    (results / "settings.yaml").write_text("images: {dpi: 300}")
    return results


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / "run")


def describe(results, settings):
    """As the rule does it; the entities by their ids."""
    text = describe_run(results, settings, STARTED)
    for name in ("provenance.json", CRATE):
        (results / name).write_text(text)
    entities = json.loads(text)["@graph"]
    assert len({each["@id"] for each in entities}) == len(entities)
    return {each["@id"]: each for each in entities}


def values(entities):
    """The numbers and settings, by what they are called."""
    return {each["name"]: each["value"] for each in entities.values() if "value" in each}


def runs(entities):
    return [each for each in entities.values() if each["@type"] == "CreateAction"]


def references(value):
    """All ids that an entity refers to."""
    if isinstance(value, list):
        return [name for each in value for name in references(each)]
    return [value["@id"]] if isinstance(value, dict) else []


def test_it_is_an_ro_crate_of_what_is_there(results, settings):
    entities = describe(results, settings)
    crate = ROCrate(results)
    assert crate.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    for each in crate.data_entities:
        assert (results / each.id).exists(), each.id
    assert {each.id for each in crate.data_entities} == {
        *(f"{name}/" for name in (*DATASETS, "shards", "store") if name != "ocr"),
        *("models/scanmill-layout/", "documents.parquet", "failures.parquet", "settings.yaml"),
    }
    [action] = crate.get_by_type("CreateAction")
    assert action["instrument"]["name"] == "Scanmill"
    assert action["startTime"] == "2026-03-01T10:30:00+00:00" < action["endTime"]
    # No reference leads nowhere, but to terms of schema.org and the specification.
    outside = ("http://schema.org/", "https://w3id.org/ro/crate/")
    for each in entities.values():
        for name in (
            name for key, value in each.items() if key != "@id" for name in references(value)
        ):
            assert name in entities or name.startswith(outside), name


def test_the_numbers_are_those_of_the_tables(results, settings):
    entities = describe(results, settings)
    said = values(entities)
    assert (
        said
        | {
            "documents": 3,
            "documents that did not open": 0,
            "pages": 4,
            "regions": 4,
            "regions of the class text": 3,
            "regions of the class figure": 1,
            "failed at images: timeout": 1,
            "images.dpi": 300,
            "images.lift": True,
            "regions.min_score": '{"default": 0.5}',
            "detection.tiles": "null",
            "model": "scanmill-layout",
        }
        == said
    )
    assert "4 rows" in entities["regions/"]["description"]
    card = json.loads((REGISTERED / "model.json").read_text())
    model = entities["models/scanmill-layout/"]
    assert model["sha256"] == card["sha256"]["model.safetensors"]
    assert "licence: Apache-2.0" in model["description"]
    methods = entities["#methods"]["text"]
    for part in (
        "We processed 3 documents (3 B) of 4 pages with Scanmill",
        "This gave 4 regions (3 text and 1 figure).",
        "with their reasons: 1 timeout at the stage images.",
        "a score of at least 0.5 were kept",
        card["sha256"]["model.safetensors"],
        entities["#archive"]["sha256"],
    ):
        assert part in methods


def test_how_to_cite(results, settings):
    entities = describe(results, settings)
    cited = [entities[each["@id"]] for each in entities["./"]["citation"]]
    assert {each["name"] for each in cited} == {"Scanmill", "Detectron2", "Mask R-CNN", "Snakemake"}
    said = yaml.safe_load((provenance.ROOT / "CITATION.cff").read_text())
    assert f"{said['title']}, version {said['version']}" in entities["./"]["creditText"]


def test_where_the_archive_lies_is_not_told(results, settings):
    describe(results, settings)
    assert "someone" not in (results / "provenance.json").read_text()


def test_the_archives_digest_is_that_of_a_list_sorted_by_name(results, settings):
    documents = pa.table({"document": ["b", "é", "Z"], "sha256": ["22", None, "11"]})
    listed = "11  Z\n22  b\n-  é\n"
    assert archive_digest(documents) == hashlib.sha256(listed.encode()).hexdigest()
    whole = read_table(results / "documents.parquet")
    assert describe(results, settings)["#archive"]["sha256"] == archive_digest(whole)


# Runs ---------------------------------------------------------------------------------------------


def test_what_says_nothing_new_is_not_written_anew(results, settings):
    describe(results, settings)
    before = (results / "provenance.json").read_text()
    later = datetime(2026, 3, 2, tzinfo=UTC)
    settings["detection"]["batch_size"] = 4  # Decides nothing.
    settings["archive"]["path"] = "/elsewhere"
    assert describe_run(results, settings, later) == before


def test_runs_that_changed_results_are_remembered(results, settings, monkeypatch):
    [first] = runs(describe(results, settings))
    monkeypatch.setattr(provenance, "versions", lambda: {"python": "4.0"})
    monkeypatch.setattr(provenance, "_time", tick())
    settings["images"]["dpi"] = 150
    entities = describe(results, settings)
    kept, second = runs(entities)
    # The results are now another's; what an earlier run ran on stays told.
    assert kept == {key: value for key, value in first.items() if key not in ("object", "result")}
    assert values(entities)["images.dpi"] == 150
    assert {
        "#python-4.0",
        kept["instrument"]["@id"],
        second["instrument"]["@id"],
    } <= entities.keys()
    assert [each["@id"] for each in entities["./"]["mentions"]] == [
        "#methods",
        kept["@id"],
        second["@id"],
    ]
    monkeypatch.setattr(provenance, "RUNS", 3)
    for dpi in (160, 170, 180):
        settings["images"]["dpi"] = dpi
        entities = describe(results, settings)
    assert len(runs(entities)) == 3
    assert kept["@id"] not in entities


def tick():
    """Times that are a second apart, one after the other."""
    seconds = iter(range(60))
    return lambda time: f"2030-01-01T00:00:{next(seconds):02d}+00:00"


@pytest.mark.parametrize("text", ["{", "[]", '{"@graph": [{"@id": "./"}]}', '{"@graph": []}'])
def test_a_damaged_document_is_made_anew(results, settings, text):
    (results / "provenance.json").write_text(text)
    assert len(runs(describe(results, settings))) == 1


# Words --------------------------------------------------------------------------------------------


def test_every_column_is_explained():
    columns = {name for table in (*DATASETS, *TABLES) for name in SCHEMAS[table].names}
    assert columns == COLUMNS.keys()


def test_a_column_of_the_archives_csv(tmp_path, settings):
    own = {name: {"shelf mark": "A 1"} for name in DOCUMENTS}
    entities = describe(write_results(tmp_path, columns=own), settings)
    assert entities["#column-shelf%20mark"]["description"] == "a column of the archive's CSV"
    assert {"@id": "#column-shelf%20mark"} in entities["documents.parquet"]["variableMeasured"]


def test_names_that_look_alike_stay_apart(results, settings):
    table = results / "regions/00000.parquet"
    rows = read_table(table)
    names = pa.array(["a-b", "a b", "a/b"][: rows.num_rows] * rows.num_rows).slice(0, rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("class_name"), "class_name", names)
    about = models_of(results, ["00000"])[0]
    write_table(rows, table, {"model": json.dumps(about)})
    assert {"regions of the class a-b", "regions of the class a b"} <= values(
        describe(results, settings)
    ).keys()


def test_its_size_does_not_grow_with_the_archive(results, settings, tmp_path):
    describe(results, settings)
    many = {f"collection/{number:05d}.pdf": [Page()] for number in range(20)}
    larger = write_results(tmp_path / "larger", many)
    describe(larger, settings)
    sizes = [len((each / "provenance.json").read_text()) for each in (results, larger)]
    assert abs(sizes[1] - sizes[0]) < 1000


def test_texts_that_were_read(results, settings):
    row = {"document": "a.pdf", "page": 1, "detection": 1, "status": "ok"}
    rows = [
        {**row, "source": "pdf", "engine": "pdfium 1"},
        {**row, "source": "ocr", "engine": "rapidocr 3"},
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["ocr"])
    write_table(table, results / "ocr/00000.parquet")
    entities = describe(results, settings)
    assert values(entities)["texts from ocr, by rapidocr 3"] == 1
    assert "1 by pdfium 1 and 1 by rapidocr 3" in entities["#methods"]["text"]
    assert pq.read_schema(results / "ocr/00000.parquet").names == [
        each["@id"].removeprefix("#column-") for each in entities["ocr/"]["variableMeasured"]
    ]

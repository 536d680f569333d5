"""Every finished run says where its results come from, and goes on saying it."""

import json

from conftest import DOCUMENTS, rows
from rocrate.rocrate import ROCrate


def entities(directory):
    document = json.loads((directory / "results/provenance.json").read_text())
    return {each["@id"]: each for each in document["@graph"]}


def runs(directory):
    return [each for each in entities(directory).values() if each["@type"] == "CreateAction"]


def test_a_run_and_one_that_changed_its_crops(finished):
    results = finished.directory / "results"
    crate = ROCrate(results)
    assert crate.root_dataset["name"] == f"Page layout of {len(DOCUMENTS)} documents"
    assert all((results / each.id).exists() for each in crate.data_entities)
    said = entities(finished.directory)
    assert said["#count-regions"]["value"] == len(rows(finished.directory, "regions"))
    assert said["#setting-crops.padding"]["value"] == 8
    [first] = runs(finished.directory)

    assert "describe_run" in finished.run("crops={padding: 3}").jobs
    assert entities(finished.directory)["#setting-crops.padding"]["value"] == 3
    kept, second = runs(finished.directory)
    assert kept["endTime"] == first["endTime"] < second["startTime"] <= second["endTime"]
    crate = results / "ro-crate-metadata.json"
    assert crate.read_bytes() == (results / "provenance.json").read_bytes()

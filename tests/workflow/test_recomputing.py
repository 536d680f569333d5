"""What was tampered with, or is not what the code makes, is seen when pages are computed again."""

import json
import subprocess
import sys

import cv2
import pyarrow as pa
import pytest
import yaml
from conftest import REPOSITORY, SETTINGS, SMALL, demo

from scanmill.maintenance import STAGE_OF, read_plan
from scanmill.recomputation import choose_pages, recompute_pages
from scanmill.store import document_folder, file_digest
from scanmill.tables import read_metadata, read_table, write_table

PAGES = 8
CHANGED = ("mixed.pdf", 1)


def verify(finished, *options):
    command = [sys.executable, "scripts/verify_results.py", "--directory", finished.directory]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def recompute(finished):
    """(document, page) -> what differs, and what was not compared, of all pages."""
    results = finished.directory / "results"
    plan = read_plan(results)
    chosen = choose_pages(results, list(plan), 100, 0)
    found = list(recompute_pages(finished.directory, plan, chosen))
    assert len(found) == PAGES
    return {(each.document, each.page): (each.differences, each.notes) for each in found}


def differing(finished):
    found = recompute(finished)
    assert not any(notes for _, notes in found.values())
    return {page: differences for page, (differences, _) in found.items() if differences}


def edit(finished, dataset, column, value):
    """Change a column of the first row of a page, in the document's record and in the dataset."""
    document, page = CHANGED
    results = finished.directory / "results"
    record = document_folder(results, document) / f"{dataset}.parquet"
    for path in (results / dataset / "00000.parquet", record):
        table, metadata = read_table(path), read_metadata(path)
        rows = zip(table["document"].to_pylist(), table["page"].to_pylist(), strict=True)
        place = list(rows).index((document, page))
        values = table[column].to_pylist()
        values[place] = value(values[place])
        index = table.schema.get_field_index(column)
        array = pa.array(values, table.schema.field(index).type)
        write_table(table.set_column(index, table.schema.field(index), array), path, metadata)
    restate_sizes(finished, STAGE_OF[dataset])


def restate_sizes(finished, stage):
    """Have the record of the changed page's document say how large the files are that it names."""
    folder = document_folder(finished.directory / "results", CHANGED[0])
    record = folder / f"{stage}.parquet"
    metadata = read_metadata(record)
    sizes = {name: (folder / name).stat().st_size for name in json.loads(metadata["files"])}
    write_table(read_table(record), record, {**metadata, "files": json.dumps(sizes)})


def test_nothing_differs_in_a_finished_run(undisturbed):
    assert differing(undisturbed) == {}


@pytest.mark.parametrize(
    ("dataset", "column", "value", "said"),
    [
        ("images", "dpi_x", lambda dpi: dpi + 1, {"images: dpi_x 73.0 -> 72.0"}),
        ("detections", "score", lambda score: score - 0.01, {"detections: row", "regions: row"}),
        ("detections", "class_name", lambda _: "figures", {"detections: row", "regions: "}),
        ("regions", "x_min", lambda x: x + 5, {"regions: row", "crops: row"}),
        ("pages", "n_regions", lambda n: n + 1, {"pages: n_regions"}),
        ("pages", "flags", lambda flags: ["capped", *flags], {"pages: flags"}),
        ("crops", "y_max", lambda y: y + 1, {"crops: row"}),
    ],
)
def test_a_value_edited_in_record_and_table(finished, dataset, column, value, said):
    edit(finished, dataset, column, value)
    found = differing(finished)
    assert found.keys() == {CHANGED}
    for text in said:
        [line] = [line for line in found[CHANGED] if line.startswith(text)]
        assert f"{column} " in line or "rows ->" in line
    assert len(found[CHANGED]) == len(said)


def test_flags_that_other_pages_decide_are_not_computed_again(finished):
    edit(finished, "pages", "flags", lambda flags: [*flags, "unlike_neighbours"])
    assert differing(finished) == {}


@pytest.mark.parametrize(
    ("change", "said"), [(0.0009, {"regions"}), (0.0011, {"detections", "regions"})]
)
def test_detections_of_another_processor_may_differ_a_little(finished, change, said):
    edit(finished, "detected_pages", "device", lambda _: "cpu of another kind")
    assert differing(finished) == {}
    edit(finished, "detections", "score", lambda score: score - change)
    # Regions follow from what the table has, not from what is found now.
    assert {line.partition(":")[0] for line in differing(finished)[CHANGED]} == said


def test_a_page_image_replaced_with_all_that_names_it(finished):
    results = finished.directory / "results"
    path = document_folder(results, CHANGED[0]) / "images/0001.jpg"
    cv2.imwrite(
        str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), [cv2.IMWRITE_JPEG_QUALITY, 30]
    )
    edit(finished, "images", "sha256", lambda _: file_digest(path))

    plain = verify(finished)
    assert plain.returncode == 0, plain.stdout
    done = verify(finished, "--recompute", "100", "--seed", "7")
    assert done.returncode == 1
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ", page " in line)
    assert len(said) == PAGES
    assert said.pop("mixed.pdf, page 1").startswith("images: sha256 ")
    assert set(said.values()) == {"the same"}
    assert "8 pages computed again (--seed 7): 1 differ" in done.stdout


def test_a_page_image_that_is_not_that_of_its_row(finished):
    path = document_folder(finished.directory / "results", CHANGED[0]) / "images/0001.jpg"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    ((page, (said,)),) = differing(finished).items()
    assert page == CHANGED
    assert said.endswith("is not the image of its row: other bytes")


def set_settings(finished, **settings):
    """Write them into the settings that the results are said to be made with."""
    path = finished.directory / "results/settings.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **settings}))


def test_sources_that_are_gone_or_changed_are_said_and_no_error(finished):
    path = finished.directory / "results/settings.yaml"
    known = yaml.safe_load(path.read_text())["archive"]
    set_settings(finished, archive={**known, "path": str(finished.archive)})
    (finished.archive / "zeta.tif").unlink()
    demo.write_vector_pdf(finished.archive / "letters/two.pdf", 1, 12, SMALL)
    found = recompute(finished)
    assert not any(differences for differences, _ in found.values())
    notes = {document: notes for (document, _), (_, notes) in found.items() if notes}
    assert notes.keys() == {"zeta.tif", "letters/two.pdf"}
    assert "cannot be read" in notes["zeta.tif"][0]
    assert "has changed since" in notes["letters/two.pdf"][0]

    finished.archive.rename(finished.archive.with_name("elsewhere"))
    done = verify(finished, "--recompute", "2")
    assert done.returncode == 0
    assert done.stdout.count(f"the same (not rendered again: the archive, {finished.archive},") == 2


def test_pages_by_another_model_and_of_documents_that_are_not_done(finished):
    results = finished.directory / "results"
    (results / "models/other").mkdir()
    for file in (results / "models/scanmill-layout").iterdir():
        (results / "models/other" / file.name).write_bytes(file.read_bytes())
    card = json.loads((results / "models/other/model.json").read_text())
    (results / "models/other/model.json").write_text(json.dumps({**card, "color": "config"}))
    set_settings(finished, model="other")
    (document_folder(results, "zeta.tif") / "crops.parquet").unlink()
    for (document, _), (differences, notes) in recompute(finished).items():
        done = document != "zeta.tif"
        assert differences == []
        assert notes[0].startswith("not detected again" if done else "not compared: its crops")


def test_page_images_that_were_dropped_are_made_again(finished):
    finished.settings(images={**SETTINGS["images"], "keep": False})
    finished.run()
    document = CHANGED[0]
    store = finished.directory / "results/store"
    assert [path.name for path in (store / document / "images").iterdir()] == ["dropped"]
    assert differing(finished) == {}
    edit(finished, "detections", "score", lambda score: score - 0.01)
    assert set(differing(finished)) == {CHANGED}
    (finished.archive / document).unlink()
    _, notes = recompute(finished)[CHANGED]
    assert "its image was dropped" in notes[1]

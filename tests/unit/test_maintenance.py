"""Results folders: progress, forgetting, trying again, verification and repair."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from scanmill import crops, maintenance, pages, store
from scanmill.archive import Document, read_manifest, write_manifest
from scanmill.errors import UserError
from scanmill.maintenance import DATASETS, FORGET, MOVE, REBUILD, REPLAN, RUN, SUMMARIZE, Tally
from scanmill.progress import Progress
from scanmill.store import STAGES, StageStore, document_folder, write_dataset
from scanmill.summary import summarize_archive
from scanmill.tables import (
    by_document,
    failed,
    from_rows,
    read_metadata,
    read_table,
    write_table,
)

SCRIPTS = Path(maintenance.__file__).parents[1]
MODEL = {"name": "m", "digest": "d", "classes": ["text", "figure"]}
SETTINGS = {
    "images": {},
    "detections": {},
    "regions": {
        "classes": None,
        "min_score": {"default": 0.5},
        "duplicate_iou": 0.7,
        "reading_order": "columns",
        "page_tables": True,
    },
    "crops": {
        "classes": None,
        "padding": 2,
        "format": "auto",
        "jpeg_quality": 90,
        "store": "files",
    },
}
# `box` is a folder of page images, in which a PDF lies; `images` has a stage's name.
PLAN = {"00000": ["a.pdf", "box", "box/b[1].pdf"], "00001": ["bad.pdf", "images"]}
DOCUMENTS = [name for names in PLAN.values() for name in names]
GOOD = [name for name in DOCUMENTS if name != "bad.pdf"]


def plan(directory: Path, shards=PLAN) -> None:
    for shard, names in shards.items():
        documents = [Document(name, "pdf", name, 10, 1) for name in names]
        write_manifest(directory / "results" / "shards" / f"{shard}.tsv", documents)


def run(directory: Path) -> list[tuple[str, str]]:
    """Do what Snakemake does: jobs whose files are missing, and those after them.

    Returns (stage, document) of what was computed, not reused.
    """
    results, computed = directory / "results", []
    manifests = {path.stem: read_manifest(path) for path in results.glob("shards/*.tsv")}
    any_ran = False
    for shard, documents in sorted(manifests.items()):
        ran = False
        for stage in STAGES:
            files = [results / name / f"{shard}.parquet" for name in DATASETS[stage]]
            if ran or not all(file.exists() for file in files):
                mine = StageStore(results, stage, SETTINGS[stage], "code")
                computed += JOBS[stage](mine, shard, [document.document for document in documents])
                ran = any_ran = True
    outputs = [results / name for name in maintenance.SUMMARY]
    if any_ran or not all(path.exists() for path in outputs):
        settings = {"regions": SETTINGS["regions"], "crops": SETTINGS["crops"]}
        (results / "settings.yaml").write_text(yaml.safe_dump(settings))
        files = [
            [results / name / f"{shard}.{suffix}" for shard in sorted(manifests)]
            for name, suffix in zip(
                ("shards", "images", "pages", "crops"), ("tsv", *["parquet"] * 3), strict=True
            )
        ]
        summarize_archive(*files, *outputs[:2])
        outputs[2].write_text("done\n")
    return computed


def stale(mine: StageStore, document: str, inputs: object) -> store.Fingerprint | None:
    wanted = mine.fingerprint(inputs)
    return wanted if mine.state(document, wanted) == "stale" else None


def render(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    for document in documents:
        if not (wanted := stale(mine, document, document)):
            continue
        computed.append((mine.stage, document))
        rows = []
        with mine.replace(document, wanted) as draft:
            for page in (1, 2):
                image = np.full((120, 90), 255, np.uint8)
                image[20:40, 10:80] = 16 * len(document) % 256
                path = draft.files / f"{page:04d}.png"
                cv2.imwrite(str(path), image)
                final = mine.folder(document) / "images" / path.name
                rows.append(
                    {
                        "document": document,
                        "page": page,
                        "status": "ok",
                        "image": final.relative_to(mine.results).as_posix(),
                        "width": 90,
                        "height": 120,
                        "sha256": store.file_digest(path),
                    }
                )
            if document == "bad.pdf":
                outcome = failed("images", "timeout", "more than a second")
                rows[1] = {"document": document, "page": 2, **outcome}
                path.unlink()
            draft.commit({"images": from_rows("images", rows)})
    write_datasets(mine, shard, documents, {"sources": "{}"})
    return computed


def detect(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    images = by_document(read_table(mine.results / "images" / f"{shard}.parquet"))
    for document in documents:
        rows = [row for row in images[document].to_pylist() if row["status"] == "ok"]
        wanted = stale(mine, document, [row["sha256"] for row in rows])
        if not wanted:
            continue
        computed.append((mine.stage, document))
        for row in rows:
            assert store.file_digest(mine.results / row["image"]) == row["sha256"]
        box = {"x_min": 10, "y_min": 20, "x_max": 80, "y_max": 40}
        found = [
            {
                "document": document,
                "page": row["page"],
                "detection": 1,
                "class_id": 0,
                "class_name": "text",
                "score": 0.9,
                **box,
            }
            for row in rows
        ]
        outcomes = [
            {"document": document, "page": row["page"], "status": "ok", "n_detections": 1}
            | {"capped": False, "n_proposals": 9, "precision": "float32", "device": "cpu"}
            for row in rows
        ]
        if document == "bad.pdf":
            outcomes[0] |= failed("detections", "detector", "RuntimeError") | {"n_detections": None}
            found = []
        tables = {
            "detections": from_rows("detections", found),
            "detected_pages": from_rows("detected_pages", outcomes),
        }
        with mine.replace(document, wanted) as draft:
            draft.commit(tables)
    write_datasets(mine, shard, documents)
    return computed


def select(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    names = ("images", "detected_pages", "detections")
    tables = [by_document(read_table(mine.results / name / f"{shard}.parquet")) for name in names]
    for document in documents:
        empty = [maintenance.SCHEMAS[name].empty_table() for name in names]
        inputs = [
            table.get(document, nothing) for table, nothing in zip(tables, empty, strict=True)
        ]
        if wanted := stale(mine, document, pages.inputs_digest(*inputs, MODEL)):
            computed.append((mine.stage, document))
            with mine.replace(document, wanted) as draft:
                pages.finish_document(*inputs, MODEL, mine, draft)
    write_datasets(mine, shard, documents)
    return computed


def crop(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    images = by_document(read_table(mine.results / "images" / f"{shard}.parquet"))
    regions = by_document(read_table(mine.results / "regions" / f"{shard}.parquet"))
    for document in documents:
        found = regions.get(document, maintenance.SCHEMAS["regions"].empty_table())
        inputs = images[document], found
        if wanted := stale(mine, document, crops.inputs_digest(*inputs)):
            computed.append((mine.stage, document))
            work = crops.Work(document, *inputs, wanted)
            crops.crop_documents([work], mine, 1, Progress("crop_regions", 1, 1))
    rows = (crops.dataset_rows(mine, document) for document in documents)
    write_dataset("crops", rows, mine.results / "crops" / f"{shard}.parquet")
    return computed


def write_datasets(mine: StageStore, shard: str, documents: list[str], metadata=None) -> None:
    for name in DATASETS[mine.stage]:
        rows = (mine.read(document, name) for document in documents)
        write_dataset(name, rows, mine.results / name / f"{shard}.parquet", metadata)


JOBS = {"images": render, "detections": detect, "regions": select, "crops": crop}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working directory of a run that has ended: not to be changed."""
    directory = tmp_path_factory.mktemp("finished")
    plan(directory)
    assert run(directory) == [(s, d) for names in PLAN.values() for s in STAGES for d in names]
    return directory


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of it."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    return copy


def verify(directory: Path) -> list[maintenance.Problem]:
    results = directory / "results"
    documents, problems = maintenance.verify_plan(results)
    tally = Tally(lambda line: None)
    return problems + list(maintenance.verify_results(results, documents, 2, tally))


def contents(directory: Path) -> dict[str, bytes]:
    """All results but the text whose time alone counts."""
    results = directory / "results"
    files = [path for path in results.rglob("*") if path.is_file()]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in files}


def tool(name: str, directory: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / f"{name}.py", "--directory", directory, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def flip(path: Path, position: int = 100) -> None:
    """Change one byte; the size stays."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def flip_value(path: Path) -> None:
    """Change one byte of the values of a table: the last of the first column."""
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    flip(path, start + column.total_compressed_size - 1)


# Verification and repair


def test_a_finished_run_is_sound(finished):
    tally = Tally(lambda line: None)
    documents, problems = maintenance.verify_plan(finished / "results")
    assert problems == []
    assert list(maintenance.verify_results(finished / "results", documents, 2, tally)) == []
    assert (tally.done, tally.documents, tally.images) == (5, 5, 9)
    assert maintenance.unplanned_folders(finished / "results", documents) == []
    assert run(finished) == []


def stored(directory: Path, document: str) -> Path:
    return document_folder(directory / "results", document)


def remove_store(directory):
    shutil.rmtree(directory / "results" / "store")


def remove_documents_folder(directory):
    shutil.rmtree(stored(directory, "images"))


def remove_image(directory):
    (stored(directory, "a.pdf") / "images" / "0002.png").unlink()


def change_image(directory):
    flip(stored(directory, "a.pdf") / "images" / "0002.png")


def change_record(directory):
    flip_value(stored(directory, "a.pdf") / "detections.parquet")


def change_pages(directory):
    flip_value(stored(directory, "a.pdf") / "pages.parquet")


def empty_record(directory):
    (stored(directory, "a.pdf") / "crops.parquet").write_bytes(b"")


def change_rows(directory):
    path = stored(directory, "a.pdf") / "images.parquet"
    table = read_table(path)
    index = table.schema.get_field_index("width")
    wrong = table.set_column(index, "width", pa.array([91, 92], pa.int32()))
    write_table(wrong, path, read_metadata(path))


def remove_page_table(directory):
    (stored(directory, "box/b[1].pdf") / "regions" / "0001.parquet").unlink()


def change_page_table(directory):
    flip_value(stored(directory, "box/b[1].pdf") / "regions" / "0002.parquet")


def remove_crop(directory):
    next(stored(directory, "box").glob("crops/0002/*")).unlink()


def remove_crops_record(directory):
    (stored(directory, "box").joinpath("crops.parquet")).unlink()


FORGOTTEN = [
    (remove_store, [(stage, document, None) for document in DOCUMENTS for stage in STAGES]),
    (remove_documents_folder, [(stage, "images", None) for stage in STAGES]),
    (remove_image, [("images", "a.pdf", 2)]),
    (change_image, [("images", "a.pdf", 2)]),
    (change_record, [("detections", "a.pdf", None)]),
    (change_pages, [("regions", "a.pdf", None)]),
    (empty_record, [("crops", "a.pdf", None)]),
    (change_rows, [("images", "a.pdf", None)]),
    (remove_page_table, [("regions", "box/b[1].pdf", 1)]),
    (change_page_table, [("regions", "box/b[1].pdf", 2)]),
    (remove_crop, [("crops", "box", 2)]),
    (remove_crops_record, [("crops", "box", None)]),
]


@pytest.mark.parametrize(("damage", "expected"), FORGOTTEN, ids=[d.__name__ for d, _ in FORGOTTEN])
def test_what_is_damaged_in_the_store_is_found_and_made_again(
    finished, directory, damage, expected
):
    damage(directory)
    problems = verify(directory)
    found = [(problem.stage, problem.document, problem.page) for problem in problems]
    assert Counter(found) == Counter(expected)
    assert {problem.remedy for problem in problems} == {FORGET}

    _, options = maintenance.repair_results(directory, problems)
    assert options == []
    assert Counter(run(directory)) == Counter({(stage, name) for stage, name, _ in expected})
    assert verify(directory) == []
    assert contents(directory) == contents(finished)


def cut_dataset(directory):
    path = directory / "results" / "images" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:100])


def change_dataset(directory):
    flip_value(directory / "results" / "detections" / "00001.parquet")


def replace_dataset(directory):
    folder = directory / "results" / "pages"
    shutil.copy(folder / "00001.parquet", folder / "00000.parquet")


def change_row(directory):
    path = directory / "results" / "regions" / "00000.parquet"
    table = read_table(path)
    scores = pa.array([0.8] * table.num_rows, pa.float32())
    index = table.schema.get_field_index("score")
    write_dataset("regions", [table.set_column(index, "score", scores)], path)


def swap_documents(directory):
    path = directory / "results" / "crops" / "00000.parquet"
    pieces = list(by_document(read_table(path)).values())
    write_dataset("crops", pieces[::-1], path)


REBUILT = [
    (cut_dataset, {("images", "00000")}),
    (change_dataset, {("detections", "00001")}),
    (replace_dataset, {("regions", "00000")}),
    (change_row, {("regions", "00000")}),
    (swap_documents, {("crops", "00000")}),
]


@pytest.mark.parametrize(("damage", "expected"), REBUILT, ids=[d.__name__ for d, _ in REBUILT])
def test_what_is_damaged_in_a_dataset_is_put_together_again(finished, directory, damage, expected):
    damage(directory)
    problems = verify(directory)
    assert {(problem.stage, problem.shard) for problem in problems} == expected
    assert {problem.remedy for problem in problems} == {REBUILD}
    maintenance.repair_results(directory, problems)
    assert run(directory) == []  # Nothing was computed: all of it reused.
    assert verify(directory) == []
    assert contents(directory) == contents(finished)


def test_a_missing_dataset_is_left_to_the_next_run(finished, directory):
    (directory / "results" / "crops" / "00001.parquet").unlink()
    (problem,) = verify(directory)
    assert (problem.stage, problem.remedy) == ("crops", RUN)
    assert "1 of 2 shards (00001)" in problem.what
    assert run(directory) == []
    assert contents(directory) == contents(finished)


def test_records_of_an_unfinished_shard_are_not_missed_but_checked(directory):
    results = directory / "results"
    for name in ("crops/00000.parquet", *maintenance.SUMMARY):
        (results / name).unlink()
    shutil.rmtree(stored(directory, "a.pdf") / "crops")
    (stored(directory, "box") / "crops.parquet").unlink()  # Not made yet.
    problems = verify(directory)
    assert [p.document for p in problems if p.remedy == FORGET] == ["a.pdf", "a.pdf"]
    assert sum(problem.remedy == RUN for problem in problems) == 3
    maintenance.repair_results(directory, problems)
    assert run(directory) == [("crops", "a.pdf"), ("crops", "box")]
    assert verify(directory) == []


def test_page_tables_are_not_missed_where_they_are_off(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS["regions"], "page_tables", False)
    plan(tmp_path)
    run(tmp_path)
    assert not list(tmp_path.rglob("regions/0001.parquet"))
    assert verify(tmp_path) == []
    settings = (finished / "results" / "settings.yaml").read_text()
    (tmp_path / "results" / "settings.yaml").write_text(settings)  # They were on after all.
    assert {(p.stage, p.page) for p in verify(tmp_path)} == {("regions", 1), ("regions", 2)}


def test_crops_in_tables_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS["crops"], "store", "parquet")
    plan(tmp_path)
    run(tmp_path)
    assert verify(tmp_path) == []
    record = stored(tmp_path, "a.pdf") / "crops.parquet"
    flip(record, record.read_bytes().index(b"\x89PNG") + 20)
    (problem,) = verify(tmp_path)
    assert (problem.stage, problem.document, problem.remedy) == ("crops", "a.pdf", FORGET)


@pytest.mark.parametrize("name", ["images", "detections", "pages", "regions", "crops"])
def test_no_flipped_bit_changes_the_rows_of_a_record_unnoticed(directory, name):
    results = directory / "results"
    path = stored(directory, "a.pdf") / f"{name}.parquet"
    stage = maintenance.STAGE_OF[name]
    names = PLAN["00000"]
    check = maintenance.ShardCheck(results, "00000", names, True, Tally(lambda line: None))
    rows = maintenance._read_result(results, stage, "a.pdf")
    found = 0
    for position in range(4, path.stat().st_size - 8, 181):
        flip(path, position)
        with ThreadPoolExecutor(2) as executor:
            problems = list(check.problems(executor))
        found += bool(problems)
        # Or the bit is one that no row depends on, such as of a statistic.
        assert problems or maintenance._read_result(results, stage, "a.pdf") == rows
        assert {problem[1:5] for problem in problems} <= {(FORGET, stage, "00000", "a.pdf")}
        flip(path, position)
    assert found > 5


def test_a_lost_manifest_is_found_by_what_it_leaves(directory):
    results = directory / "results"
    (results / "shards" / "00000.tsv").unlink()
    with pytest.raises(UserError, match="no plan"):
        maintenance.verify_plan(directory / "logs")
    problems = verify(directory)
    assert ("", "00000", REPLAN) in {(p.stage, p.shard, p.remedy) for p in problems}
    assert {p.stage for p in problems if p.remedy == REBUILD} == set(STAGES)
    _, options = maintenance.repair_results(directory, problems)
    assert options == ["--forcerun", "plan_shards"]
    plan(directory)
    assert run(directory) == []
    assert verify(directory) == []


def test_a_last_manifest_lost_with_its_tables_is_missed_by_the_summary(directory):
    results = directory / "results"
    for path in results.glob("*/00001.*"):
        path.unlink()
    (problem,) = verify(directory)
    assert problem.remedy == REPLAN
    assert "bad.pdf" in problem.what


def test_a_damaged_manifest_is_planned_anew(directory):
    path = directory / "results" / "shards" / "00001.tsv"
    path.write_bytes(path.read_bytes()[:-3])
    problems = verify(directory)
    assert ("00001", REPLAN) in {(problem.shard, problem.remedy) for problem in problems}
    _, options = maintenance.repair_results(directory, problems)
    assert options
    assert not path.exists()


@pytest.mark.parametrize("name", ["documents.parquet", "failures.parquet", "settings.yaml"])
@pytest.mark.parametrize("content", [None, b"\0\1", "other"])
def test_a_damaged_summary_is_made_again(finished, directory, name, content):
    path = directory / "results" / name
    if content is None:
        path.unlink()
    elif content == "other" and path.suffix == ".parquet":
        write_table(read_table(path).slice(1), path)
    else:
        path.write_bytes(b"regions: 3" if content == "other" else content)
    (problem,) = verify(directory)
    missing_table = content is None and name != "settings.yaml"
    assert problem.remedy == (RUN if missing_table else SUMMARIZE)
    maintenance.repair_results(directory, [problem])
    assert run(directory) == []
    assert contents(directory) == contents(finished)


def test_a_repair_that_is_stopped_has_removed_nothing(directory):
    change_image(directory)
    (directory / "results" / "settings.yaml").unlink()
    problems = verify(directory)
    assert {problem.remedy for problem in problems} == {FORGET, SUMMARIZE}
    before = contents(directory)
    with store.stage_lock(directory, "images", "00000", print), pytest.raises(UserError):
        maintenance.repair_results(directory, problems)
    assert contents(directory) == before


def test_a_dataset_with_rows_of_others_is_to_blame_itself(tmp_path):
    plan(tmp_path, {"00000": ["a.pdf"], "00001": ["box"]})
    run(tmp_path)
    folder = tmp_path / "results" / "regions"
    shutil.copy(folder / "00001.parquet", folder / "00000.parquet")
    assert {problem.remedy for problem in verify(tmp_path)} == {REBUILD}
    # An older one of the same document cannot be told from a damaged record.
    write_dataset("regions", [], folder / "00000.parquet")
    assert {problem.remedy for problem in verify(tmp_path)} == {FORGET}


def test_a_stranger_among_the_tables_is_left_to_the_user(directory):
    path = directory / "results" / "regions" / "copy.parquet"
    shutil.copy(path.with_name("00000.parquet"), path)
    (problem,) = verify(directory)
    assert problem.remedy == MOVE
    maintenance.repair_results(directory, [problem])
    assert path.exists()


def test_folders_of_documents_that_are_gone_are_told(directory):
    shard = directory / "results" / "shards" / "00000.tsv"
    documents = read_manifest(shard)
    write_manifest(shard, [document for document in documents if document.document != "box"])
    (stored(directory, "a.pdf") / ".tmp-images-1").mkdir()
    kept = maintenance.read_plan(directory / "results")
    found = maintenance.unplanned_folders(directory / "results", kept)
    assert found == [stored(directory, "box")]


# Forgetting


def test_only_what_is_forgotten_is_made_again(finished, directory):
    chosen = {("detections", "00000"): ["box", "box/b[1].pdf"]}
    maintenance.forget_results(directory, chosen)
    assert not (directory / "results" / "detected_pages" / "00000.parquet").exists()
    assert not (directory / "results" / "detections" / "00000.parquet").exists()
    assert (directory / "results" / "detections" / "00001.parquet").exists()
    assert run(directory) == [("detections", "box"), ("detections", "box/b[1].pdf")]
    assert contents(directory) == contents(finished)


def test_nothing_is_forgotten_while_a_job_is_at_work(directory):
    before = contents(directory)
    chosen = {("images", "00000"): ["a.pdf"], ("images", "00001"): ["images"]}
    with (
        store.stage_lock(directory, "images", "00001", print),
        pytest.raises(UserError, match="images of shard 00001"),
    ):
        maintenance.forget_results(directory, chosen)
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], {"00000": ["a.pdf", "box"], "00001": ["bad.pdf", "images"]}),
        (["**"], PLAN),
        (["box/**"], {"00000": ["box", "box/b[1].pdf"]}),
        (["box/b[1].pdf"], {"00000": ["box/b[1].pdf"]}),  # Its name, though a glob of another.
        (["b*", "a.*"], {"00000": ["a.pdf", "box"], "00001": ["bad.pdf"]}),
    ],
)
def test_documents_are_chosen_by_globs(finished, patterns, expected):
    planned = maintenance.find_plan(finished / "results")
    assert maintenance.choose_documents(planned, patterns) == expected


@pytest.mark.parametrize(
    ("pattern", "nearest"), [("b[1].pdf", "box/b[1].pdf"), ("imgaes*", "images"), ("?", "a.pdf")]
)
def test_a_glob_without_a_match_names_the_nearest(finished, pattern, nearest):
    planned = maintenance.find_plan(finished / "results")
    with pytest.raises(UserError, match="None of the 5 documents") as error:
        maintenance.choose_documents(planned, ["a.pdf", pattern])
    assert f"\n  {nearest}\n" in str(error.value)


def test_a_malformed_glob_is_an_error(finished):
    with pytest.raises(UserError, match="not a glob"):
        maintenance.choose_documents(maintenance.find_plan(finished / "results"), ["[z-a]"])


# Failures


def test_failures_are_found_at_their_stage(finished):
    results = finished / "results"

    def find(reasons, stage=None, chosen=PLAN):
        return maintenance.failed_documents(results, chosen, reasons, stage)

    assert find(["timeout"]) == {("images", "00001"): {"bad.pdf": Counter(timeout=1)}}
    assert find(["detector"]) == {("detections", "00001"): {"bad.pdf": Counter(detector=1)}}
    assert set(find(["detector", "timeout"])) == {("images", "00001"), ("detections", "00001")}
    assert find(["timeout"], "detections") == {}
    assert find(["timeout"], chosen={"00001": ["images"]}) == {}
    assert find(["corrupt"]) == {}


@pytest.mark.parametrize("unfinished", [["pages"], ["pages", "images", "detected_pages"]])
def test_failures_are_found_before_the_run_has_ended(finished, directory, unfinished):
    for name in unfinished:
        (directory / "results" / name / "00001.parquet").unlink()
    both = [
        maintenance.failed_documents(each / "results", PLAN, ["timeout", "detector"], None)
        for each in (finished, directory)
    ]
    assert both[0] == both[1]
    ok, failures = maintenance.outcomes(directory / "results", "00001", PLAN["00001"])
    assert (ok, failures.num_rows) == (2, 2)


def test_failed_crops_leave_their_page_ok(directory):
    path = directory / "results" / "crops" / "00000.parquet"
    rows = read_table(path).to_pylist()
    rows[0] |= {"status": "failed", "reason": "unsupported"}
    write_dataset("crops", [from_rows("crops", rows)], path)
    ok, failures = maintenance.outcomes(directory / "results", "00000", PLAN["00000"])
    assert ok == 6
    assert failures.to_pylist() == [
        {"document": "a.pdf", "page": 1, "stage": "crops", "reason": "unsupported"}
    ]


def test_reasons_are_of_the_closed_list():
    assert maintenance.parse_reasons("timeout, io") == ["timeout", "io"]
    for wrong in ("timeout,slow", "", ","):
        with pytest.raises(UserError, match="encrypted, corrupt"):
            maintenance.parse_reasons(wrong)


# Progress


def test_progress_counts_datasets_then_records(directory):
    results = directory / "results"
    for name in ("regions", "crops"):
        (results / name / "00000.parquet").unlink()
    (stored(directory, "box") / "regions.parquet").unlink()
    for document in PLAN["00000"]:
        (stored(directory, document) / "crops.parquet").unlink()
    (stored(directory, "images") / "images.parquet").unlink()  # Its shard is done: not looked at.
    progress = maintenance.stage_progress(results, maintenance.read_plan(results))
    assert progress == [
        ("images", 2, 5),
        ("detections", 2, 5),
        ("regions", 1, 4),
        ("crops", 1, 2),
    ]
    said = maintenance.describe_progress(directory)
    assert "5 documents in 2 shards" in said
    assert "Pages so far: 8 ok, 2 failed." in said
    assert "1 timeout at images" in said
    assert "1 detector at detections" in said


def test_progress_is_told_before_there_is_a_plan(tmp_path):
    with pytest.raises(UserError, match="There are no results in"):
        maintenance.describe_progress(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "results").mkdir()
    assert "no plan yet" in maintenance.describe_progress(tmp_path)


def test_who_holds_a_lock_is_told_without_touching_it(tmp_path):
    path = tmp_path / ".scanmill.lock"
    assert maintenance.lock_holder(path) is None
    descriptor = store.lock_directory(tmp_path)
    before = path.stat().st_mtime_ns
    text, held = maintenance.lock_holder(path)
    assert text.startswith(f"process {os.getpid()} on ")
    assert held
    assert path.stat().st_mtime_ns == before
    os.close(descriptor)
    assert maintenance.lock_holder(path).held is False
    path.write_text("process 1 on another.machine, 2026-01-01 00:00:00\n")
    assert maintenance.lock_holder(path).held is None


def test_jobs_at_work_are_told_with_their_last_line(directory):
    planned = maintenance.read_plan(directory / "results")
    log = directory / "logs" / "detect_layout" / "00001.log"
    log.parent.mkdir(parents=True)
    log.write_text("")
    with store.stage_lock(directory, "detections", "00001", print):
        assert maintenance.running_jobs(directory, planned)[0].line == "it has just begun"
    line = "2026-01-01 10:00:00 INFO detect_layout: 1 of 2 documents (0 reused), 3 of 4 pages"
    log.write_text(
        f"2026-01-01 09:00:00 INFO computed bad.pdf\n{line}\n2026 INFO computed images\n"
    )
    assert maintenance.running_jobs(directory, planned) == []
    with store.stage_lock(directory, "detections", "00001", print):
        (job,) = maintenance.running_jobs(directory, planned)
        assert job[:3] == (
            "detect_layout",
            "00001",
            "1 of 2 documents (0 reused), 3 of 4 pages",
        )
        assert "detect_layout 00001: 1 of 2" in maintenance.describe_progress(directory)
    assert maintenance.running_jobs(directory, planned) == []
    # On another machine: at work, as far as anyone can tell, until its tables are there.
    lock = maintenance.stage_lock_file(directory, "detections", "00001")
    lock.write_text("process 1 on another.machine, 2026-01-01 00:00:00\n")
    assert maintenance.running_jobs(directory, planned) == []
    (directory / "results" / "detected_pages" / "00001.parquet").unlink()
    assert len(maintenance.running_jobs(directory, planned)) == 1


def test_a_hundred_thousand_documents_are_counted_in_seconds(tmp_path):
    results = tmp_path / "results"
    shards = {
        f"{shard:05d}": [f"box{shard}/{number:05d}.pdf" for number in range(2000)]
        for shard in range(50)
    }
    plan(tmp_path, shards)
    for shard in [*shards][:45]:
        for name in maintenance.STAGE_OF:
            write_dataset(name, [], results / name / f"{shard}.parquet")
    started = time.monotonic()
    said = maintenance.describe_progress(tmp_path)
    assert "90000 of 100000" in said
    assert time.monotonic() - started < 10


# A look at results


def test_results_are_described(finished, directory):
    said = maintenance.describe_results(finished)
    assert "5 documents with 8 pages in tables. Failed: 2 pages, 1 whole documents." in said
    assert "regions/                  8 rows" in said
    assert "Regions by class:    text 8" in said
    assert "Failures by reason:  detector 1, timeout 1" in said
    place = stored(finished, "a.pdf")
    for path in (
        place / "images" / "0001.png",
        place / "regions" / "0001.parquet",
        place / "crops" / "0001",
    ):
        assert path.exists()
        assert str(path) in said
    (directory / "results" / "documents.parquet").unlink()
    with pytest.raises(UserError, match="show_progress"):
        maintenance.describe_results(directory)


def test_regions_are_drawn(finished, tmp_path):
    results = finished / "results"
    drawn = list(maintenance.pages_to_draw(results, GOOD, "2"))
    assert [(each.page["document"], each.page["page"]) for each in drawn] == [(d, 2) for d in GOOD]
    paths = [maintenance.draw_page(results, each, tmp_path) for each in drawn]
    assert paths[1] == tmp_path / "box" / "0002.jpg"
    picture = cv2.imread(str(paths[0]))
    source = cv2.imread(str(results / drawn[0].page["image"]))
    assert picture.shape == source.shape
    # A coloured box where the region is, paper elsewhere.
    assert np.ptp(picture[20:40, 8:12].reshape(-1, 3).astype(int), axis=1).max() > 60
    assert np.ptp(picture[60:, :].reshape(-1, 3).astype(int), axis=1).max() < 20


def test_a_page_that_is_missing_is_not_drawn(directory, tmp_path):
    results = directory / "results"
    (drawn, _) = maintenance.pages_to_draw(results, ["a.pdf"], None)
    (results / drawn.page["image"]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"verify_results\.py .*--repair"):
        maintenance.draw_page(results, drawn, tmp_path)
    with pytest.raises(UserError, match="--pages"):
        list(maintenance.pages_to_draw(results, ["a.pdf"], "0-3"))


# The tools


TOOLS = {
    "show_progress": [],
    "show_results": [],
    "forget_results": ["--stage", "images", "--documents", "**"],
    "retry_failed": [],
    "verify_results": ["--repair"],
    "draw_regions": ["--documents", "**"],
}


@pytest.mark.parametrize("name", TOOLS)
def test_tools_say_what_is_wrong_where_there_are_no_results(name, tmp_path):
    done = tool(name, tmp_path / "mistyped", *TOOLS[name])
    assert done.returncode == 1
    assert done.stderr.startswith("error: There are no results in")
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("show_progress", ["--nonsense"]),
        ("forget_results", ["--stage", "plan", "--documents", "**"]),
        ("forget_results", ["--stage", "images"]),
    ],
)
def test_tools_refuse_options_that_they_have_not(name, options, finished):
    done = tool(name, finished, *options)
    assert done.returncode == 2
    assert "usage: " in done.stderr


@pytest.mark.parametrize("name", ["forget_results", "retry_failed", "verify_results"])
def test_tools_change_nothing_while_a_run_is_at_work(name, directory):
    before = contents(directory)
    descriptor = store.lock_directory(directory)
    done = tool(name, directory, *TOOLS[name])
    os.close(descriptor)
    assert done.returncode == 1
    assert f"process {os.getpid()}" in done.stderr
    assert contents(directory) == before


def test_looking_is_allowed_while_a_run_is_at_work(directory):
    descriptor = store.lock_directory(directory)
    for name in ("show_progress", "verify_results"):
        done = tool(name, directory)
        assert done.returncode == 0
        assert f"process {os.getpid()}" in done.stdout + done.stderr
    dry = tool("forget_results", directory, *TOOLS["forget_results"], "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[-1]) == (
        0,
        "Would forget the images of 5 documents.",
    )
    os.close(descriptor)


def test_forgetting_says_what_and_what_to_do_next(directory):
    done = tool("forget_results", directory, "--stage", "regions", "--documents", "b*")
    settings = directory / "results" / "settings.yaml"
    assert done.stdout.splitlines() == [
        "box",
        "bad.pdf",
        "Forgot the regions of 2 documents.",
        "Now run your snakemake command again. With the settings of the last run, that is",
        f"  snakemake --cores all --directory {directory} --configfile {settings}",
    ]
    assert run(directory) == [("regions", "box"), ("regions", "bad.pdf")]


def test_trying_again_takes_the_stage_that_failed(directory):
    dry = tool("retry_failed", directory, "--reason", "detector", "--dry-run")
    assert "Would try 1 documents again." in dry.stdout
    assert run(directory) == []
    done = tool("retry_failed", directory, "--reason", "detector,corrupt")
    assert done.stdout.splitlines()[0] == "bad.pdf (detections): detector 1"
    assert "images.limits" not in done.stdout
    assert run(directory) == [("detections", "bad.pdf")]
    assert "images.limits" in tool("retry_failed", directory).stdout
    assert run(directory) == [("images", "bad.pdf")]
    nothing = tool("retry_failed", directory, "--reason", "io")
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing failed for io.\n")
    wrong = tool("retry_failed", directory, "--reason", "slow")
    assert wrong.returncode == 1
    assert "slow is not a reason" in wrong.stderr


def test_verifying_and_repairing_as_users_do(finished, directory):
    assert tool("verify_results", directory).returncode == 0
    remove_image(directory)
    cut_dataset(directory)
    done = tool("verify_results", directory)
    assert done.returncode == 1
    assert "a.pdf, page 2 (images): " in done.stdout
    assert "9 of" not in done.stdout  # Of 9 images, those of a.pdf were not to be hashed.
    assert "5 of 5 documents, 7 page images" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("--repair")
    repaired = tool("verify_results", directory, "--repair")
    assert repaired.returncode == 0
    assert "snakemake --cores all" in repaired.stdout
    assert run(directory) == [("images", "a.pdf")]
    assert tool("verify_results", directory).returncode == 0
    assert contents(directory) == contents(finished)


def test_drawing_says_where(directory):
    done = tool("draw_regions", directory, "--documents", "b*", "--pages", "1")
    assert done.stdout.splitlines() == [str(directory / "drawings" / "box" / "0001.jpg")]
    assert "bad.pdf, page 1, failed: RuntimeError" in done.stderr
    nothing = tool("draw_regions", directory, "--documents", "bad.pdf")
    assert nothing.returncode == 1
    assert "error: None of the 1 chosen documents" in nothing.stderr


def test_a_reader_that_stops_reading_is_no_error(directory):
    command = [sys.executable, SCRIPTS / "forget_results.py", "--directory", directory]
    command += ["--stage", "images", "--documents", "**", "--dry-run"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        process.stdout.close()
        assert process.stderr.read() == ""

"""The tools know text where there is some, and do not miss it where nobody asked for it."""

import re
import shutil

import pytest
import yaml
from finished_run import (  # noqa: F401
    GOOD,
    PLAN,
    directory,
    finished,
    flip_value,
    stored,
    tool,
    verify,
)

from scanmill import store
from scanmill.maintenance import outcomes, read_plan, stages_in_use
from scanmill.store import StageStore, stages_of, write_dataset
from scanmill.summary import summarize_archive
from scanmill.tables import from_rows, read_table, write_table
from scanmill.verification import FORGET, REBUILD, RUN, SUMMARIZE


def row(document, page, **outcome):
    return {
        "document": document,
        "page": page,
        "detection": 1,
        "status": "ok",
        "text": "a",
        **outcome,
    }


def write_text(directory, enabled=True):
    """Give the run text, as if it had asked for it; one crop of `a.pdf` failed."""
    results = directory / "results"
    mine = StageStore(results, "ocr", {}, "code")
    for shard, documents in PLAN.items():
        for document in documents:
            late = {"status": "failed", "reason": "engine", "message": "it died", "text": None}
            rows = [row(document, 1), row(document, 2, **(late if document == "a.pdf" else {}))]
            table = from_rows("ocr", rows if document in GOOD else [])
            with mine.replace(document, mine.fingerprint("")) as draft:
                for page in (1, 2) if document in GOOD else ():
                    write_table(table.slice(page - 1, 1), draft.files / f"{page:04d}.parquet")
                draft.commit({"ocr": table})
        pieces = (mine.read(document, "ocr") for document in documents)
        write_dataset("ocr", pieces, results / "ocr" / f"{shard}.parquet")
    path = results / "settings.yaml"
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "ocr": {"enabled": enabled}})
    )
    files = [
        [results / name / f"{shard}.{suffix}" for shard in PLAN]
        for name, suffix in (
            ("shards", "tsv"),
            *((name, "parquet") for name in ("images", "pages", "crops", "ocr")),
        )
    ]
    outputs = [results / f"{name}.parquet" for name in ("documents", "failures")]
    summarize_archive(*files[:4], *outputs, files[4] if enabled else ())


@pytest.fixture
def with_text(directory):
    write_text(directory)
    return directory


def test_a_run_reads_text_if_it_is_told_to():
    assert "ocr" not in stages_of({})
    assert "ocr" not in stages_of({"ocr": {"enabled": False}})
    assert stages_of({"ocr": {"enabled": True}}) == list(store.STAGES)


def test_text_that_nobody_asked_for_is_not_missed(finished):
    assert "ocr" not in stages_in_use(finished / "results")
    assert verify(finished) == []
    assert "ocr" not in tool("show_progress", finished).stdout
    assert "ocr" not in tool("show_results", finished).stdout


def test_text_by_the_target_alone_is_checked_and_shown(directory):
    write_text(directory, enabled=False)
    assert "ocr" in stages_in_use(directory / "results")
    assert verify(directory) == []
    shutil.rmtree(directory / "results" / "ocr")
    assert verify(directory) == []


def test_failed_crops_are_failures_and_their_pages_ok(with_text):
    failures = read_table(with_text / "results/failures.parquet").to_pylist()
    assert [each for each in failures if each["stage"] == "ocr"] == [
        {"document": "a.pdf", "page": 2, "stage": "ocr", "reason": "engine", "message": "it died"}
    ]
    ok, failed = outcomes(with_text / "results", "00000", PLAN["00000"])
    assert (ok, failed["stage"].to_pylist()) == (6, ["ocr"])
    said = tool("show_progress", with_text).stdout
    assert "1 engine at ocr" in said
    assert "ocr                   2 of 2                  5 of 5  100 %" in said
    assert re.search(r"ocr/ +8 rows  the text", tool("show_results", with_text).stdout)


def test_text_is_verified(with_text):
    assert verify(with_text) == []
    flip_value(stored(with_text, "a.pdf") / "ocr.parquet")
    flip_value(stored(with_text, "box") / "ocr" / "0002.parquet")
    (stored(with_text, "images") / "ocr" / "0001.parquet").unlink()
    found = {(each.remedy, each.stage, each.document, each.page) for each in verify(with_text)}
    assert found == {
        (FORGET, "ocr", "a.pdf", None),
        (FORGET, "ocr", "box", 2),
        (FORGET, "ocr", "images", 1),
    }


def test_missing_and_damaged_datasets_of_text(with_text):
    (with_text / "results/ocr/00000.parquet").unlink()
    flip_value(with_text / "results/ocr/00001.parquet")
    assert {(each.remedy, each.stage) for each in verify(with_text)} == {
        (RUN, "ocr"),
        (REBUILD, "ocr"),
    }


def test_a_summary_without_the_failures_of_text_is_damaged(with_text):
    failures = with_text / "results/failures.parquet"
    write_table(read_table(failures).slice(0, 1), failures)
    assert {each.remedy for each in verify(with_text)} == {SUMMARIZE}


def test_text_is_forgotten(with_text):
    said = tool("forget_results", with_text, "--stage", "ocr", "--documents", "box/**")
    assert said.returncode == 0
    assert not (stored(with_text, "box/b[1].pdf") / "ocr.parquet").exists()
    assert (stored(with_text, "a.pdf") / "ocr.parquet").exists()
    assert not (with_text / "results/ocr/00000.parquet").exists()
    assert tool("retry_failed", with_text, "--reason", "engine").returncode == 0
    assert not (stored(with_text, "a.pdf") / "ocr.parquet").exists()
    assert set(read_plan(with_text / "results")) == set(PLAN)

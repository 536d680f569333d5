"""Results folders checked and repaired."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from finished_run import (
    DOCUMENTS,
    PLAN,
    SETTINGS,
    STAGES,
    contents,
    directory,  # noqa: F401
    finished,  # noqa: F401
    flip,
    flip_value,
    plan,
    run,
    stored,
    tool,
    verify,
)

from scanmill import maintenance, store, verification
from scanmill.archive import read_manifest, write_manifest
from scanmill.errors import UserError
from scanmill.store import drop_images, write_dataset
from scanmill.tables import (
    by_document,
    read_metadata,
    read_table,
    write_table,
)
from scanmill.verification import FORGET, MOVE, REBUILD, REPLAN, RUN, SUMMARIZE, Tally


def test_a_finished_run_is_sound(finished):
    tally = Tally(lambda line: None)
    documents, problems = verification.verify_plan(finished / "results")
    assert problems == []
    assert list(verification.verify_results(finished / "results", documents, 2, tally)) == []
    assert (tally.done, tally.documents, tally.images) == (5, 5, 9)
    assert verification.unplanned_folders(finished / "results", documents) == []
    assert run(finished) == []


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

    _, options = verification.repair_results(directory, problems)
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


def test_dropped_images_are_no_problem(finished, directory):
    drop_images(directory / "results", "a.pdf")
    assert verify(directory) == []
    said = tool("verify_results", directory).stdout
    assert "5 of 5 documents, 7 page images (0.0 MB, those of 1 document dropped) checked" in said
    # A damaged record is one all the same, and its images are not missed beside it.
    (stored(directory, "a.pdf") / "images.parquet").write_bytes(b"no table")
    (problem,) = verify(directory)
    assert (problem.document, problem.stage) == ("a.pdf", "images")
    assert "is damaged" in problem.what


@pytest.mark.parametrize(("damage", "expected"), REBUILT, ids=[d.__name__ for d, _ in REBUILT])
def test_what_is_damaged_in_a_dataset_is_put_together_again(finished, directory, damage, expected):
    damage(directory)
    problems = verify(directory)
    assert {(problem.stage, problem.shard) for problem in problems} == expected
    assert {problem.remedy for problem in problems} == {REBUILD}
    verification.repair_results(directory, problems)
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
    verification.repair_results(directory, problems)
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
    check = verification.ShardCheck(results, "00000", names, True, Tally(lambda line: None))
    rows = verification._read_result(results, stage, "a.pdf")
    found = 0
    for position in range(4, path.stat().st_size - 8, 181):
        flip(path, position)
        with ThreadPoolExecutor(2) as executor:
            problems = list(check.problems(executor))
        found += bool(problems)
        # Or the bit is one that no row depends on, such as of a statistic.
        assert problems or verification._read_result(results, stage, "a.pdf") == rows
        assert {problem[1:5] for problem in problems} <= {(FORGET, stage, "00000", "a.pdf")}
        flip(path, position)
    assert found > 5


def test_a_lost_manifest_is_found_by_what_it_leaves(directory):
    results = directory / "results"
    (results / "shards" / "00000.tsv").unlink()
    with pytest.raises(UserError, match="no plan"):
        verification.verify_plan(directory / "logs")
    problems = verify(directory)
    assert ("", "00000", REPLAN) in {(p.stage, p.shard, p.remedy) for p in problems}
    assert {p.stage for p in problems if p.remedy == REBUILD} == set(STAGES)
    _, options = verification.repair_results(directory, problems)
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
    _, options = verification.repair_results(directory, problems)
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
    verification.repair_results(directory, [problem])
    assert run(directory) == []
    assert contents(directory) == contents(finished)


def test_a_repair_that_is_stopped_has_removed_nothing(directory):
    change_image(directory)
    (directory / "results" / "settings.yaml").unlink()
    problems = verify(directory)
    assert {problem.remedy for problem in problems} == {FORGET, SUMMARIZE}
    before = contents(directory)
    with store.stage_lock(directory, "images", "00000", print), pytest.raises(UserError):
        verification.repair_results(directory, problems)
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
    verification.repair_results(directory, [problem])
    assert path.exists()


def test_folders_of_documents_that_are_gone_are_told(directory):
    shard = directory / "results" / "shards" / "00000.tsv"
    documents = read_manifest(shard)
    write_manifest(shard, [document for document in documents if document.document != "box"])
    (stored(directory, "a.pdf") / ".tmp-images-1").mkdir()
    kept = maintenance.read_plan(directory / "results")
    found = verification.unplanned_folders(directory / "results", kept)
    assert found == [stored(directory, "box")]


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

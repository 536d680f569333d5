"""What is left of documents that are gone, and of jobs that were killed, and what must stay."""

import shutil

import pytest
from finished_run import (
    contents,
    directory,  # noqa: F401
    finished,  # noqa: F401
    plan,
    run,
    stored,
    tool,
    verify,
)

from scanmill import leftovers, store
from scanmill.archive import read_manifest, write_manifest
from scanmill.errors import UserError
from scanmill.maintenance import SUMMARY, no_job_at_work
from scanmill.store import stage_lock_file


def drop(directory, document):
    """Take a document from the plan, as planning does, and run."""
    for path in (directory / "results" / "shards").glob("*.tsv"):
        documents = read_manifest(path)
        kept = [each for each in documents if each.document != document]
        if kept != documents:
            write_manifest(path, kept)
            for name in (f"images/{path.stem}.parquet", *SUMMARY):
                (directory / "results" / name).unlink()
    assert run(directory) == []


def found(directory):
    plan = leftovers.find_plan_to_keep(directory)
    return list(leftovers.find_leftovers(directory, plan))


def test_a_finished_run_has_no_leftovers(finished):
    assert found(finished) == []


def test_a_document_that_is_gone_goes_and_those_in_its_folder_stay(directory):
    folder = stored(directory, "box")
    mine = [*folder.glob("*.parquet"), *folder.glob("[irc]*/**/*.p*")]
    mine = [path for path in mine if path.is_file() and "b[1].pdf" not in path.parts]
    drop(directory, "box")
    (folder / ".tmp-images-1").mkdir()  # Goes with the document, and is not counted twice.
    (folder / "notes.txt").write_text("not ours")
    nested = {name: data for name, data in contents(directory).items() if "b[1].pdf/" in name}

    (leftover,) = found(directory)
    assert (leftover.path, leftover.what) == (folder, leftovers.DOCUMENT)
    assert leftover.files == len(mine) > 10
    assert leftover.bytes == sum(path.stat().st_size for path in mine)
    leftovers.remove_leftover(directory / "results", leftover)

    assert sorted(path.name for path in folder.iterdir()) == ["b[1].pdf", "notes.txt"]
    assert nested.items() <= contents(directory).items()
    assert found(directory) == []
    assert verify(directory) == []


def test_empty_folders_above_a_document_go_with_it(directory):
    drop(directory, "box/b[1].pdf")
    drop(directory, "box")
    drop(directory, "a.pdf")
    for leftover in found(directory):
        leftovers.remove_leftover(directory / "results", leftover)
    left = {path.name for path in (directory / "results" / "store").iterdir()}
    assert left == {"bad.pdf", "images"}


def test_what_killed_jobs_left_goes(finished, directory):
    left = [
        stored(directory, "a.pdf") / ".tmp-images-0a/files/0001.png",
        stored(directory, "box/b[1].pdf") / ".tmp-source",
        directory / "results/regions/.tmp-12-ab",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"123")
    lost_lock = stage_lock_file(directory, "crops", "00007")
    for path in (lost_lock, stage_lock_file(directory, "crops", "00000")):
        path.parent.mkdir(exist_ok=True)
        path.write_text("process 1")
    assert sum(each.bytes for each in found(directory)) == 9 + len("process 1")
    assert {each.what for each in found(directory)} == {leftovers.TEMPORARY, leftovers.LOCK}
    done = tool("prune_results", directory, "--yes")
    assert done.stdout.splitlines()[-1] == "Deleted: 4 files, 0.0 MB."
    assert contents(directory) == contents(finished)
    assert [path.name for path in lost_lock.parent.iterdir()] == ["crops-00000.lock"]


def test_a_planned_document_may_be_named_like_a_temporary(tmp_path):
    plan(tmp_path, {"00000": [".tmp-a.pdf"]})
    run(tmp_path)
    assert found(tmp_path) == []


def lose_plan(results):
    shutil.rmtree(results / "shards")


def damage_manifest(results):
    path = results / "shards/00001.tsv"
    path.write_bytes(path.read_bytes()[:-3])


def lose_manifest(results):
    (results / "shards/00001.tsv").unlink()


def lose_last_shard(results):
    for path in results.glob("*/00001.*"):
        path.unlink()


def lose_summary(results):
    (results / "documents.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_plan, "There is no plan"),
        (damage_manifest, "00001.tsv is damaged"),
        (lose_manifest, "00001.tsv is missing"),
        (lose_last_shard, "2 documents that are not planned, as bad.pdf"),
        (lose_summary, "has not come to its end"),
    ],
)
def test_nothing_is_deleted_where_the_plan_may_have_lost_something(directory, damage, message):
    damage(directory / "results")
    before = contents(directory)
    done = tool("prune_results", directory, "--yes")
    assert done.returncode == 1
    assert message in done.stderr
    assert contents(directory) == before


def test_nothing_is_deleted_while_a_job_is_at_work(directory):
    drop(directory, "box")
    before = contents(directory)
    with (
        store.stage_lock(directory, "images", "00000", print),
        pytest.raises(UserError, match="images-00000"),
        no_job_at_work(directory),
    ):
        pass
    with store.stage_lock(directory, "images", "00000", print):
        assert tool("prune_results", directory, "--yes").returncode == 1
    assert contents(directory) == before


def test_pruning_as_users_do(directory):
    drop(directory, "a.pdf")
    before = contents(directory)
    listed = tool("prune_results", directory)
    folder = stored(directory, "a.pdf")
    assert str(folder) in listed.stdout
    assert "With --yes" in listed.stdout
    assert contents(directory) == before
    assert tool("prune_results", directory, "--yes").returncode == 0
    assert not folder.exists()
    assert tool("prune_results", directory).stdout == "Would delete: 0 files, 0.0 MB.\n"
    assert run(directory) == []

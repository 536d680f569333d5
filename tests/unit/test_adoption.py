"""Results of other code taken over: records, and what Snakemake has noted of tables."""

import base64
import json

import pytest
from finished_run import (
    DOCUMENTS,
    PLAN,
    SETTINGS,
    STAGES,
    contents,
    directory,  # noqa: F401
    finished,  # noqa: F401
    flip_value,
    stored,
    tool,
    verify,
)

import scanmill
from scanmill import adoption, store
from scanmill.maintenance import DATASETS, read_plan
from scanmill.store import code_digest, read_record_metadata
from scanmill.tables import DamagedTable, read_table

OLD = "0123456789abcdef"
PARAMS = ["{'dpi': 300}", f"'{OLD}'", "{'note': 'fedcba9876543210'}"]


def note_file(directory, dataset, shard):
    name = f"results/{dataset}/{shard}.parquet".encode()
    return directory / ".snakemake/metadata" / base64.urlsafe_b64encode(name).decode()


@pytest.fixture
def noted(directory):
    """A finished run with what Snakemake notes of its tables."""
    for dataset in sum(DATASETS.values(), ()):
        for shard in PLAN:
            path = note_file(directory, dataset, shard)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"rule": "r", "params": PARAMS, "record_format_version": 6}))
    return directory


def notes(directory, stage, shard):
    return [
        json.loads(note_file(directory, name, shard).read_text())["params"]
        for name in DATASETS[stage]
    ]


def find(directory, stage, chosen=DOCUMENTS):
    plan = read_plan(directory / "results")
    return adoption.find_adoption(directory / "results", plan, stage, chosen)


@pytest.mark.parametrize("stage", STAGES)
def test_records_say_what_made_them_and_who_took_them_over(noted, stage):
    results, code = noted / "results", code_digest(stage)
    before = {name: read_record_metadata(results, name, stage) for name in DOCUMENTS}
    rows = {name: read_table(stored(noted, name) / f"{stage}.parquet") for name in DOCUMENTS}
    found = find(noted, stage)
    assert found.documents == DOCUMENTS
    assert found.made_by == {(scanmill.__version__, "code"): len(DOCUMENTS)}
    assert found.shards == list(PLAN)
    assert adoption.adopt(noted, found) == []

    for name in DOCUMENTS:
        after = read_record_metadata(results, name, stage)
        assert after["code"] == code
        assert after["data"] == before[name]["data"]
        kept = {key: before[name][key] for key in ("code", "fingerprint", "scanmill_version")}
        assert json.loads(after.pop("adopted_from")) == kept
        changed = {key for key in after if after[key] != before[name][key]}
        assert changed == {"code", "fingerprint"}
        assert read_table(stored(noted, name) / f"{stage}.parquet").equals(rows[name])
    now = [PARAMS[0], f"'{code}'", PARAMS[2]]
    assert all(note == now for shard in PLAN for note in notes(noted, stage, shard))
    assert verify(noted) == []
    assert find(noted, stage).documents == []


def test_the_present_code_reuses_what_it_took_over_and_no_more(noted):
    adoption.adopt(noted, find(noted, "images"))

    def state(settings, inputs):
        mine = store.StageStore(noted / "results", "images", settings, code_digest("images"))
        return mine.state("a.pdf", mine.fingerprint(inputs))

    assert state(SETTINGS["images"], "a.pdf") == "done"  # Its name stands for its inputs there.
    assert state(SETTINGS["images"], "other") == "stale"
    assert state({"dpi": 400}, "a.pdf") == "stale"


def test_twice_taken_over_keeps_the_first(noted):
    results = noted / "results"
    store.restamp(results, "box", "crops", "second")
    first = read_record_metadata(results, "box", "crops")["adopted_from"]
    store.restamp(results, "box", "crops", "third")
    again = read_record_metadata(results, "box", "crops")
    assert again["code"] == "third"
    assert again["adopted_from"] == first
    assert json.loads(first)["code"] == "code"


def test_some_documents_of_a_shard_leave_its_job_to_run(noted):
    found = find(noted, "regions", ["a.pdf", "bad.pdf", "images"])
    assert found.documents == ["a.pdf", "bad.pdf", "images"]
    assert found.shards == ["00001"]
    adoption.adopt(noted, found)
    assert notes(noted, "regions", "00000") == [PARAMS, PARAMS]
    assert PARAMS not in notes(noted, "regions", "00001")
    assert read_record_metadata(noted / "results", "box", "regions")["code"] == "code"
    # The others' turn: with what was taken over before, the shard is whole.
    assert find(noted, "regions").shards == list(PLAN)


def test_what_is_not_done_is_not_taken_over(noted):
    store.forget(noted / "results", "box", "detections")
    found = find(noted, "detections")
    assert found.documents == [name for name in DOCUMENTS if name != "box"]
    assert found.shards == ["00001"]


def test_a_damaged_record_stays_as_it_is(noted):
    path = stored(noted, "a.pdf") / "detections.parquet"
    flip_value(path)
    before = contents(noted)
    with pytest.raises(DamagedTable, match=r"detections\.parquet is damaged"):
        store.restamp(noted / "results", "a.pdf", "detections", "other")
    assert contents(noted) == before


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"params": null}', '{"params": ["1"]}', '{"params": [1]}']
)
def test_notes_of_another_form_are_left_alone_and_told(noted, text):
    path = note_file(noted, "crops", "00000")
    path.unlink() if text is None else path.write_text(text)
    assert adoption.adopt(noted, find(noted, "crops")) == ["00000"]
    assert path.exists() == (text is not None)
    assert text is None or path.read_text() == text


def test_adopting_as_users_do(noted):
    before = contents(noted)
    listed = tool("adopt_results", noted)
    assert f"crops: 5 documents of Scanmill {scanmill.__version__} (code code) ->" in listed.stdout
    assert "you vouch for it" in listed.stdout
    assert contents(noted) == before
    with store.stage_lock(noted, "crops", "00000", print):
        assert tool("adopt_results", noted, "--yes").returncode == 1
    assert contents(noted) == before

    some = tool("adopt_results", noted, "--stage", "crops", "--documents", "box/**", "--yes")
    assert "results of 2 documents" in some.stdout
    (left,) = tool("adopt_results", noted, "--stage", "crops").stdout.splitlines()[:-1]
    assert left.startswith("crops: 3 documents")
    assert tool("adopt_results", noted, "--yes").returncode == 0
    assert tool("adopt_results", noted).stdout == "".join(
        f"{stage}: nothing of other code.\n" for stage in store.STAGES
    )
    tables = {name: data for name, data in before.items() if not name.startswith("store/")}
    assert tables.items() <= contents(noted).items()

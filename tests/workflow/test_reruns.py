"""Nothing is computed twice: what runs again after what change, by shard and by document."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import (
    DOCUMENTS,
    REPOSITORY,
    SHARDS,
    SMALL,
    STAGES,
    SUMMARY,
    clone,
    contents,
    demo,
    documents_of,
    planned_jobs,
    reduced,
    rows,
    tables,
)

sys.path.append(str(REPOSITORY / "tests/unit"))
from scores import between

DATASETS = ("images", "detected_pages", "pages")
AFTER_REGIONS = {"select_regions", "crop_regions", *SUMMARY}


def test_nothing_changed(finished):
    assert finished.run().jobs == {}


def test_another_clone_of_the_repository(finished, tmp_path):
    repository = clone(tmp_path / "elsewhere/scanmill")
    assert finished.run(repository=repository).jobs == {}


def test_a_comment_in_the_library(finished, tmp_path):
    repository = clone(tmp_path / "scanmill")
    for module in ("rendering", "detector", "preprocessing", "pages", "regions", "crops", "store"):
        path = repository / f"scripts/scanmill/{module}.py"
        path.write_text("# A comment.\n" + path.read_text())
    assert finished.run(repository=repository).jobs == {}


def test_a_constant_of_the_regions(finished, tmp_path):
    repository = clone(tmp_path / "scanmill")
    path = repository / "scripts/scanmill/regions.py"
    assert "NESTED = 0.8\n" in path.read_text()
    # Other code, and by so little another constant that every page keeps its order.
    path.write_text(path.read_text().replace("NESTED = 0.8", "NESTED = 0.80001"))
    # Not one of the modules that decide results; in the jobs, too, it is the clone's that counts.
    progress = repository / "scripts/scanmill/progress.py"
    progress.write_text(progress.read_text().replace("pages/s", "pages a second"))

    accepted = finished.run("reuse={code: accept}", repository=repository)
    assert accepted.jobs.keys() == AFTER_REGIONS
    assert accepted.made == {}
    assert "pages a second" in accepted.output

    path.write_text(path.read_text().replace("NESTED = 0.80001", "NESTED = 0.80002"))
    strict = finished.run(repository=repository)
    assert strict.jobs.keys() == AFTER_REGIONS
    # What follows has the same content, and so is reused.
    assert strict.made == {"select_regions": DOCUMENTS}


def test_cores_and_running_settings(finished):
    running = [
        "detection={batch_size: 1, device: cpu}",
        "shards={max_documents: 2}",
        "reuse={code: accept}",
        "container=docker://registry/scanmill",  # Without --sdm apptainer it is ignored.
    ]
    assert finished.run(*running, cores=1).jobs == {}


# The archive --------------------------------------------------------------------------------------


def test_a_touched_document(finished):
    before = tables(finished.directory)
    os.utime(finished.archive / "letters/two.pdf")
    run = finished.run()
    assert run.documents["render_pages"].keys() == SHARDS["00000"]
    assert run.made == {}
    after = tables(finished.directory)
    # The manifest notes the new time, no table does.
    assert {name for name in after if after[name] != before[name]} == {"results/shards/00000.tsv"}
    assert finished.run().jobs == {}


def test_clocks_that_differ_by_a_minute(finished):
    """Nodes of a cluster wrote the tables, one of them a minute behind."""
    before = tables(finished.directory)
    for dataset in ("detections", "detected_pages", "crops"):
        for path in (finished.directory / "results" / dataset).iterdir():
            behind = path.stat().st_mtime_ns - 60 * 10**9
            os.utime(path, ns=(behind, behind))
    assert finished.run().made == {}
    assert tables(finished.directory) == before


def test_times_in_whole_seconds(finished):
    """As a file system keeps them that has nothing finer."""
    for path in (finished.directory / "results").glob("*/*"):
        seconds = int(path.stat().st_mtime)
        os.utime(path, (seconds, seconds))
    assert finished.run().jobs == {}


def test_tables_of_another_release(finished):
    table = finished.directory / "results/pages/00000.parquet"
    older = pq.read_table(table)
    metadata = {**older.schema.metadata, b"scanmill.schema_version": b"0"}
    pq.write_table(older.replace_schema_metadata(metadata), table)
    (finished.directory / "results/summary.txt").unlink()
    run = finished.run(ok=False)
    assert "results/pages/00000.parquet has tables of version 0" in run.output
    assert run.jobs == {}


def test_a_copy_of_the_archive(finished, tmp_path):
    copied = tmp_path / "another disk/scans"
    shutil.copytree(finished.archive, copied, copy_function=shutil.copyfile)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/torch.py").write_text("raise ImportError('nothing is to be detected')")
    run = finished._replace(archive=copied).run(env={"PYTHONPATH": str(tmp_path / "broken")})
    assert run.documents["render_pages"].keys() == DOCUMENTS
    assert run.made == {}


def test_documents_changed_added_and_removed(finished):
    before = contents(finished.directory, "results/store/**/*.parquet")
    demo.write_vector_pdf(finished.archive / "letters/two.pdf", 1, 12, SMALL)
    demo.write_vector_pdf(finished.archive / "alpha.pdf", 1, 13, SMALL)
    shutil.rmtree(finished.archive / "album")
    run = finished.run()

    changed = {"letters/two.pdf", "alpha.pdf"}  # The new one is in the last shard, which has room.
    assert run.documents["render_pages"]["zeta.tif"] == "reused"
    assert run.made == dict.fromkeys(STAGES, changed)
    now = DOCUMENTS - {"album"} | {"alpha.pdf"}
    for dataset in DATASETS:
        opened = now - {"broken.pdf"} if dataset == "detected_pages" else now
        assert documents_of(finished.directory, dataset) == opened
    for dataset in ("detections", "regions", "crops"):
        assert documents_of(finished.directory, dataset) <= now
    assert documents_of(finished.directory, "documents.parquet") == now
    after = contents(finished.directory, "results/store/**/*.parquet")
    touched = {name for name in after if after[name] != before.get(name)}
    assert {name for name in touched if not any(f"/{each}/" in name for each in changed)} == set()


def test_the_only_document_of_a_shard_removed(finished):
    (finished.archive / "zeta.tif").unlink()
    run = finished.run()
    assert run.jobs["render_pages"] == {"00001"}
    assert run.made == {}
    for dataset in (*DATASETS, "detections", "regions", "crops", "documents.parquet"):
        assert "zeta.tif" not in documents_of(finished.directory, dataset)
    assert (finished.directory / "results/images/00001.parquet").exists()
    assert finished.run().jobs == {}


# Settings -----------------------------------------------------------------------------------------


def test_a_threshold(finished):
    def scores():
        return sorted(row["score"] for row in rows(finished.directory, "regions", "score"))

    known = scores()
    least = between(known)
    run = finished.run(f"regions={{min_score: {least}}}")
    assert run.jobs.keys() == AFTER_REGIONS
    assert run.made["select_regions"] == DOCUMENTS
    assert scores() == [score for score in known if score > least]


@pytest.mark.parametrize(
    ("setting", "jobs"),
    [
        ("regions={classes: [text]}", AFTER_REGIONS),
        ("regions={reading_order: position}", AFTER_REGIONS),
        ("regions={duplicate_iou: 0.9}", AFTER_REGIONS),
        ("crops={padding: 3}", {"crop_regions", *SUMMARY}),
        ("crops={classes: [table]}", {"crop_regions", *SUMMARY}),
        ("failures={max_failed_fraction: 0.4}", {"check_failures"}),
        ("detection={score_floor: 0.1}", {"detect_layout", *AFTER_REGIONS}),
        ("images={jpeg_quality: 80}", {*STAGES, *SUMMARY}),
    ],
)
def test_settings_of_one_stage(undisturbed, setting, jobs):
    assert planned_jobs(undisturbed.directory, *undisturbed.config, setting).keys() == jobs


def test_the_resolution(finished):
    run = finished.run("images={dpi: 60}")
    # Files of images are not rendered, so that nothing follows from another resolution for them; a
    # page of A4 is small enough now.
    assert reduced(finished.directory) == []
    assert run.made["render_pages"] == DOCUMENTS
    assert run.made["detect_layout"] == {"letters/one.pdf", "letters/two.pdf", "mixed.pdf"}
    assert [row["page"] for row in rows(finished.directory, "failures.parquet")] == [None]


def test_a_raised_limit_tries_the_pages_again_that_met_it(finished):
    images = contents(finished.directory, "results/store/mixed.pdf/images/*")
    run = finished.run("images={limits: {max_pixels: 600000}}")
    assert run.documents["render_pages"]["mixed.pdf"] == "retried"
    assert run.made == {rule: {"mixed.pdf"} for rule in STAGES}
    assert reduced(finished.directory) == []
    after = contents(finished.directory, "results/store/mixed.pdf/images/*")
    (same,) = images.items() & after.items()
    assert same[0].endswith("0001.jpg")
    assert after.keys() == images.keys()
    assert finished.run("images={limits: {max_pixels: 600000}}").jobs == {}


# Models -------------------------------------------------------------------------------------------


def make_model(folder, change):
    """The shipped model with one of its numbers changed."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "model.json"):
        shutil.copyfile(REPOSITORY / "models/scanmill-layout" / name, folder / name)
    weights = load_file(REPOSITORY / "models/scanmill-layout/model.safetensors")
    name = "roi_heads.box_predictor.cls_score.bias"
    weights[name] = weights[name] + change
    save_file(weights, folder / "model.safetensors")
    card = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card["sha256"]["model.safetensors"] = digest
    (folder / "model.json").write_text(json.dumps({**card, "name": folder.name}))


def test_another_model_and_the_same_retrained(finished):
    known = contents(finished.directory, "results/detections/*")
    make_model(finished.directory / "models/mine", 0.05)
    planned = planned_jobs(finished.directory, *finished.config, "model=mine")
    assert planned["detect_layout"] == len(SHARDS)
    assert "render_pages" not in planned
    # Of all that, the smaller shard is enough.
    mine = {"target": "results/detections/00001.parquet"}
    run = finished.run("model=mine", **mine)
    assert run.jobs == {"fetch_model": {"mine"}, "detect_layout": {"00001"}}
    assert run.made == {"detect_layout": {"zeta.tif"}}
    other = contents(finished.directory, "results/detections/*")
    assert {name for name in known if other[name] != known[name]} == {mine["target"]}

    make_model(finished.directory / "models/mine", 0.1)
    run = finished.run("model=mine", **mine)
    assert run.jobs == {"fetch_model": {"mine"}, "detect_layout": {"00001"}}
    assert run.made == {"detect_layout": {"zeta.tif"}}
    retrained = contents(finished.directory, "results/detections/*")
    assert retrained[mine["target"]] != other[mine["target"]]
    assert finished.run("model=mine", **mine).jobs == {}


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "deleted",
    [
        ("images/00000", "pages/00001"),
        ("detections/00000", "crops/00001"),
        ("regions/00000", "detected_pages/00001"),
    ],
)
def test_deleted_tables_are_made_again_from_the_store(finished, deleted):
    before = tables(finished.directory)
    for name in deleted:
        (finished.directory / f"results/{name}.parquet").unlink()
    assert finished.run().made == {}
    assert tables(finished.directory) == before


@pytest.mark.parametrize(
    "name", ["documents.parquet", "provenance.json", "report.html", "summary.txt"]
)
def test_a_deleted_summary_is_made_again(finished, name):
    before = tables(finished.directory)
    (finished.directory / "results" / name).unlink()
    assert finished.run().jobs.keys() <= SUMMARY
    assert (finished.directory / "results" / name).exists()
    assert tables(finished.directory) == before


def test_deleted_manifests_are_made_again(finished):
    before = tables(finished.directory)
    for shard in SHARDS:
        (finished.directory / f"results/shards/{shard}.tsv").unlink()
    assert finished.run().made == {}
    assert tables(finished.directory) == before
    assert finished.run().jobs.keys() <= {"plan_shards", *SUMMARY}
    assert finished.run().jobs == {}


def test_a_damaged_table_is_named_and_made_again_when_deleted(finished):
    before = tables(finished.directory)
    damaged = finished.directory / "results/detections/00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    run = finished.run(ok=False)
    assert "results/detections/00000.parquet is damaged" in run.output
    assert "Delete it and run again" in run.output
    damaged.unlink()
    assert finished.run().made == {}
    assert tables(finished.directory) == before


@pytest.mark.parametrize("lost", ["letters/one.pdf", "."])
def test_a_deleted_folder_of_the_store_is_named_and_made_again_after_the_repair(
    finished, undisturbed, lost
):
    """The folder of a document, or the whole store."""
    shutil.rmtree(finished.directory / "results/store" / lost)
    (finished.directory / "results/crops/00000.parquet").unlink()
    run = finished.run(ok=False)
    repair = re.search(r"`python (scripts/verify_results.py --repair .*?)`", run.output)[1]
    assert shlex.split(repair)[-1] == str(finished.directory)

    verify = [sys.executable, *shlex.split(repair)]
    looked = subprocess.run([*verify[:2], *verify[3:]], cwd=REPOSITORY, capture_output=True)
    assert looked.returncode == 1
    assert b"letters/one.pdf" in looked.stdout
    subprocess.run(verify, cwd=REPOSITORY, check=True)

    gone = DOCUMENTS if lost == "." else {lost}
    made = finished.run().made
    # What has no page needs no page image: its crops, none, were made before the repair.
    assert made.pop("crop_regions") == gone - {"broken.pdf"}
    assert made == {rule: gone for rule in STAGES if rule != "crop_regions"}
    assert tables(finished.directory) == tables(undisturbed.directory)
    again = subprocess.run([*verify[:2], *verify[3:]], cwd=REPOSITORY, capture_output=True)
    assert again.returncode == 0, again.stdout


# Settings reach a run -----------------------------------------------------------------------------


def test_all_ways_to_say_a_setting_see_all_defaults(finished, tmp_path):
    one_key = tmp_path / "one.yaml"
    one_key.write_text("crops: {padding: 9}\n")
    same = (finished.directory, *finished.config)
    crops = {"crop_regions": len(SHARDS), **dict.fromkeys(SUMMARY, 1)}
    # A default that one of them missed would have other rules run.
    assert planned_jobs(*same, "--configfile", one_key) == crops
    assert planned_jobs(*same, "crops={padding: 9}") == crops

    path = finished.directory / "results/settings.yaml"
    known = yaml.safe_load(path.read_text())
    finished.run("failures={max_failed_fraction: 0.6}")
    known["archive"]["path"] = str(finished.archive)
    known["failures"]["max_failed_fraction"] = 0.6
    assert yaml.safe_load(path.read_text()) == known

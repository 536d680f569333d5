"""Results folders: progress, forgetting, trying again, drawing; the tools' command lines."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from finished_run import (
    GOOD,
    PLAN,
    SCRIPTS,
    contents,
    directory,  # noqa: F401
    finished,  # noqa: F401
    plan,
    run,
    stored,
    tool,
)

from scanmill import maintenance, store
from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.store import write_dataset
from scanmill.tables import (
    from_rows,
    read_table,
)

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
    # A later stage that drops page images, or puts them back, has their lock.
    with store.stage_lock(directory, "images", "00001", print):
        assert maintenance.running_jobs(directory, planned) == []
    # Snakemake removes what a job is to make.
    made = directory / "results" / "detected_pages" / "00001.parquet"
    content = made.read_bytes()
    made.unlink()
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
    lock = store.stage_lock_file(directory, "detections", "00001")
    lock.write_text("process 1 on another.machine, 2026-01-01 00:00:00\n")
    made.write_bytes(content)
    assert maintenance.running_jobs(directory, planned) == []
    made.unlink()
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


def test_last_words_name_the_report(directory):
    report = directory / "results" / "report.html"
    assert "report" not in maintenance.describe_results(directory)
    report.touch()
    assert maintenance.describe_results(directory).endswith(str(report))


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
    store.drop_images(directory / "results", "a.pdf")
    assert "dropped (images.keep: false)" in maintenance.describe_results(directory)
    (directory / "results" / "documents.parquet").unlink()
    with pytest.raises(UserError, match="show_progress"):
        maintenance.describe_results(directory)


def pages_to_draw(directory, documents, pages, folder):
    with Renderer(directory, [], 1) as renderer:
        found = maintenance.pages_to_draw(directory / "results", documents, pages, renderer, folder)
        return list(found)


def test_regions_are_drawn(finished, tmp_path):
    results = finished / "results"
    drawn = pages_to_draw(finished, GOOD, "2", tmp_path)
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
    (drawn, _) = pages_to_draw(directory, ["a.pdf"], None, tmp_path)
    (results / drawn.page["image"]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"verify_results\.py .*--repair"):
        maintenance.draw_page(results, drawn, tmp_path)
    with pytest.raises(UserError, match="--pages"):
        pages_to_draw(directory, ["a.pdf"], "0-3", tmp_path)


# The tools


TOOLS = {
    "show_progress": [],
    "show_results": [],
    "forget_results": ["--stage", "images", "--documents", "**"],
    "retry_failed": [],
    "verify_results": ["--repair"],
    "draw_regions": ["--documents", "**"],
    "sample_pages": ["--output", "mistyped", "--n", "3"],
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


def test_overrides_are_told_from_what_stands_before_them():
    files = ["a.jpg", "MODEL", "b.JPG", "readme.md"]
    pairs = ["MODEL.WEIGHTS", "x.pth", "INPUT.MIN_SIZE_TEST", "3"]
    assert maintenance.split_overrides([*files, *pairs]) == (files, pairs)
    assert maintenance.split_overrides(files) == (files, [])
    assert maintenance.split_overrides(pairs) == ([], pairs)

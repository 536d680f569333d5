"""Whatever is killed, and whenever: the same command goes on, and ends as if nothing had happened."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    PATIENCE,
    SHARDS,
    assert_none_survives,
    command,
    processes_in,
    run_workflow,
    tables,
    write_settings,
)

#: Pages go one by one, so that a document's record is written while others still wait.
SLOWLY = "detection={batch_size: 1}"


class Started:
    """A run of Snakemake in a process group of its own, as a terminal starts it."""

    def __init__(self, directory, *arguments, **options):
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                **command(directory, *arguments, **options),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, path):
        """Return as soon as the file is there."""
        self._wait_until(path.exists)

    def wait_for_line(self, text):
        """Return as soon as the run has said so."""
        self._wait_until(lambda: text in self.log.read_text())

    def _wait_until(self, holds):
        end = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.002)

    def put_job_to_sleep(self):
        """Stop the processes of its jobs, which would be done before the next run finds them."""
        job = [process for process in processes_in(self.directory) if process != self.process.pid]
        for process in job:
            os.kill(process, signal.SIGSTOP)
        return job

    def kill(self, whole_group):
        kill = os.killpg if whole_group else os.kill
        kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wake(job):
    for process in job:
        os.kill(process, signal.SIGCONT)


def parent_of(process):
    status = Path(f"/proc/{process}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def records(directory, stage):
    """The documents of the first shard that a stage has done."""
    store = directory / "results/store"
    return {name for name in SHARDS["00000"] if (store / name / f"{stage}.parquet").exists()}


def outcomes(directory, rule):
    lines = (directory / f"logs/{rule}/00000.log").read_text().splitlines()
    words = [line.split(" ", 4)[3:] for line in lines]
    return {name: outcome for outcome, name in words if outcome in ("computed", "reused")}


@pytest.fixture
def half_done(finished):
    """The finished run without the detections of the first shard."""
    results = finished.directory / "results"
    for name in SHARDS["00000"]:
        (results / "store" / name / "detections.parquet").unlink()
    (results / "detections/00000.parquet").unlink()
    return finished


def test_a_run_killed_twice_in_the_middle_of_a_shard(undisturbed, tmp_path):
    directory = tmp_path / "run"
    write_settings(directory)
    same = (directory, *undisturbed.config, SLOWLY)
    store = directory / "results/store"

    first = Started(*same, cores=1)
    first.wait_for(store / "album/images.parquet")
    first.kill(whole_group=True)
    rendered = records(directory, "images")
    assert "album" in rendered < SHARDS["00000"]
    assert_none_survives(directory)

    second = Started(*same, cores=1)
    second.wait_for(store / "album/detections.parquet")
    second.kill(whole_group=True)
    reused = {
        n for n, outcome in outcomes(directory, "render_pages").items() if outcome == "reused"
    }
    assert reused == rendered
    detected = records(directory, "detections")
    assert "album" in detected < SHARDS["00000"]
    assert_none_survives(directory)

    last = run_workflow(*same, cores=1)
    assert "render_pages" not in last.jobs or "00000" not in last.jobs["render_pages"]
    everything = set.union(*SHARDS.values())
    assert last.made["detect_layout"] == everything - detected
    assert tables(directory) == tables(undisturbed.directory)
    assert_none_survives(directory)


def test_snakemake_killed_and_its_job_living_on(half_done, undisturbed):
    directory = half_done.directory
    run = Started(directory, *half_done.config, SLOWLY)
    run.wait_for(directory / "results/store/album/detections.parquet")
    job = run.put_job_to_sleep()
    run.kill(whole_group=False)
    assert records(directory, "detections") < SHARDS["00000"]

    again = Started(directory, *half_done.config, SLOWLY)
    again.wait_for_line("is at work on detections of shard 00000; its results will be reused")
    wake(job)
    assert again.process.wait(PATIENCE) == 0
    assert outcomes(directory, "detect_layout") == dict.fromkeys(SHARDS["00000"], "reused")
    assert tables(directory) == tables(undisturbed.directory)
    assert_none_survives(directory)


def test_a_job_killed_alone_takes_its_loaders_with_it(half_done, undisturbed):
    """As the kernel does for want of memory. They stand still, and could not notice by themselves."""
    directory = half_done.directory
    run = Started(directory, *half_done.config, SLOWLY)
    run.wait_for(directory / "results/store/album/detections.parquet")
    at_work = set(run.put_job_to_sleep())
    (job,) = (process for process in at_work if parent_of(process) not in at_work)
    helpers = at_work - {job}
    assert helpers
    os.kill(job, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while helpers & set(processes_in(directory)):
        assert time.monotonic() < end, helpers
        time.sleep(0.01)
    assert run.process.wait(PATIENCE) != 0
    assert_none_survives(directory)

    assert half_done.run().made["detect_layout"] < SHARDS["00000"]
    assert tables(directory) == tables(undisturbed.directory)


def test_a_run_stopped_by_the_keyboard(half_done, undisturbed):
    directory = half_done.directory
    run = Started(directory, *half_done.config, SLOWLY)
    run.wait_for(directory / "results/store/album/detections.parquet")
    job = run.put_job_to_sleep()  # Or a busy machine would interrupt it when it is done.
    os.killpg(run.process.pid, signal.SIGINT)
    wake(job)
    assert run.process.wait(PATIENCE) != 0
    output = run.log.read_text()
    assert "interrupted: everything finished so far is kept" in output
    assert "Traceback" not in output
    detected = records(directory, "detections")
    assert_none_survives(directory)

    assert half_done.run().made == {"detect_layout": SHARDS["00000"] - detected}
    assert tables(directory) == tables(undisturbed.directory)


def test_a_second_run_in_the_same_folder_says_so_and_stops(half_done, undisturbed):
    directory = half_done.directory
    run = Started(directory, *half_done.config, SLOWLY)
    run.wait_for(directory / "results/store/album/detections.parquet")
    job = run.put_job_to_sleep()
    second = half_done.run(ok=False)
    wake(job)
    assert f"Another run or tool is at work in {directory} (process {run.process.pid} on" in (
        second.output
    )
    assert "Finished jobid" not in second.output
    assert run.process.wait(PATIENCE) == 0
    assert tables(directory) == tables(undisturbed.directory)
    assert_none_survives(directory)

"""The cluster profile on a real Slurm, of one node: equal tables, jobs and nodes that die."""

import os
import re
import signal
import subprocess
import time

import psutil
import pytest
import yaml
from conftest import (
    DOCUMENTS,
    PATIENCE,
    REPOSITORY,
    SHARDS,
    command,
    copy,
    planned_jobs,
    run_workflow,
    tables,
    write_settings,
)
from slurm_cluster import Cluster, why_not

from scanmill.maintenance import forget_results

PROFILE = REPOSITORY / "profiles/slurm"
#: This Slurm has no accounting, and a job here takes seconds.
HERE = (
    *("--workflow-profile", PROFILE, "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    *("--latency-wait", "10"),
)


# What dies, dies twice, on two clusters: it must not be luck that it did no harm.
@pytest.fixture(scope="module", params=["once", "again"])
def cluster(tmp_path_factory):
    if reason := why_not():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    except TimeoutError as error:  # Of Debian's daemons, not of anything here.
        pytest.skip(f"Slurm does not start on this machine: {error}")
    finally:
        cluster.stop()


@pytest.fixture
def submitted(cluster, undisturbed, tmp_path):
    """The arguments of `run_workflow` for a run of the archive that others ran here, on the cluster."""
    directory = tmp_path / "run"
    # No GPU here, nor in the cluster: `auto` asks for one wherever jobs go to other machines.
    write_settings(directory, detection={"device": "cpu"})
    arguments = (directory, "all", "--config", f"archive={undisturbed.archive}", *HERE)
    return arguments, {"env": cluster.environment}


def wait_for(found, process):
    """What `found` returns once it is true, while `process` runs."""
    end = time.monotonic() + PATIENCE
    while not (it := found()):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)
    return it


def holder(directory, stage):
    """The process of a job that is at work on a stage, as its lock names it."""
    for path in (directory / ".scanmill").glob(f"{stage}-*.lock"):
        said = re.match(r"process (\d+) on ", path.read_text())
        # This process forgets results, under the same lock.
        if said and int(said[1]) != os.getpid() and works(int(said[1])):
            return int(said[1])
    return None


def works(number):
    """Whether a process runs: one that nobody waited for is still there when it has ended."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(arguments, options):
    return subprocess.Popen(
        **command(*arguments, **options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_killed_job_is_tried_again_and_tables_are_those_of_a_local_run(submitted, undisturbed):
    arguments, options = submitted
    directory, _, *further = arguments
    run_workflow(directory, "images", *further, **options)
    process = start(arguments, options)
    os.kill(wait_for(lambda: holder(directory, "detections"), process), signal.SIGKILL)
    output = process.communicate(timeout=2 * PATIENCE)[0].decode()
    assert process.returncode == 0, output
    # All page images were there.
    assert re.search(r"Submitted array job with Snakemake IDs \d+,\d+ and SLURM job ID", output)
    assert "Trying to restart job" in output
    assert tables(directory) == tables(undisturbed.directory)
    # Nor would a run on this machine find anything left to do.
    assert planned_jobs(*arguments[:4]) == {}


def test_node_that_dies_costs_nothing_but_time(submitted, undisturbed, cluster):
    arguments, options = submitted
    directory = arguments[0]
    copy(undisturbed.directory / "results", directory / "results")
    forget_results(
        directory, {("detections", shard): documents for shard, documents in SHARDS.items()}
    )
    process = start(arguments, options)
    job = wait_for(lambda: holder(directory, "detections"), process)
    cluster.kill_node()
    wait_for(lambda: not works(job), process)
    # Whoever started the run gives up on it, too.
    process.kill()
    process.communicate()
    cluster.start_node()
    run = run_workflow(*arguments, **options)
    assert tables(directory) == tables(undisturbed.directory)
    assert run.jobs["detect_layout"] == set(SHARDS)
    assert set(run.documents["detect_layout"]) == DOCUMENTS


@pytest.mark.parametrize("cluster", ["once"], indirect=True)
def test_job_over_its_memory_is_tried_again_with_more(submitted, undisturbed):
    arguments, options = submitted
    directory = arguments[0]
    copy(undisturbed.directory / "results", directory / "results")
    shard, documents = next(iter(SHARDS.items()))
    forget_results(directory, {("detections", shard): documents})
    # The detector takes a gigabyte.
    wanted = ("--set-resources", "detect_layout:mem_mb=400+4000*(attempt-1)")
    run = run_workflow(*arguments, *wanted, **options)
    failed, again, _ = run.output.partition("Trying to restart job")
    assert again
    assert "Error in rule detect_layout" in failed
    assert f"results/detections/{shard}.parquet" in failed
    assert tables(directory) == tables(undisturbed.directory)


@pytest.mark.parametrize("cluster", ["once"], indirect=True)
def test_partition_that_does_not_exist_is_named(submitted):
    arguments, options = submitted
    wanted = ("--set-resources", "render_pages:slurm_partition=nowhere", "--retries", "0")
    run = run_workflow(*arguments, *wanted, ok=False, **options)
    assert "invalid partition specified: nowhere" in run.output
    assert "render_pages" in run.output


@pytest.mark.parametrize("cluster", ["once"], indirect=True)
@pytest.mark.parametrize("limit", [("--jobs", "5"), ("--resources", "gpu=1")])
def test_limit_that_would_hold_arrays_back_is_refused(submitted, limit):
    arguments, options = submitted
    run = run_workflow(*arguments, *limit, ok=False, **options)
    assert "slurm-array-jobs" in run.output
    assert not run.jobs


def test_profile_repeats_the_default_one():
    default = yaml.safe_load((REPOSITORY / "profiles/default/profile.yaml").read_text())
    profile = yaml.safe_load((PROFILE / "profile.yaml").read_text())
    # How many GPUs this machine has says nothing of a cluster.
    del default["resources"]
    assert default.items() <= profile.items()
    assert "resources" not in profile

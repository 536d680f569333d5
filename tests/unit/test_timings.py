"""How long jobs took, by Snakemake's benchmarks and the jobs' logs."""

import pytest

from scanmill.timings import StageTime, stage_times

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write_job(directory, rule, shard, seconds, memory, computed=None):
    benchmark = directory / "benchmarks" / rule / f"{shard}.tsv"
    log = directory / "logs" / rule / f"{shard}.log"
    for path in (benchmark, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    benchmark.write_text(f"{HEAD}{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t1\t1\n")
    if computed is not None:
        line = f"{rule}: 2 of 2 documents (0 reused), 9 pages, 1.00 pages/s"
        text = f"2026 INFO {line}; computed {computed} pages; done in 0:00:09\n"
        log.write_text("2026 INFO computed a; computed 7 pages; done in b.pdf\n" * 300 + text)


def test_jobs_of_a_rule_are_added(tmp_path):
    write_job(tmp_path, "detect_layout", "00000", 20.0, 900.5, 30)
    write_job(tmp_path, "detect_layout", "00001", 5.0, 950.0, 0)
    write_job(tmp_path, "crop_regions", "00000", 0.4, "NA", 10)
    [detection, crops] = stage_times(tmp_path, ["render_pages", "detect_layout", "crop_regions"])
    assert detection == StageTime("detect_layout", 2, 30, 25.0, 20.0, 950.0)
    # What reused everything does not make the others slow.
    assert detection.pages_per_second == pytest.approx(1.5)
    assert crops.memory_mb == 0
    assert crops.pages_per_second == pytest.approx(25)


def test_jobs_that_reused_everything_have_no_speed(tmp_path):
    write_job(tmp_path, "render_pages", "00000", 2.0, 90.0, 0)
    write_job(tmp_path, "render_pages", "00001", 2.0, 90.0)
    [stage] = stage_times(tmp_path, ["render_pages"])
    assert (stage.pages, stage.pages_per_second) == (0, None)


def test_without_benchmarks_nothing_is_known(tmp_path):
    assert list(stage_times(tmp_path, ["render_pages"])) == []
    (tmp_path / "benchmarks" / "render_pages").mkdir(parents=True)
    (tmp_path / "benchmarks" / "render_pages" / "00000.tsv").write_text(HEAD + "1.0")
    assert list(stage_times(tmp_path, ["render_pages"])) == []

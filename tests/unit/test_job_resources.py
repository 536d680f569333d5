"""What jobs ask a cluster for."""

from itertools import pairwise

import pytest

from scanmill.archive import Document, write_manifest
from scanmill.job_resources import (
    MOST_MINUTES,
    NEEDS,
    ShardSize,
    largest_shard,
    memory_mb,
    runtime_minutes,
    shard_size,
)

SMALL, LARGE = ShardSize(16, 10**6), ShardSize(2048, 8 * 10**9)


def test_sizes_are_those_of_the_manifests(tmp_path):
    for shard, sizes in {"00000": [10, 20], "00001": [5 * 10**8], "00002": []}.items():
        documents = [Document(f"{size}.pdf", "pdf", f"{size}.pdf", size, 1) for size in sizes]
        write_manifest(tmp_path / f"{shard}.tsv", documents)
    assert shard_size(tmp_path / "00000.tsv") == ShardSize(2, 30)
    assert shard_size(tmp_path / "00002.tsv").pages == 0
    assert largest_shard(tmp_path) == ShardSize(1, 5 * 10**8)


@pytest.mark.parametrize("rule", NEEDS)
def test_more_pages_and_more_attempts_get_more(rule):
    need = NEEDS[rule]
    for ask in (memory_mb, runtime_minutes):
        assert ask(need, SMALL, 1) < ask(need, LARGE, 1)
        asked = [ask(need, SMALL, attempt) for attempt in (1, 2, 3)]
        assert all(first < second for first, second in pairwise(asked))
    # A partition takes it.
    assert runtime_minutes(need, LARGE, 3) <= MOST_MINUTES
    assert memory_mb(need, LARGE, 1) < 32_000


def test_a_processor_gets_more_time_to_detect_than_a_gpu():
    sizes = ShardSize(100, 10**8)
    on_cpu, on_gpu = NEEDS["detect_layout_cpu"], NEEDS["detect_layout"]
    assert runtime_minutes(on_cpu, sizes, 1) > 2 * runtime_minutes(on_gpu, sizes, 1)

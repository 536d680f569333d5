"""Estimates are right on average, and their intervals hold; hours follow from jobs side by side."""

import numpy as np
import pytest
import yaml

from scanmill import forecast
from scanmill.forecast import Archive, Files, Job, Measured, Piece, Rate, Trial, Usage

RULES = {"images": "render_pages", "detections": "detect_layout"}


def population(seed=0, n=3000):
    """Kinds, bytes and pages of documents: books of 20 to 2000 pages among letters, at 50 to 500 KB a
    page, and one in twenty that does not open."""
    rng = np.random.default_rng(seed)
    pages = np.maximum(np.round(np.exp(rng.normal(2, 1.5, n))), 1)
    sizes = pages * np.exp(rng.normal(11.5, 0.5, n)) + 20_000
    pages[rng.random(n) < 0.05] = 0
    kinds = np.where(rng.random(n) < 0.1, "tiff", "pdf")
    return list(kinds), sizes, pages


def count_some(kinds, sizes, pages, n, seed):
    """The estimate after `n` documents were counted, and the order in which they were."""
    strata = forecast.stratify(kinds, sizes)
    order = forecast.counting_order(strata, seed)
    counts = np.full(len(pages), np.nan)
    counts[order[:n]] = pages[order[:n]]
    return forecast.estimate_pages(sizes, counts, strata, seed)


def test_pages_are_estimated_without_bias_and_the_interval_holds_them_nineteen_times_of_twenty():
    kinds, sizes, pages = population()
    estimates = [count_some(kinds, sizes, pages, 300, seed) for seed in range(200)]
    totals = np.array([each.expected.sum() for each in estimates])
    assert abs(totals.mean() / pages.sum() - 1) < 0.01
    covered = np.mean([each.low <= pages.sum() <= each.high for each in estimates])
    assert 0.91 <= covered <= 0.985
    unopened = np.mean([each.unopened for each in estimates])
    assert abs(unopened / np.count_nonzero(pages == 0) - 1) < 0.1
    # Worth the trouble: counting as many at random and multiplying would be off by more.
    plain = [
        pages[np.random.default_rng(seed).permutation(len(pages))[:300]].mean() * len(pages)
        for seed in range(200)
    ]
    assert totals.std() < np.std(plain) / 2


def test_all_counted_is_no_estimate():
    kinds, sizes, pages = population(n=100)
    estimate = count_some(kinds, sizes, pages, 100, 0)
    assert estimate.low == estimate.high == estimate.expected.sum() == pages.sum()
    assert estimate.unopened == np.count_nonzero(pages == 0)


def test_more_counted_is_a_narrower_interval():
    kinds, sizes, pages = population()
    few, many = (count_some(kinds, sizes, pages, n, 0) for n in (150, 2500))
    assert many.high - many.low < (few.high - few.low) / 4


def test_strata_hold_equal_bytes_of_one_kind_and_large_documents_are_counted_first():
    kinds, sizes, _ = population()
    strata = forecast.stratify(kinds, sizes)
    for stratum in np.unique(strata):
        assert len({kinds[i] for i in np.flatnonzero(strata == stratum)}) == 1
    pdf = np.array(kinds) == "pdf"
    shares = [sizes[strata == each].sum() / sizes[pdf].sum() for each in np.unique(strata[pdf])]
    assert max(shares) < 0.2
    order = forecast.counting_order(strata, 0)
    assert sorted(order) == list(range(len(sizes)))
    assert sizes[order[:300]].mean() > 3 * sizes.mean()
    assert list(order) == list(forecast.counting_order(strata, 0))
    assert list(order) != list(forecast.counting_order(strata, 1))


def test_every_page_has_the_same_chance_to_be_tried():
    pages, weights = np.array([1, 200, 3, 40, 0, 1]), np.array([4.0, 1, 2, 1, 1, 1])
    chosen = np.zeros(len(pages))
    for seed in range(4000):
        for piece in forecast.choose_pages(pages, weights, 20, seed):
            chosen[piece.index] += piece.end - piece.start
    # A block may go on into what stands for more documents, or for fewer: near the ends alone.
    expected = pages * weights / (pages * weights).sum()
    assert chosen[1] / chosen.sum() == pytest.approx(expected[1], abs=0.02)
    assert chosen[3] / chosen.sum() == pytest.approx(expected[3], abs=0.02)
    assert chosen[4] == 0


def test_pages_to_try_are_runs_of_a_document():
    pieces = forecast.choose_pages(np.array([100, 100]), np.ones(2), 20, 0)
    assert sum(piece.end - piece.start for piece in pieces) == 20
    assert {piece.index for piece in pieces} == {0, 1}
    assert all(0 <= piece.start < piece.end <= 100 for piece in pieces)
    assert max(piece.end - piece.start for piece in pieces) == forecast.BLOCK
    assert pieces == forecast.choose_pages(np.array([100, 100]), np.ones(2), 20, 0)


def test_a_small_archive_is_tried_as_a_whole():
    pieces = forecast.choose_pages(np.array([2, 0, 3]), np.ones(3), 50, 0)
    assert pieces == [Piece(0, 0, 2), Piece(2, 0, 3)]


def test_a_rate_is_told_from_few_and_many_pages():
    assert forecast.rate((1, 49), (5.5, 29.5)) == (5.0, 0.5)
    assert forecast.rate((1, 1), (5.5, 5.5)) == (5.5, 0.0)
    # Other work on the machine made the first run slower than the second.
    assert forecast.rate((1, 49), (6.0, 5.0)) == (5.0, 0.0)


def test_records_cost_by_document_and_by_page():
    pages = np.array([1, 5, 5, 2])
    assert forecast.document_rate(pages, 900 + 10.0 * pages) == pytest.approx((900, 10))
    assert forecast.document_rate(np.array([1, 1]), np.array([900.0, 910.0])) == (905, 0)
    # Nothing that one document has in any case is below 0.
    assert forecast.document_rate(np.array([1, 3]), np.array([1.0, 9.0])).once == 0


def test_bytes_of_lifted_scans_follow_those_of_their_documents():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(12, 1, 5000))
    values = 0.9 * sizes + rng.normal(0, 2000, 5000)
    errors = []
    for _ in range(300):
        own = rng.integers(0, 5000, 12)
        pages = np.full(12, 5)
        mean = forecast.mean_per_page(5 * values[own], pages, sizes[own], sizes.mean())
        errors.append((mean / values.mean() - 1, values[own].mean() / values.mean() - 1))
    corrected, plain = np.array(errors).T
    assert abs(corrected.mean()) < 0.01
    assert corrected.std() < plain.std() / 10


def test_bytes_of_rendered_pages_are_their_mean():
    sizes, values, pages = np.array([1e3, 1e6]), np.array([8e5, 2e6]), np.array([2, 5])
    assert forecast.mean_per_page(values, pages, sizes, 714571.4285714285) == pytest.approx(4e5)
    assert forecast.mean_per_page(values[:1], pages[:1], sizes[:1], 9e9) == 4e5


@pytest.mark.parametrize(
    ("chains", "cores", "gpus", "seconds"),
    [
        ([], 2, 0, 0),
        ([[Job(3, 2, 0), Job(4, 2, 0)]], 2, 0, 7),
        ([[Job(3, 2, 0)]] * 3, 2, 0, 9),
        ([[Job(3, 2, 0)]] * 3, 6, 0, 3),
        ([[Job(3, 1, 0), Job(5, 1, 1)]] * 4, 2, 1, 3 + 4 * 5),
        ([[Job(3, 1, 0), Job(5, 1, 1)]] * 4, 8, 4, 3 + 5),
        ([[Job(1, 1, 0)], [Job(9, 1, 0)], [Job(1, 1, 0)]], 2, 0, 9),
    ],
)
def test_jobs_run_side_by_side_as_cores_and_gpus_allow(chains, cores, gpus, seconds):
    assert forecast.makespan(chains, cores, gpus) == seconds


def test_many_shards_are_scheduled_in_no_time():
    chains = [[Job(60, 4, 0), Job(600, 4, 1), Job(5, 1, 0), Job(30, 4, 0)]] * 20_000
    assert forecast.makespan(chains, 64, 4) == pytest.approx(20_000 * 600 / 4, rel=0.01)


def measured(index, pages, ok=None):
    """A piece of which a page is an image of 100 KB, and its records 1 KB + 0.1 KB a page."""
    files = {
        forecast.IMAGES: Files(pages, 100_000 * pages),
        forecast.RECORDS: Files(7, 1000 + 100 * pages),
    }
    return Measured(Piece(index, 0, pages), pages, pages if ok is None else ok, files)


def trial(gpus=0):
    return Trial(
        {
            "render_pages": Usage(Rate(2, 0.1), 400, 2, 0),
            "detect_layout": Usage(Rate(10, 0.5), 1900, 2, gpus),
            "summarize_archive": Usage(Rate(1, 0.001), 100, 1, 0),
        },
        startup=5,
        reading=1e9,
        datasets=8,
        tables=Rate(9000, 300),
        table_memory=2e6,
        pieces=[measured(0, 5), measured(1, 1)],
        device="cpu",
    )


def archive(**left):
    """Three documents in two shards; the last one, of 2 GB, does not open."""
    return Archive(
        np.array([0, 0, 1, 1]),
        np.array([5e6, 1e6, 94e6, 2e9]),
        np.array([50.0, 10, 940, 0]),
        {stage: np.array(left.get(stage, [True] * 4)) for stage in RULES},
    )


def test_seconds_of_a_shard_are_those_of_its_start_its_pages_and_its_bytes():
    seconds = forecast.shard_seconds(archive(), trial(), RULES, archive().left)
    assert list(seconds["images"]) == pytest.approx([2 + 6 + 0.003, 2 + 94 + 1.047])
    assert list(seconds["detections"]) == pytest.approx([10 + 30, 10 + 470])


def test_what_is_done_takes_no_time():
    some = archive(images=[False] * 4, detections=[False, True, False, False])
    seconds = forecast.shard_seconds(some, trial(), RULES, some.left)
    assert list(seconds["images"]) == [0, 0]
    assert list(seconds["detections"]) == [10 + 5, 0]
    assert forecast.run_seconds(some, trial(), RULES, 2, 0) == pytest.approx(5 + 1 + 1 + 15)


def test_a_gpu_detects_while_cores_render():
    seconds = forecast.shard_seconds(archive(), trial(1), RULES, archive().left)
    both = sum(seconds["detections"]) + seconds["images"][0]
    expected = pytest.approx(5 + 2 + max(both, seconds["images"][1] + 480))
    assert forecast.run_seconds(archive(), trial(1), RULES, 4, 1) == expected


def test_disk_counts_records_of_documents_that_do_not_open():
    disk = forecast.disk(archive(), trial())
    assert disk[forecast.IMAGES] == Files(1000, 100_000_000)
    assert disk[forecast.RECORDS] == Files(28, 4000 + 100_000)
    assert disk[forecast.CROPS] == Files(0, 0)
    assert disk[forecast.TABLES] == Files(16, 18_000 + 300_000)


def test_resources_are_those_of_the_largest_shard_with_margins():
    lines = forecast.set_resources(forecast.needs(archive(), trial(), RULES))
    rules = yaml.safe_load("\n".join(lines))["set-resources"]
    # 1.5 x (1900 MB + 940 pages of 2 MB), twice 480 s.
    assert rules["detect_layout"] == {"mem_mb": 6000, "runtime": 25}
    assert rules["render_pages"] == {"mem_mb": 3500, "runtime": 10}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(9, "9 s"), (110, "1.8 min"), (600, "10 min"), (7200, "2.0 h"), (864_000, "10.0 days")],
)
def test_durations_are_said_as_people_do(seconds, said):
    assert forecast.duration(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (1234, "1.23 KB"), (45.6e9, "45.6 GB"), (12e15, "1.2e+04 TB")]
)
def test_volumes_are_said_as_people_do(size, said):
    assert forecast.volume(size) == said

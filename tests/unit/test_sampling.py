"""Samples: who gets how many pages, whatever the order of rows; what cannot be chosen from."""

import time
from collections import Counter

import numpy as np
import pytest
from sampled_run import Page, write_run

from scanmill.errors import UserError
from scanmill.sampling import (
    ALL,
    MAX_BINS,
    NO_VALUE,
    describe_sample,
    fair_order,
    sample_pages,
    stratify,
    suspicions,
)
from scanmill.store import write_dataset
from scanmill.tables import read_table

CAPPED, EMPTY, SMALL = Page(capped=True), Page(regions=()), Page(type_height=2.0)
#: Document -> its pages.
DOCUMENTS = {
    "1850/a.pdf": [Page()] * 8,
    "1850/b.pdf": [Page()] * 2,
    "1890/c.pdf": [Page()] * 3,
    "1890/d.pdf": [Page(), Page(ok=False), CAPPED, EMPTY],
    "1910/e.pdf": [Page(), SMALL, SMALL, SMALL, SMALL, SMALL],
    "1910/f.pdf": [Page(ok=False)],
}
COLUMNS = {name: {"year": name[:4], "shelf": "x"} for name in DOCUMENTS}
OK = sum(page.ok for pages in DOCUMENTS.values() for page in pages)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The working directory of a finished run: not to be changed."""
    return write_run(tmp_path_factory.mktemp("run"), DOCUMENTS, COLUMNS)


def chosen(sample):
    return [(page.document, page.page) for page in sample.pages]


def by_document(sample):
    return Counter(page.document for page in sample.pages)


def by_stratum(sample):
    return Counter(page.stratum for page in sample.pages)


# Shares -------------------------------------------------------------------------------------------


def test_each_document_gives_a_page_before_any_gives_a_second(run):
    for seed in range(5):
        assert set(by_document(sample_pages(run, 5, seed=seed)).values()) == {1}
        counts = by_document(sample_pages(run, 12, seed=seed))
        assert counts["1850/b.pdf"] == 2
        assert max(counts.values()) - min(counts[name] for name in counts if counts[name] > 2) <= 1
    sample = sample_pages(run, 3)
    assert {page.stratum for page in sample.pages} == {ALL}
    assert [(each.pages, each.chosen) for each in sample.strata] == [(OK, 3)]


def test_failed_pages_are_never_chosen(run):
    sample = sample_pages(run, 1000)
    assert len(sample.pages) == OK
    assert ("1890/d.pdf", 2) not in chosen(sample)
    assert "1910/f.pdf" not in by_document(sample)
    assert sample.notes == [f"There are {OK} such pages, not 1000: all of them are taken."]


def test_a_seed_decides_and_more_pages_add_to_fewer(run):
    few, more, other = (sample_pages(run, n, seed=seed) for n, seed in ((4, 1), (9, 1), (9, 2)))
    assert chosen(more)[:4] == chosen(few)
    assert set(chosen(more)) != set(chosen(other))
    assert chosen(sample_pages(run, 9, seed=1)) == chosen(more)


def test_order_of_rows_shards_and_other_pages_do_not_matter(run, tmp_path):
    turned = dict(reversed(DOCUMENTS.items()))
    other = write_run(tmp_path / "other", turned, COLUMNS, shards=3)
    path = other / "results" / "pages" / "00000.parquet"
    table = read_table(path)
    backwards = table.take(np.arange(table.num_rows)[::-1])
    write_dataset("pages", [backwards], path)
    for options in ({}, {"by": "year"}, {"flagged": True}):
        assert chosen(sample_pages(other, 10, **options)) == chosen(
            sample_pages(run, 10, **options)
        )


def test_of_equal_images_one_is_chosen(tmp_path):
    documents = {
        "a.pdf": [Page(pixels="blank"), Page()],
        "b.pdf": [Page(pixels="blank", suffix=".png"), Page(pixels="blank")],
    }
    sample = sample_pages(write_run(tmp_path, documents), 9)
    assert len(sample.pages) == 3
    assert "1 pages are left out whose image is" in sample.notes[0]


def test_documents_are_chosen_by_globs(run):
    sample = sample_pages(run, 100, documents=["1850/*"])
    assert set(by_document(sample)) == {"1850/a.pdf", "1850/b.pdf"}
    assert chosen(sample_pages(run, 3, documents=["1890/d.pdf"])) != []
    with pytest.raises(UserError, match="None of the 6 documents matches"):
        sample_pages(run, 3, documents=["1851/*"])


def test_shares_are_equal_for_every_size():
    rng = np.random.default_rng(3)
    strata = rng.choice(4, 500, p=(0.7, 0.2, 0.08, 0.02))
    documents = strata * 50 + rng.integers(0, 50, 500) ** 2 // 50
    key = rng.permutation(500).astype(np.uint64)
    order = fair_order(key, [strata, documents])
    assert sorted(order) == list(range(500))
    for n in (1, 4, 9, 37, 100, 400, 500):
        for groups, level in ((np.zeros(500), strata), (strata, documents)):
            for group in np.unique(groups):
                mine = level[groups == group]
                taken = Counter(level[order[:n]][groups[order[:n]] == group].tolist())
                sizes = Counter(mine.tolist())
                # Whoever has pages left has no fewer than the others, but for one in its turn.
                left = [taken[each] for each in sizes if taken[each] < sizes[each]]
                assert not left or min(left) >= max(taken.values(), default=0) - 1


def test_a_million_pages_are_ordered_in_seconds():
    rng = np.random.default_rng(0)
    key = rng.permutation(1_000_000).astype(np.uint64)
    documents = rng.integers(0, 50_000, len(key))
    started = time.monotonic()
    order = fair_order(key, [documents % 10, documents])
    assert time.monotonic() - started < 20
    assert len(set(documents[order[:200]].tolist())) == 200


# Strata -------------------------------------------------------------------------------------------


def test_strata_have_equal_shares_as_far_as_their_pages_reach(run):
    assert by_stratum(sample_pages(run, 9, by="year")) == {"1850": 3, "1890": 3, "1910": 3}
    assert sorted(by_stratum(sample_pages(run, 17, by="year")).values()) == [5, 6, 6]
    sample = sample_pages(run, 20, by="year")
    assert [(each.name, each.pages, each.chosen) for each in sample.strata] == [
        ("1850", 10, 8),
        ("1890", 6, 6),
        ("1910", 6, 6),
    ]
    # Within a stratum a page of each document comes first.
    documents = by_document(sample_pages(run, 6, by="year"))
    assert documents == {
        **dict.fromkeys(("1850/a.pdf", "1850/b.pdf", "1890/c.pdf", "1890/d.pdf"), 1),
        "1910/e.pdf": 2,
    }


@pytest.mark.parametrize("column", ["shelf", "document", "status", "width", "capped", "page"])
def test_any_column_of_documents_and_pages_makes_strata(run, column):
    sample = sample_pages(run, 6, by=column)
    assert len(sample.pages) == 6
    expected = {
        "shelf": {"x"},
        "document": {*DOCUMENTS} - {"1910/f.pdf"},
        "status": {"ok", "partial"},  # Of the document, which comes first.
        "width": {"110"},
        "capped": {"False", "True"},
        "page": {*"12345678"},
    }[column]
    assert {stratum.name for stratum in sample.strata} == expected


def test_a_column_that_does_not_exist_is_answered_with_those_there_are(run):
    with pytest.raises(UserError) as error:
        sample_pages(run, 3, by="yaer")
    said = str(error.value)
    assert "--by yaer: there is no such column (is it year?)" in said
    assert "Columns of documents.parquet: document, path, bytes" in said
    assert "reason, year, shelf\n" in said
    assert "Columns of pages: document, page" in said
    assert "flags" not in said
    with pytest.raises(UserError, match="--flags chooses pages by them"):
        sample_pages(run, 3, by="flags")


def test_numbers_of_many_values_are_divided_at_their_quantiles():
    years = [str(year) for year in range(1801, 1901)]
    strata, names, notes = stratify([*years, None, ""], "year")
    assert names[0] == "1801 to 1810"
    assert names[-2:] == ["1891 to 1900", NO_VALUE]
    assert Counter(strata.tolist()) == {**dict.fromkeys(range(MAX_BINS), 10), MAX_BINS: 2}
    assert notes == ["year has 100 values: they are divided into 10 strata."]
    # Equal numbers stay together: where most pages have one, strata are fewer.
    values = [1.5] * 90 + [float(number) for number in range(2, 22)]
    strata, names, _ = stratify(values, "ratio")
    assert names[0] == "1.5"
    assert len(set(strata[:90].tolist())) == 1
    assert 2 <= len(names) - 1 <= MAX_BINS
    assert list(strata) == sorted(strata)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "10"], ["9", "10"]),
        (["1850", "ca. 1850"], ["1850", "ca. 1850"]),
        ([f"ca. {year}" for year in range(30)], sorted(f"ca. {year}" for year in range(30))),
        ([True, False, None], ["False", "True"]),
        ([float("nan"), 2.5], ["2.5"]),
        (["nan", "inf"], ["inf", "nan"]),
        ([None, None], []),
    ],
)
def test_values_are_strata(values, names):
    strata, found, notes = stratify(values, "column")
    assert found == [*names, NO_VALUE]
    assert not notes
    for value, stratum in zip(values, strata, strict=True):
        is_missing = value is None or value != value
        assert found[stratum] == (NO_VALUE if is_missing else str(value))


def test_more_strata_than_pages_are_told(run):
    sample = sample_pages(run, 2, by="year")
    assert sample.notes == ["There are 3 strata: one page of 2 of them is taken."]


# Flags --------------------------------------------------------------------------------------------


def test_flags_choose_suspicious_pages_spread_over_the_flags(run):
    sample = sample_pages(run, 4, flagged=True)
    assert by_stratum(sample) == {"capped": 1, "no_regions": 1, "small_type": 2}
    everything = sample_pages(run, 50, flagged=True)
    assert len(everything.pages) == 7
    assert "There are 7 such pages, not 50" in everything.notes[0]


def test_flags_divide_the_strata_of_a_column(run):
    sample = sample_pages(run, 4, by="year", flagged=True)
    assert by_stratum(sample) == {
        "1890, capped": 1,
        "1890, no_regions": 1,
        "1910, small_type": 2,
    }


def test_a_page_of_several_flags_counts_for_the_rarest(tmp_path):
    both = Page(capped=True, type_height=2.0)
    run = write_run(tmp_path, {"a.pdf": [SMALL, SMALL, SMALL], "b.pdf": [both, both]})
    assert by_stratum(sample_pages(run, 4, flagged=True)) == {"capped": 2, "small_type": 2}


def test_suspicions_are_flags_caps_and_empty_pages():
    page = {"flags": ["small_type"], "capped": True, "n_regions": 0}
    assert suspicions(page) == ("capped", "no_regions", "small_type")
    assert suspicions({"flags": None, "capped": None, "n_regions": 3}) == ()


# What cannot be -----------------------------------------------------------------------------------


def test_a_run_without_pages_to_choose_is_told(tmp_path):
    run = write_run(tmp_path, {"a.pdf": [Page()], "b.pdf": [Page(ok=False)]})
    with pytest.raises(UserError, match=r"is suspicious: none has a flag.*Leave out --flags"):
        sample_pages(run, 3, flagged=True)
    with pytest.raises(UserError, match=r"No page of the 1 documents is ok"):
        sample_pages(run, 3, documents=["b.pdf"])
    with pytest.raises(UserError, match="one page or more"):
        sample_pages(run, 0)


def test_a_run_that_is_not_finished_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="There are no results in"):
        sample_pages(tmp_path / "mistyped", 3)
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(UserError, match="There is no plan in"):
        sample_pages(tmp_path / "empty", 3)
    run = write_run(tmp_path / "run", {"a.pdf": [Page()], "b.pdf": [Page()]})
    (run / "results" / "documents.parquet").unlink()
    assert len(sample_pages(run, 2, by="width").pages) == 2
    with pytest.raises(UserError, match="Now run your snakemake command again"):
        sample_pages(run, 2, by="year")
    (run / "results" / "pages" / "00001.parquet").unlink()
    with pytest.raises(UserError, match="is not finished: 1 of 2 shards") as error:
        sample_pages(run, 2)
    assert "Now run your snakemake command again" in str(error.value)


def test_samples_are_described(run):
    said = describe_sample(sample_pages(run, 9, by="year")).splitlines()
    assert said[0] == "9 of 22 pages, of 5 documents."
    assert said[1:] == ["  1850       3 of 10", "  1890       3 of 6", "  1910       3 of 6"]
    said = describe_sample(sample_pages(run, 4)).splitlines()
    assert said == ["4 of 22 pages, of 4 documents."]
    said = describe_sample(sample_pages(run, 1, documents=["1910/*"], flagged=True)).splitlines()
    assert said == ["1 of 5 pages, of 1 documents.", "  small_type       1 of 5"]

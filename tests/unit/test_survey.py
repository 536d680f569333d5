"""Counts of a run, shard by shard, and the pages that are chosen to be shown."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from reported import page_row, region_row, write_run

from scanmill import survey
from scanmill.survey import AREA_EDGES, SCORE_EDGES, Survey, choose_documents
from scanmill.tables import from_rows


def survey_of(directory, *shards):
    """The survey of shards, each (pages, regions)."""
    made = Survey()
    for number, (pages, regions) in enumerate(shards):
        made.add_shard(*write_run(directory, pages, regions, shard=f"{number:05d}"))
    return made


def test_pages_and_regions_are_counted_over_shards(tmp_path):
    failed = {"document": "a", "page": 3, "status": "failed", "reason": "corrupt"}
    first = [
        page_row("a", 1, flags=["capped"]),
        page_row("a", 2, flags=["capped", "small_type"]),
        failed,
    ]
    small = (0, 0, 30, 40)
    second = [page_row("b", 1)]
    made = survey_of(
        tmp_path,
        (first, [region_row("a", 2, 1), region_row("a", 2, 2, "table", 0.51, small)]),
        (second, [region_row("b", 1, 1, score=1.0)]),
    )
    assert made.pages == 3
    assert made.regions_per_page == Counter({0: 1, 1: 1, 2: 1})
    assert made.flags == Counter({"capped": 2, "small_type": 1})
    assert (made.flagged_pages, made.flagged_by_document) == (2, {"a": 2})
    assert set(made.classes) == {"text", "table"}
    text, table = made.classes["text"], made.classes["table"]
    assert (text.regions, text.pages, table.regions, table.pages) == (2, 2, 1, 1)
    assert np.flatnonzero(table.scores).tolist() == [25]
    assert text.scores[-1] == 1
    [place] = np.flatnonzero(table.areas)
    assert AREA_EDGES[place] <= 0.01 <= AREA_EDGES[place + 1] + 1e-12
    assert len(text.scores) == len(SCORE_EDGES) - 1


def test_boxes_that_reach_beyond_the_page_are_counted(tmp_path):
    made = survey_of(
        tmp_path, ([page_row("a", 1)], [region_row("a", 1, 1, box=(-50, -50, 900, 900))])
    )
    assert made.classes["text"].areas[-1] == 1


def test_shown_pages_have_their_own_regions_and_ink(tmp_path):
    pages = [page_row("a", number) for number in (1, 2, 3)]
    regions = [
        region_row("a", 3, 1, "table"),
        region_row("a", 1, 1),
        region_row("a", 1, 2, "figure"),
    ]
    shown = {page.row["page"]: page for page in survey_of(tmp_path, (pages, regions)).shown_pages()}
    classes = {
        number: [each["class_name"] for each in page.regions] for number, page in shown.items()
    }
    assert classes == {1: ["text", "figure"], 2: [], 3: ["table"]}
    assert all(page.ink[400] == 120 and page.ink[0] == 0 for page in shown.values())


def test_pages_of_every_flag_class_and_band_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "PER_ARCHIVE", 10)
    pages = [page_row("big", number, flags=["small_type"]) for number in range(1, 5001)]
    pages[77]["flags"] = ["capped", "small_type"]
    regions = [region_row("big", number, 1, score=0.95) for number in range(1, 5001)]
    regions[4321] |= {"class_name": "table"}
    regions[1234] |= {"score": 0.55}
    made = survey_of(tmp_path, (pages, regions))
    shown = made.shown_pages()
    numbers = [page.row["page"] for page in shown]
    assert len(numbers) == len(set(numbers)) < 200
    assert {78, 4322, 1235} <= set(numbers)
    # A rare flag is not behind sixty pages of a frequent one.
    assert numbers.index(78) < 6
    assert made.flags["small_type"] == 5000


def test_documents_take_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "PER_FLAG", 12)
    monkeypatch.setattr(survey, "PER_ARCHIVE", 1)
    many = [page_row("many", number, flags=["capped"]) for number in range(1, 500)]
    others = [page_row(f"few-{number}", 1, flags=["capped"]) for number in range(6)]
    made = survey_of(tmp_path, (many, []), (others, []))
    shown = Counter(page.row["document"] for page in made.shown_pages()[:9])
    assert len(shown) == 7


def test_what_is_kept_does_not_grow_and_does_not_depend_on_the_order_of_shards(tmp_path):
    shards = [
        write_run(
            tmp_path, [page_row(f"{shard}-{number}", 1) for number in range(300)], shard=str(shard)
        )
        for shard in range(4)
    ]
    chosen = []
    for order in (shards, shards[::-1]):
        made = Survey()
        for shard in order:
            made.add_shard(*shard)
        assert sum(map(len, made.kept.values())) == survey.PER_ARCHIVE
        chosen.append({(page.row["document"], page.row["page"]) for page in made.shown_pages()})
    assert len(chosen[0] & chosen[1]) > 0.7 * survey.PER_ARCHIVE


def test_a_shard_without_pages_adds_nothing(tmp_path):
    made = survey_of(
        tmp_path, ([], []), ([{"document": "x", "page": None, "status": "failed"}], [])
    )
    assert (made.pages, made.shown_pages(), made.classes) == (0, [], {})


@pytest.mark.parametrize("limit", [3, 10])
def test_documents_with_trouble_are_listed_first_where_not_all_can_be(monkeypatch, limit):
    monkeypatch.setattr(survey, "MAX_DOCUMENTS", limit)
    rows = [
        {"document": f"{number}", "pages": 5, "pages_failed": 0, "regions": 1, "status": "ok"}
        for number in range(8)
    ]
    rows[6] |= {"pages_failed": 2, "status": "partial"}
    rows[7] |= {"pages": 0, "status": "failed"}
    listed = choose_documents(from_rows("documents", rows), {"2": 4})
    names, flagged = listed["document"].to_pylist(), listed["flagged"].to_pylist()
    assert names == (["2", "6", "7"] if limit == 3 else [str(number) for number in range(8)])
    assert flagged[names.index("2")] == 4
    assert sum(flagged) == 4
    nothing = choose_documents(from_rows("documents", []), {})
    assert nothing["flagged"].type == pa.int64()

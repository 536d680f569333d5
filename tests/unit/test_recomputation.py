"""What counts as a difference where pages are computed again, and which pages are taken."""

import pytest
from finished_run import PLAN, finished  # noqa: F401

from scanmill.recomputation import beyond_tolerance, choose_pages, first_difference
from scanmill.tables import from_rows


def detections(*rows):
    """Rows of class, score, x_min; boxes of 100 x 100."""
    return from_rows(
        "detections",
        [
            {"class_name": name, "score": score, "detection": i}
            | {"x_min": x, "y_min": 0, "x_max": x + 100, "y_max": 100}
            for i, (name, score, x) in enumerate(rows, 1)
        ],
    )


THEN = (("text", 0.9, 0), ("title", 0.5, 200))


@pytest.mark.parametrize(
    "now",
    [
        THEN,
        THEN[::-1],
        (("text", 0.9009, 0.4), ("title", 0.4991, 200)),
        (*THEN, ("text", 0.0508, 400)),  # Below the floor on the other kind of processor.
    ],
)
def test_what_another_processor_may_find_is_no_difference(now):
    assert beyond_tolerance(detections(*THEN), detections(*now), 0.05) == ""
    assert beyond_tolerance(detections(*now), detections(*THEN), 0.05) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((("text", 0.902, 0), THEN[1]), "1 of 2 are not found again .*, and 1 of 2 were not there"),
        ((("text", 0.9, 1), THEN[1]), "1 of 2 are .*, and 1 of 2"),
        ((("list", 0.9, 0), THEN[1]), "1 of 2 are .*, and 1 of 2"),
        ((*THEN, ("text", 0.06, 400)), "0 of 2 are .*, and 1 of 3"),
        (THEN[:1], "1 of 2 are .*, and 0 of 1"),
        ((), "2 of 2 are .*, and 0 of 0"),
    ],
)
def test_more_than_that_is_one(now, said):
    import re

    assert re.match(said, beyond_tolerance(detections(*THEN), detections(*now), 0.05))


def test_tables_without_rows_are_within_tolerance():
    assert beyond_tolerance(detections(), detections(), 0.05) == ""


def test_the_first_difference_is_told():
    then = detections(*THEN)
    assert first_difference(then, then) == ""
    assert first_difference(then, then.slice(1)) == "2 rows -> 1"
    other = detections(THEN[0], ("title", 0.5, 201))
    assert first_difference(then, other) == "row 2, x_min 200.0 -> 201.0"


def test_pages_are_chosen_at_random_among_those_that_are_ok(finished):
    def choose(count, seed):
        chosen = choose_pages(finished / "results", list(PLAN), count, seed)
        return [(shard, each.document, each.page) for shard in chosen for each in chosen[shard]]

    everything = choose(100, 1)
    # One page of bad.pdf was not rendered, the detector failed on the other.
    assert len(everything) == len(set(everything)) == 8
    assert {document for _, document, _ in everything} == {"a.pdf", "box", "box/b[1].pdf", "images"}
    assert all(document in PLAN[shard] for shard, document, _ in everything)
    assert choose(3, 5) == choose(3, 5)
    assert len({tuple(choose(3, seed)) for seed in range(9)}) > 5

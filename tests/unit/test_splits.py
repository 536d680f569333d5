"""Documents are divided whole, and shares of pages and classes are met."""

import random

import numpy as np
import pytest

from scanmill.errors import UserError
from scanmill.splits import SPLITS, DocumentCounts, check_shares, split_documents

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def documents(count, seed=0, frequencies=(0.9, 0.5, 0.1, 0.05)):
    rng = random.Random(seed)
    return [
        DocumentCounts(
            f"book {number}",
            rng.randint(1, 20),
            tuple(rng.randint(1, 30) if rng.random() < share else 0 for share in frequencies),
        )
        for number in range(count)
    ]


def shares_of(books, splits):
    """[splits, 1 + classes]: what part of all pages and objects each split has."""
    features = np.array([[book.pages, *book.objects] for book in books], dtype=float)
    places = np.array([SPLITS.index(splits[book.document]) for book in books])
    sums = np.array([features[places == place].sum(axis=0) for place in range(3)])
    return sums / features.sum(axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_pages_and_classes_are_met(seed):
    books = documents(100, seed)
    shares = shares_of(books, split_documents(books, SHARES, seed))
    deviations = np.abs(shares - np.array([[0.7], [0.15], [0.15]]))
    assert deviations[:, :3].max() < 0.01
    assert deviations[:, 3].max() < 0.07  # In 8 documents.
    assert shares[0].min() > 0.3  # In 2 to 6, which cannot be divided as one likes.


def test_order_does_not_matter_and_the_seed_decides_ties():
    books = documents(30)
    expected = split_documents(books, SHARES, 5)
    for seed in range(3):
        shuffled = random.Random(seed).sample(books, len(books))
        assert split_documents(shuffled, SHARES, 5) == expected
    equal = [DocumentCounts(f"book {number}", 10, (5,)) for number in range(20)]
    divisions = [split_documents(equal, SHARES, seed) for seed in range(4)]
    assert len({tuple(sorted(each.items())) for each in divisions}) == 4
    for division in divisions:
        counts = [list(division.values()).count(name) for name in SPLITS]
        assert counts == [14, 3, 3]


@pytest.mark.parametrize("place", range(5))
def test_class_of_one_document_is_trained_on(place):
    books = [
        DocumentCounts(f"book {number}", 10, (10, 3 * (number == place))) for number in range(5)
    ]
    for seed in range(4):
        assert split_documents(books, SHARES, seed)[f"book {place}"] == "train"


def test_class_is_trained_on_whatever_it_does_to_the_shares():
    books = [
        DocumentCounts("a", 70, (70, 0)),
        DocumentCounts("b", 15, (15, 3)),
        DocumentCounts("c", 15, (15, 0)),
    ]
    assert split_documents(books, SHARES, 0)["b"] == "train"


def test_class_of_four_documents_is_in_every_split():
    books = [DocumentCounts(f"book {n}", 10, (10, 4 * (n < 4))) for n in range(20)]
    splits = split_documents(books, SHARES, 0)
    assert {splits[f"book {number}"] for number in range(4)} == set(SPLITS)


def test_every_split_with_a_share_gets_a_document():
    few = [
        DocumentCounts(name, pages, (pages,))
        for name, pages in zip("abc", (100, 2, 1), strict=True)
    ]
    splits = split_documents(few, SHARES, 0)
    assert sorted(splits.values()) == ["test", "train", "val"]
    assert splits["a"] == "train"
    splits = split_documents(few, {"train": 0.8, "val": 0.2, "test": 0.0}, 0)
    assert set(splits.values()) == {"train", "val"}


def test_documents_without_objects_are_divided_by_pages():
    books = [DocumentCounts(f"book {number}", 1, ()) for number in range(20)]
    splits = list(split_documents(books, SHARES, 0).values())
    assert [splits.count(name) for name in SPLITS] == [14, 3, 3]


def test_too_few_documents():
    with pytest.raises(UserError, match=r"belong to 2 documents \(a, b\).*train and val and test"):
        split_documents([DocumentCounts(name, 1, ()) for name in "ab"], SHARES, 0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 1.0}, "validation set would be empty"),
        ({"val": 1.0}, "training set would be empty"),
        ({"train": 0.7, "val": 0.2}, "sum to 1"),
        ({"train": 1.2, "val": -0.2}, "0 or more"),
        ({"train": 0.8, "valid": 0.2}, "share for valid"),
    ],
)
def test_shares_that_cannot_be(shares, message):
    with pytest.raises(UserError, match=message):
        check_shares(shares)


def test_shares():
    assert check_shares({"train": 0.8, "val": 0.2}) == {"train": 0.8, "val": 0.2, "test": 0.0}

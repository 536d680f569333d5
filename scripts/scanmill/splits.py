"""Documents -> training, validation and test set: whole documents, shares of pages and classes met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from scanmill.errors import UserError
from scanmill.tables import digest_json

SPLITS = ("train", "val", "test")

#: What it costs that a wanted split is empty, that training lacks a class: each more than all deviations
#: of shares together, which are below 1 per split. That validation or test lack a class costs less: of
#: one in three documents, two are trained on.
_EMPTY, _UNTRAINED, _UNTESTED = 1e6, 1e3, 0.1
#: Rounds of moving and exchanging documents; it ends by itself after a few.
_ROUNDS = 50
#: Exchanging is tried between this many documents, as pairs grow with the square.
_EXCHANGED = 200


class DocumentCounts(NamedTuple):
    """What a document would bring to its split."""

    document: str
    pages: int
    objects: tuple[int, ...]
    """By class."""


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of `SPLITS`; UserError unless train and val get pages, and all of them sum to 1."""
    result = {name: float(shares.get(name, 0.0)) for name in SPLITS}
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown:
        raise UserError(
            f"split has a share for {unknown[0]}: there are {', '.join(SPLITS)}. Rename or remove it."
        )
    if min(result.values()) < 0 or abs(sum(result.values()) - 1) > 1e-3:
        raise UserError(
            f"The shares of split must be 0 or more and sum to 1; they are {result}. "
            "For example split: {train: 0.7, val: 0.15, test: 0.15}."
        )
    if not result["train"] or not result["val"]:
        empty = "training" if not result["train"] else "validation"
        raise UserError(
            f"The {empty} set would be empty: its share in split is 0. Without it nothing can be "
            "trained, or chosen among what was trained. For example split: {train: 0.8, val: 0.2}."
        )
    return result


def split_documents(
    documents: Sequence[DocumentCounts], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """The split of each document, by its name.

    Greedy iterative stratification (Sechidis, Tsoumakas & Vlahavas, "On the stratification of
    multi-label data", ECML PKDD 2011), with documents in place of single examples: those of the
    rarest class first, each to where it brings pages and classes nearest to their shares. Then single
    documents are moved, and pairs exchanged, while that brings them nearer still. Ties, and only
    they, depend on the seed; the order of `documents` never matters. Every split that has a share
    gets a document, and training gets each class.

    Raises UserError where there are fewer documents than splits.
    """
    wanted = [name for name in SPLITS if shares[name]]
    if len(documents) < len(wanted):
        names = ", ".join(sorted(each.document for each in documents)[:3])
        raise UserError(
            f"All pages belong to {len(documents)} document{'s' * (len(documents) != 1)} ({names}), "
            f"which cannot be divided among {' and '.join(wanted)}: a document stays whole, or pages "
            "of one book would be in training and validation alike and the scores be too good. Say "
            "what a document is by a regular expression on the file names whose group 1 is the "
            r"document, such as document: '^(.*)_\d+\.'; document: '(.*)' makes each page its own."
        )
    documents = sorted(documents, key=lambda each: digest_json([seed, each.document]))
    target = np.array([shares[name] for name in wanted])
    features = np.array([[each.pages, *each.objects] for each in documents], dtype=np.float64)
    features = features[:, features.any(axis=0)]
    state = _State(features, target, [name == "train" for name in wanted])
    for index in _rarest_first(features):
        state.place(index, int(np.argmin(state.costs(index))))
    _improve(state)
    return {
        each.document: wanted[place] for each, place in zip(documents, state.places, strict=True)
    }


class _State:
    """A division in the making, and what it costs."""

    def __init__(self, features: np.ndarray, target: np.ndarray, is_train: list[bool]) -> None:
        """`features` [documents, 1 + classes]: pages, then objects by class; `target` [splits]."""
        self.features, self.target = features, target
        self.is_train = np.array(is_train)
        self.totals = features.sum(axis=0)
        classes = max(1, features.shape[1] - 1)
        # Pages weigh as much as all classes together.
        self.weights = np.array([0.5, *[0.5 / classes] * (features.shape[1] - 1)])
        self.sums = np.zeros((len(target), features.shape[1]))
        self.places = [-1] * len(features)

    def place(self, index: int, split: int) -> None:
        """Put a document into a split; -1 takes it out."""
        if self.places[index] >= 0:
            self.sums[self.places[index]] -= self.features[index]
        if split >= 0:
            self.sums[split] += self.features[index]
        self.places[index] = split

    def cost(self) -> float:
        """Squared deviations of shares, and what must not be missing."""
        deviation = (self.sums / self.totals - self.target[:, None]) ** 2
        missing = self.sums[:, 1:] <= 0
        return float(
            (deviation * self.weights).sum()
            + _EMPTY * (self.sums[:, 0] <= 0).sum()
            + _UNTRAINED * missing[self.is_train].sum()
            + _UNTESTED * (missing[~self.is_train] * self.weights[1:]).sum()
        )

    def costs(self, index: int) -> list[float]:
        """What it would cost to have a document in each of the splits."""
        before, costs = self.places[index], []
        for split in range(len(self.target)):
            self.place(index, split)
            costs.append(self.cost())
        self.place(index, before)
        return costs


def _rarest_first(features: np.ndarray) -> list[int]:
    """Documents [N, 1 + classes]: all of the class with the fewest objects left, largest first."""
    left = list(range(len(features)))
    order: list[int] = []
    while left:
        remaining = features[left].sum(axis=0)
        remaining[0] = inf if remaining[1:].any() else 1  # Pages, once there are no objects.
        feature = int(np.argmin(np.where(remaining > 0, remaining, inf)))
        having = [index for index in left if features[index, feature] > 0]
        having.sort(key=lambda index: -features[index, feature])
        order += having
        left = [index for index in left if index not in set(having)]
    return order


def _improve(state: _State) -> None:
    """Move documents, and exchange pairs, while the cost falls."""
    count = len(state.places)
    for _ in range(_ROUNDS):
        before = state.cost()
        for index in range(count):
            costs = state.costs(index)
            best = int(np.argmin(costs))
            if costs[best] < costs[state.places[index]] - 1e-12:
                state.place(index, best)
        for first in range(min(count, _EXCHANGED)):
            for second in range(first):
                _exchange_if_better(state, first, second)
        if state.cost() > before - 1e-12:
            return


def _exchange_if_better(state: _State, first: int, second: int) -> None:
    one, other = state.places[first], state.places[second]
    if one == other:
        return
    before = state.cost()
    state.place(first, other)
    state.place(second, one)
    if state.cost() >= before - 1e-12:
        state.place(first, one)
        state.place(second, other)

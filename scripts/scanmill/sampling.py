"""Samples of a finished run: pages that are worth annotating.

Strata get equal shares as far as their pages reach, and within a stratum documents do: pages of one
document look alike. A page's place in the lot depends on the seed, its document and its number alone, so
that neither the order of rows nor other pages change it.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scanmill.errors import UserError
from scanmill.maintenance import (
    check_finished,
    choose_documents,
    dataset_file,
    find_plan,
    find_results,
    names_of,
    say_run_again,
)
from scanmill.tables import SCHEMAS, read_table

#: Numbers of more values than these are divided into so many strata, of about as many pages each.
MAX_BINS = 10
#: Stratum of the pages that have no value, and of all pages where there is one stratum.
NO_VALUE, ALL = "no value", "all"
#: Lines about strata that are printed.
SHOWN_STRATA = 40


class SampledPage(NamedTuple):
    """A page that was chosen."""

    document: str
    page: int
    stratum: str


class Stratum(NamedTuple):
    """What a stratum had and gave."""

    name: str
    pages: int
    chosen: int


class Sample(NamedTuple):
    """Pages that were chosen; the first of them, however many, are a fair sample themselves."""

    pages: list[SampledPage]
    strata: list[Stratum]
    notes: list[str]
    """What the user did not ask for, one sentence each."""


class _Candidates(NamedTuple):
    """Pages that can be chosen: N of each."""

    names: list[str]
    """Of documents."""
    document: np.ndarray
    """[N] int64, places in `names`."""
    page: np.ndarray
    """[N] int64."""
    key: np.ndarray
    """[N] uint64, random."""
    image: np.ndarray
    """[N] uint64, the start of the image's sha256."""
    flags: list[tuple[str, ...]]
    values: list[Any]
    """Of the column that strata are made of."""

    def take(self, places: np.ndarray) -> _Candidates:
        return _Candidates(
            self.names,
            *(array[places] for array in self[1:5]),
            [self.flags[place] for place in places],
            [self.values[place] for place in places],
        )


def sample_pages(
    directory: Path,
    n: int | None,
    *,
    by: str | None = None,
    flagged: bool = False,
    documents: Sequence[str] | None = None,
    seed: int = 0,
) -> Sample:
    """Choose `n` pages of a finished run whose status is ok, or all if `n` is None or too many.

    `by` is a column of documents.parquet or of pages whose values are the strata. `flagged` chooses
    among suspicious pages alone (see `suspicions`), whose flags divide the strata further. `documents`
    are globs. Of pages with equal images one can be chosen.

    Raises UserError where the run is not finished, for a column that does not exist, and where there is
    no page.
    """
    if n is not None and n < 1:
        raise UserError(f"--n {n}: a sample has one page or more.")
    results = find_results(directory)
    plan = find_plan(results)
    check_finished(directory, plan)
    shards = {shard: names_of(rows) for shard, rows in plan.items()}
    if documents is not None:
        shards = choose_documents(plan, documents)
    of_document, column = _column(directory, by)
    candidates = _read_candidates(results, shards, of_document, column, flagged, seed)
    if not len(candidates.key):
        what = "is suspicious: none has a flag, and each has regions" if flagged else "is ok"
        raise UserError(
            f"No page of the {sum(map(len, shards.values()))} documents {what}. "
            f"{'Leave out --flags' if flagged else 'Choose other documents'}."
        )
    candidates, notes = _without_equal_images(candidates)
    strata, names, said = stratify(candidates.values, by)
    notes += said
    levels = [strata]
    if flagged:
        strata, names = _by_flag(candidates.flags, strata, names if by else [])
        levels.append(strata)
    levels.append(_joined(strata, candidates.document))
    found, sizes = np.unique(strata, return_counts=True)
    if n is not None and len(found) > n:
        notes.append(f"There are {len(found)} strata: one page of {n} of them is taken.")
    order = fair_order(candidates.key, levels)[:n]
    if n is not None and len(order) < n:
        notes.append(f"There are {len(order)} such pages, not {n}: all of them are taken.")
    chosen = Counter(strata[order].tolist())
    return Sample(
        [
            SampledPage(
                candidates.names[candidates.document[place]],
                int(candidates.page[place]),
                names[strata[place]],
            )
            for place in order
        ],
        [
            Stratum(names[code], int(size), chosen[int(code)])
            for code, size in zip(found, sizes, strict=True)
        ],
        notes,
    )


def suspicions(page: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a page of the table `pages` is worth a look: its flags, whether it is capped, or empty."""
    named = set(page["flags"] or ())
    named |= {"capped"} if page["capped"] else set()
    named |= {"no_regions"} if page["n_regions"] == 0 else set()
    return tuple(sorted(named))


def describe_sample(sample: Sample) -> str:
    """What was chosen, for people."""
    documents = len({page.document for page in sample.pages})
    total = sum(stratum.pages for stratum in sample.strata)
    lines = [f"{len(sample.pages)} of {total} pages, of {documents} documents."]
    if [stratum.name for stratum in sample.strata] != [ALL]:
        shown = sample.strata[:SHOWN_STRATA]
        width = max(len(stratum.name) for stratum in shown)
        lines += [f"  {name:<{width}}{chosen:>8} of {pages}" for name, pages, chosen in shown]
        if len(sample.strata) > len(shown):
            lines.append(f"  and {len(sample.strata) - len(shown)} other strata")
    return "\n".join([*lines, *sample.notes])


# Pages to choose from -----------------------------------------------------------------------------


def _column(directory: Path, by: str | None) -> tuple[dict[str, Any] | None, str | None]:
    """Document -> value where `by` is a column of documents.parquet, or its name in `pages`."""
    if by is None:
        return None, None
    path = directory / "results" / "documents.parquet"
    known = {"documents.parquet": pq.read_schema(path) if path.exists() else pa.schema([])}
    known["pages"] = SCHEMAS["pages"]
    # A list is no stratum; flags have an option of their own.
    columns = {
        table: [field.name for field in schema if not pa.types.is_nested(field.type)]
        for table, schema in known.items()
    }
    if by in columns["documents.parquet"]:
        table = read_table(path, sorted({"document", by}))
        pairs = zip(table["document"].to_pylist(), table[by].to_pylist(), strict=True)
        return dict(pairs), None
    if by in columns["pages"]:
        return None, by
    every = [name for names in columns.values() for name in names]
    near = difflib.get_close_matches(by, every, n=1)
    message = f"--by {by}: there is no such column{f' (is it {near[0]}?)' if near else ''}."
    if by == "flags":
        message = "--by flags: a page may have several. --flags chooses pages by them."
    for table, names in columns.items():
        message += f"\nColumns of {table}: {', '.join(names) or 'it is not made yet'}"
    if not path.exists():
        message += f"\n{path} is what a run makes last. {say_run_again(directory)}"
    raise UserError(message)


def _read_candidates(
    results: Path,
    shards: Mapping[str, Sequence[str]],
    of_document: Mapping[str, Any] | None,
    column: str | None,
    flagged: bool,
    seed: int,
) -> _Candidates:
    wanted = ["document", "page", "status", "sha256", *(("flags", "capped", "n_regions") * flagged)]
    if column is not None and column not in wanted:
        wanted.append(column)
    names: dict[str, int] = {}
    arrays: list[list[np.ndarray]] = [[], [], [], []]
    flags: list[tuple[str, ...]] = []
    values: list[Any] = []
    for shard, documents in shards.items():
        table = read_table(dataset_file(results, "pages", shard), wanted)
        ok = pc.equal(table["status"], "ok")
        among = pc.is_in(table["document"], value_set=pa.array(documents, pa.string()))
        table = table.filter(pc.and_(ok, among))
        if flagged:
            table = table.filter(_suspicious(table))
        own, pages = table["document"].to_pylist(), table["page"].to_pylist()
        images = table["sha256"].to_pylist()
        arrays[0].append(np.array([names.setdefault(name, len(names)) for name in own], np.int64))
        arrays[1].append(np.array(pages, np.int64))
        keys = (_key(seed, name, page) for name, page in zip(own, pages, strict=True))
        arrays[2].append(np.fromiter(keys, np.uint64, len(own)))
        arrays[3].append(np.fromiter((int(text[:16], 16) for text in images), np.uint64, len(own)))
        rows = table.select(["flags", "capped", "n_regions"]).to_pylist() if flagged else ()
        flags += map(suspicions, rows) if flagged else [()] * len(own)
        if of_document is not None:
            values += map(of_document.get, own)
        else:
            values += table[column].to_pylist() if column else [None] * len(own)
    joined = (np.concatenate([np.empty(0, each[0].dtype), *each]) for each in arrays)
    return _Candidates(list(names), *joined, flags, values)


def _suspicious(pages: pa.Table) -> pa.ChunkedArray:
    """Which pages `suspicions` has something to say of."""
    some = pc.greater(pc.fill_null(pc.list_value_length(pages["flags"]), 0), 0)
    empty = pc.fill_null(pc.equal(pages["n_regions"], 0), False)
    return pc.or_(pc.or_(some, empty), pc.fill_null(pages["capped"], False))


def _key(seed: int, document: str, page: int) -> int:
    """A number below 2^64, as good as random."""
    text = f"{seed}\0{document}\0{page}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _without_equal_images(candidates: _Candidates) -> tuple[_Candidates, list[str]]:
    """One page of each image: a blank page need not be annotated twice."""
    order = np.argsort(candidates.key)
    _, first = np.unique(candidates.image[order], return_index=True)
    left_out = len(order) - len(first)
    if not left_out:
        return candidates, []
    note = f"{left_out} pages are left out whose image is, byte for byte, that of another."
    return candidates.take(np.sort(order[first])), [note]


# Strata -------------------------------------------------------------------------------------------


def stratify(values: Sequence[Any], by: str | None) -> tuple[np.ndarray, list[str], list[str]]:
    """Strata of a column's values: ([N] int64, names, notes).

    Each value is a stratum, but numbers (also where they are texts) of more than MAX_BINS values are
    divided at their quantiles. What is missing, or an empty text, is a stratum of its own.
    """
    if by is None:
        return np.zeros(len(values), np.int64), [ALL], []
    numbers = {value: _number(value) for value in set(values) if not _is_missing(value)}
    names, notes = {value: str(value) for value in numbers}, []
    if None in numbers.values():
        order = sorted(set(names.values()))
    else:
        order = [names[value] for value in sorted(numbers, key=lambda value: numbers[value])]
        if len(set(numbers.values())) > MAX_BINS:
            names, order = _bins(numbers, [numbers[each] for each in values if each in numbers])
            count = len(set(numbers.values()))
            notes.append(f"{by} has {count} values: they are divided into {len(order)} strata.")
    codes = {name: code for code, name in enumerate(order)}
    missing = len(order)  # Also where a value is a text of that name.
    found = [codes[names[value]] if value in names else missing for value in values]
    return np.array(found, np.int64), [*order, NO_VALUE], notes


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: object) -> float | None:
    """A value as a finite number, or None."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _bins(numbers: Mapping[Any, float], pages: Sequence[float]) -> tuple[dict[Any, str], list[str]]:
    """(value -> name of its stratum, names in order): equal numbers are never divided."""
    shares = np.arange(1, MAX_BINS) / MAX_BINS
    edges = np.unique(np.quantile(pages, shares, method="inverted_cdf"))
    of_value = {value: int(np.searchsorted(edges, number)) for value, number in numbers.items()}
    bins: dict[int, list[float]] = {}
    for value, place in of_value.items():
        bins.setdefault(place, []).append(numbers[value])
    names = {}
    for place, members in sorted(bins.items()):
        low, high = min(members), max(members)
        names[place] = f"{low:.12g}" if low == high else f"{low:.12g} to {high:.12g}"
    return {value: names[place] for value, place in of_value.items()}, list(names.values())


def _by_flag(
    flags: Sequence[tuple[str, ...]], strata: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """`strata` divided by flags: a page of several counts for the rarest of them."""
    counts = Counter(flag for page in flags for flag in page)
    order = sorted(counts, key=lambda flag: (counts[flag], flag))
    place = {flag: number for number, flag in enumerate(order)}
    rarest = np.array([min(place[flag] for flag in page) for page in flags], np.int64)
    if not names:
        return rarest, order
    return strata * len(order) + rarest, [f"{name}, {flag}" for name in names for flag in order]


def _joined(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """[N] int64: a number for each pair of two numbers."""
    return outer * (inner.max(initial=0) + 1) + inner


def fair_order(key: np.ndarray, levels: Sequence[np.ndarray]) -> np.ndarray:
    """An order of N pages of which the first n are, for every n, a fair sample.

    `levels` are groups, [N] int64, the widest first, each of which divides the one before. The groups
    of a level take turns: whose turn comes first is decided by `key` [N], as is which page a group of
    the last level gives. By turns is equal allocation: a group that has no page left gives way.
    """
    order = np.argsort(key)
    for groups in reversed(levels):
        turns = turns_of(groups[order])
        order = order[np.lexsort((key[order], turns))]
    return order


def turns_of(groups: np.ndarray) -> np.ndarray:
    """[N] int64: how many of the same group come before."""
    places = np.argsort(groups, kind="stable")
    ordered = groups[places]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    lengths = np.diff(np.r_[starts, len(ordered)])
    turns = np.empty(len(groups), np.int64)
    turns[places] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return turns

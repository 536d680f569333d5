"""What a run made, in numbers: tables counted shard by shard, and pages chosen to be shown.

Memory does not grow with the archive: of pages and documents a bounded number is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scanmill.regions import BOX_COLUMNS
from scanmill.sampling import fair_order, turns_of
from scanmill.tables import read_table

#: Edges of the histograms: of scores, and of the share of its page that a region takes, in tenths of
#: decades from a ten-thousandth (a letter of a broadsheet) to all of it.
SCORE_EDGES = np.linspace(0, 1, 51)
AREA_EDGES = np.logspace(-4, 0, 33)
#: Scores by which pages are chosen, so that the gallery has doubtful ones, too.
SCORE_BANDS = (0.0, 0.6, 0.75, 0.9)
#: Pages kept of each flag; of each class and band of scores; of all.
PER_FLAG = 60
PER_CLASS = 8
PER_ARCHIVE = 200
#: Documents that are listed: as many as a browser sorts and filters while one waits for nothing.
MAX_DOCUMENTS = 10_000

_PAGE = ("document", "page", "status", "image", "width", "height", "sha256", "n_regions", "flags")
_REGION = ("document", "page", "detection", "class_name", "score", *BOX_COLUMNS, "region")


class ShownPage(NamedTuple):
    """A page that was chosen."""

    row: Mapping[str, Any]
    """Its row of `pages`."""
    regions: Sequence[Mapping[str, Any]]
    """Its rows of `regions`, in reading order."""
    ink: bytes | None
    """INK_CELLS x INK_CELLS, row by row."""


class _Kept(NamedTuple):
    """A page that may be shown: first come those whose `turn`, then `key`, is less."""

    turn: int
    key: float
    document: str
    page: ShownPage


@dataclass
class ClassCounts:
    """The regions of a class."""

    regions: int = 0
    pages: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.zeros(len(SCORE_EDGES) - 1, int))
    areas: np.ndarray = field(default_factory=lambda: np.zeros(len(AREA_EDGES) - 1, int))


@dataclass
class Survey:
    """Counts of an archive, and the pages and documents to show."""

    pages: int = 0
    """That came out."""
    regions_per_page: Counter[int] = field(default_factory=Counter)
    classes: dict[str, ClassCounts] = field(default_factory=dict)
    flags: Counter[str] = field(default_factory=Counter)
    flagged_pages: int = 0
    flagged_by_document: dict[str, int] = field(default_factory=dict)
    """Of documents that have some."""
    kept: dict[tuple[str, ...], list[_Kept]] = field(default_factory=dict)
    """("flag", name), ("class", name, band of scores) or ("any",) -> pages to choose from."""

    def add_shard(self, pages: Path, regions: Path, detected_pages: Path) -> None:
        """Count the tables of a shard."""
        rows = read_table(pages, _PAGE)
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        found = read_table(regions, _REGION)
        self.pages += rows.num_rows
        self.regions_per_page.update(_counts(rows["n_regions"]))
        place = _places(rows, found)
        self._count_classes(rows, found, place)
        self._count_flags(rows)
        self._keep_pages(rows, found, place, detected_pages)

    def _count_classes(self, rows: pa.Table, found: pa.Table, place: np.ndarray) -> None:
        width, height = (rows[name].to_numpy()[place] for name in ("width", "height"))
        x_min, y_min, x_max, y_max = (found[name].to_numpy() for name in BOX_COLUMNS)
        # A little within the edges, where a box that reaches beyond the page belongs, too.
        areas = np.clip((x_max - x_min) * (y_max - y_min) / (width * height), 1e-4, 1 - 1e-9)
        scores = np.clip(found["score"].to_numpy(), 0, 1)
        codes, names = _encoded(found["class_name"])
        for code, name in enumerate(names):
            mine = codes == code
            counts = self.classes.setdefault(name, ClassCounts())
            counts.regions += int(mine.sum())
            counts.pages += len(np.unique(place[mine]))
            counts.scores += np.histogram(scores[mine], SCORE_EDGES)[0]
            counts.areas += np.histogram(areas[mine], AREA_EDGES)[0]

    def _count_flags(self, rows: pa.Table) -> None:
        self.flags.update(_counts(pc.list_flatten(rows["flags"])))
        flagged = rows.filter(pc.greater(pc.list_value_length(rows["flags"]), 0))
        self.flagged_pages += flagged.num_rows
        self.flagged_by_document |= _counts(flagged["document"])

    def _keep_pages(
        self, rows: pa.Table, found: pa.Table, place: np.ndarray, detected_pages: Path
    ) -> None:
        if not rows.num_rows:
            return
        # As good as random, and the same whenever the tables are.
        key = np.random.default_rng(rows.num_rows).random(rows.num_rows)
        documents = _encoded(rows["document"])[0]
        wanted = {("any",): (np.arange(rows.num_rows), PER_ARCHIVE)}
        flags = pc.list_flatten(rows["flags"]).to_numpy(zero_copy_only=False)
        parents = pc.list_parent_indices(rows["flags"]).to_numpy()
        for flag in np.unique(flags.astype(str)):
            wanted["flag", flag] = parents[flags == flag], PER_FLAG
        codes, names = _encoded(found["class_name"])
        bands = np.searchsorted(SCORE_BANDS, found["score"].to_numpy(), "right")
        for code, name in enumerate(names):
            for band in range(1, len(SCORE_BANDS) + 1):
                mine = np.unique(place[(codes == code) & (bands == band)])
                wanted["class", name, str(band)] = mine, PER_CLASS
        entering: dict[int, list[tuple[tuple[str, ...], int, int]]] = {}
        for stratum, (candidates, count) in wanted.items():
            turns = _turns_in_document(documents[candidates], key[candidates])
            known = self.kept.get(stratum, [])
            last = known[-1][:2] if len(known) == count else (math.inf, 0)
            for index in np.lexsort((key[candidates], turns))[:count]:
                row, turn = int(candidates[index]), int(turns[index])
                if (turn, key[row]) < last:
                    entering.setdefault(row, []).append((stratum, turn, count))
        shown = _read_pages(rows, found, place, detected_pages, sorted(entering))
        for row, strata in entering.items():
            for stratum, turn, count in strata:
                page = _Kept(turn, float(key[row]), shown[row].row["document"], shown[row])
                kept = sorted([*self.kept.get(stratum, []), page], key=lambda each: each[:3])
                self.kept[stratum] = kept[:count]

    def shown_pages(self) -> list[ShownPage]:
        """The pages to show, each once, so that the first n are a fair choice for every n.

        Flagged pages and others take turns, among them flags, classes and bands of scores, and among
        these documents.
        """
        strata = sorted(self.kept)
        listed = [(code, each) for code, name in enumerate(strata) for each in self.kept[name]]
        if not listed:
            return []
        stratum = np.array([code for code, _ in listed])
        is_flag = np.array([strata[code][0] == "flag" for code in stratum]).astype(int)
        names = {each.document: None for _, each in listed}
        number = {name: index for index, name in enumerate(names)}
        document = np.array([number[each.document] for _, each in listed])
        key = np.array([each.key for _, each in listed])
        order = fair_order(key, [is_flag, stratum, stratum * len(number) + document])
        chosen: dict[tuple[str, int], ShownPage] = {}
        for index in order:
            page = listed[index][1].page
            chosen.setdefault((page.row["document"], page.row["page"]), page)
        return list(chosen.values())


def choose_documents(documents: pa.Table, flagged: Mapping[str, int]) -> pa.Table:
    """The rows of `documents` to list, at most MAX_DOCUMENTS, with a column `flagged` (pages).

    Where there are more, those of which most pages failed or are flagged, in the order of the table.
    """
    names = pa.array(list(flagged), pa.string())
    counts = np.append(np.fromiter(flagged.values(), np.int64, len(flagged)), 0)
    place = pc.fill_null(pc.index_in(documents["document"], value_set=names), len(flagged))
    of_document = counts[place.to_numpy()]
    table = documents.append_column("flagged", pa.array(of_document))
    if table.num_rows <= MAX_DOCUMENTS:
        return table
    lost = pc.equal(table["status"], "failed").to_numpy()
    trouble = of_document + table["pages_failed"].to_numpy() + lost
    rows = np.argsort(-trouble, kind="stable")[:MAX_DOCUMENTS]
    return table.take(pa.array(np.sort(rows)))


def _counts(column: pa.ChunkedArray | pa.Array) -> dict[Any, int]:
    """How often each value occurs."""
    counted = pc.value_counts(column)
    values, counts = counted.field("values"), counted.field("counts")
    return dict(zip(values.to_pylist(), counts.to_pylist(), strict=True))


def _encoded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A column of texts as codes [N] and what they stand for."""
    array = column.combine_chunks().dictionary_encode()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.indices.to_numpy(), array.dictionary.to_pylist()


def _places(rows: pa.Table, found: pa.Table) -> np.ndarray:
    """[N] int64: for each of the N rows of `found` the row of `rows` of the same page."""
    keys = ["document", "page"]
    numbered = rows.select(keys).append_column("place", pa.array(np.arange(rows.num_rows)))
    ordered = found.select(keys).append_column("order", pa.array(np.arange(found.num_rows)))
    joined = ordered.join(numbered, keys).sort_by("order")
    return joined["place"].to_numpy()


def _turns_in_document(documents: np.ndarray, key: np.ndarray) -> np.ndarray:
    """[N] int64: how many of N pages of the same document have a lesser key."""
    order = np.argsort(key)
    turns = np.empty(len(documents), np.int64)
    turns[order] = turns_of(documents[order])
    return turns


def _read_pages(
    rows: pa.Table,
    found: pa.Table,
    place: np.ndarray,
    detected_pages: Path,
    wanted: Sequence[int],
) -> dict[int, ShownPage]:
    """Row of `rows` -> the page, for those `wanted`."""
    if not wanted:
        return {}
    chosen = rows.take(pa.array(wanted, pa.int64())).to_pylist()
    mine = np.flatnonzero(np.isin(place, wanted))
    regions: dict[int, list[dict]] = {row: [] for row in wanted}
    own = found.take(pa.array(mine)).drop_columns(["document", "page"])
    for row, region in zip(place[mine].tolist(), own.to_pylist(), strict=True):
        regions[row].append(region)
    ink = read_table(detected_pages, ("document", "page", "ink"))
    # A join cannot carry lists of fixed size.
    lines = _places(ink, rows.take(pa.array(wanted, pa.int64())))
    cells = ink["ink"].take(pa.array(lines)).to_pylist()
    return {
        row: ShownPage(page, regions[row], bytes(each) if each else None)
        for row, page, each in zip(wanted, chosen, cells, strict=True)
    }

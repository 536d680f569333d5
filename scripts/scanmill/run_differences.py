"""Two runs over the same archive: which regions are kept, moved, renamed, lost or new.

Nobody says which of the two is right: there is no truth here. Documents are found in both runs by their
names, whatever shards they are in; regions are matched page by page, one to one. Memory holds the
regions of a few shards and, while shards are paired, the names of all documents.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from scanmill.errors import UserError
from scanmill.regions import BOX_COLUMNS
from scanmill.run_facts import count_rows, count_values, finished_shards, models_of
from scanmill.settings import DECIDING_SETTINGS
from scanmill.tables import TableWriter, read_table

#: What became of a region of A, or where one of B comes from.
CHANGES = ("kept", "moved", "renamed", "lost", "new")
#: Boxes that share this much (intersection over union) are of one region, as in COCO's AP50.
SAME_REGION_IOU = 0.5
#: From here on a region has not moved: a line of type stays whole in its box.
KEPT_IOU = 0.9
#: With an IoU of t, heights are at least the t-th part of what both boxes span, and edges at most
#: (1 - t) of it apart.
REACH = 1 / SAME_REGION_IOU - 1

#: Pairs of boxes that are compared at once: some 100 MB.
PAIRS_AT_ONCE = 1 << 20
#: Pages of one document that are shown at most, that others have their turn.
SHOWN_OF_DOCUMENT = 3
SHOWN_DOCUMENTS = 20

_KEY = [("document", pa.string()), ("page", pa.int32())]


def _of_both(*columns: tuple[str, pa.DataType]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}_{side}", kind) for side in "ab" for name, kind in columns]


REGIONS = pa.schema(
    [
        *_KEY,
        ("change", pa.string()),
        ("iou", pa.float32()),
        *_of_both(
            ("detection", pa.int32()),
            ("class_name", pa.string()),
            ("score", pa.float32()),
            *((name, pa.float32()) for name in BOX_COLUMNS),
        ),
    ]
)
_COUNTS = [("compared", pa.bool_()), ("difference", pa.float32())]
_COUNTS += [(change, pa.int32()) for change in CHANGES]
PAGES = pa.schema(
    [
        *_KEY,
        *_of_both(
            ("status", pa.string()),
            ("reason", pa.string()),
            ("image", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("n_regions", pa.int32()),
        ),
        *_COUNTS,
    ]
)
DOCUMENTS = pa.schema(
    [
        ("document", pa.string()),
        ("runs", pa.string()),
        ("pages", pa.int32()),
        ("pages_compared", pa.int32()),
        ("difference", pa.float32()),
        *((change, pa.int32()) for change in CHANGES),
    ]
)
CLASSES = pa.schema(
    [
        ("class_name", pa.string()),
        ("regions_a", pa.int64()),
        ("regions_b", pa.int64()),
        ("kept", pa.int64()),
        ("moved", pa.int64()),
        ("renamed_from", pa.int64()),
        ("renamed_to", pa.int64()),
        ("lost", pa.int64()),
        ("new", pa.int64()),
    ]
)
_PAGE_COLUMNS = (*(name for name, _ in _KEY), "status", "reason", "image", "width", "height")
_PAGE_COLUMNS += ("n_regions",)
_REGION_COLUMNS = (*(name for name, _ in _KEY), "detection", "class_name", "score", *BOX_COLUMNS)


# Runs ---------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One of the two runs."""

    given: str
    """The folder, as it was given."""
    results: Path
    shards: list[str]
    models: list[dict[str, Any]]
    settings: dict[str, Any]
    """What decides results, by dotted key; {} where results/settings.yaml is missing."""
    processors: list[str]
    """Arithmetic and processor that pages were detected with, most pages first."""


def open_run(folder: Path) -> Run:
    """A run from its working directory, or from its results folder. UserError where there are none."""
    results = next(
        (each for each in (folder / "results", folder) if (each / "pages").is_dir()), None
    )
    shards = finished_shards(results) if results else []
    if results is None or not shards:
        raise UserError(
            f"There are no regions in {folder}: neither {folder / 'results/pages'} nor "
            f"{folder / 'pages'} holds tables. Give the working directory of a run, the one that "
            "snakemake was given with --directory, or its results folder; the run must have come as "
            "far as the target `regions`."
        )
    counted = count_values(results, "detected_pages", shards, ("precision", "device"))
    processors = [f"{precision}, {device}" for (precision, device), _ in counted.most_common()]
    models = models_of(results, shards)
    return Run(str(folder), results, shards, models, _settings(results), processors)


def _settings(results: Path) -> dict[str, Any]:
    """The settings that decide what a run makes of a document, by dotted key."""
    path = results / "settings.yaml"
    if not path.is_file():
        return {}
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = {key: _value(found, key) for key in DECIDING_SETTINGS}
    return {key: value for key, value in values.items() if value is not _ABSENT}


_ABSENT = object()


def _value(settings: Any, dotted: str) -> Any:  # noqa: ANN401
    """The value of a dotted key; _ABSENT where another release had no such setting."""
    for key in dotted.split("."):
        if not isinstance(settings, Mapping) or key not in settings:
            return _ABSENT
        settings = settings[key]
    return settings


def described(run: Run) -> dict[str, str]:
    """What made a run, name by name, in words: settings, model, processors."""
    said = {
        key: yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        for key, value in run.settings.items()
    }
    named = [f"{model['name']} ({model['digest'][:12]})" for model in run.models]
    classes = [", ".join(model["classes"]) for model in run.models]
    return {
        **said,
        "model": " and ".join(named),
        "classes of the model": " and ".join(dict.fromkeys(classes)),
        "detected with": " and ".join(run.processors),
    }


def setup_differences(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """(name, A's, B's) of the models, and of what else made the two runs and is not the same."""
    ours, theirs = described(a), described(b)
    names = dict.fromkeys([*ours, *theirs])
    pairs = [(name, ours.get(name, "unknown"), theirs.get(name, "unknown")) for name in names]
    return [(name, one, other) for name, one, other in pairs if name == "model" or one != other]


# Shards -------------------------------------------------------------------------------------------


class Pairing(NamedTuple):
    """Which shards of A and B have documents in common."""

    shards: list[tuple[str, str]]
    """In the order of A's."""
    both: int
    """Documents that both runs have."""
    only_a: pa.ChunkedArray
    """Names of documents that B does not have."""
    only_b: pa.ChunkedArray


def pair_shards(a: Run, b: Run) -> Pairing:
    """Find every document of A in B. UserError where there is none in both."""
    (names_a, shard_a), (names_b, shard_b) = _documents(a), _documents(b)
    place = pc.index_in(names_b, value_set=names_a)
    in_both = pc.is_valid(place)
    found = place.drop_null().to_numpy()
    if not len(found):
        raise UserError(
            f"No document of {a.given} is in {b.given}: they are runs of different archives. "
            f"For example, {names_a[0]} is in the first and {names_b[0]} in the second alone. Two runs "
            "can be compared whose documents have the same names: give `archive` the same folder."
        )
    missing = np.ones(len(names_a), dtype=bool)
    missing[found] = False
    pairs = np.unique(np.stack([shard_a[found], shard_b[in_both.to_numpy()]], axis=1), axis=0)
    shards = [(a.shards[one], b.shards[other]) for one, other in pairs.tolist()]
    only_b = names_b.filter(pc.invert(in_both))
    return Pairing(shards, len(found), names_a.filter(pa.array(missing)), only_b)


def _documents(run: Run) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The names of a run's documents, and the number of the shard of each, int64."""
    names = [
        pc.unique(read_table(run.results / "pages" / f"{shard}.parquet", ["document"])["document"])
        for shard in run.shards
    ]
    return pa.chunked_array(names, pa.string()), np.repeat(
        np.arange(len(names)), [*map(len, names)]
    )


@lru_cache(maxsize=8)
def _read_shard(results: Path, shard: str) -> tuple[pa.Table, pa.Table]:
    """Pages and regions of a shard; kept for the next pair, which mostly has it too."""
    name = f"{shard}.parquet"
    pages = read_table(results / "pages" / name, _PAGE_COLUMNS).select(_PAGE_COLUMNS)
    regions = read_table(results / "regions" / name, _REGION_COLUMNS).select(_REGION_COLUMNS)
    return pages, regions


# Matching -----------------------------------------------------------------------------------------


class Boxes(NamedTuple):
    """Regions of many pages, N of them."""

    page: np.ndarray
    """[N] int64: which page."""
    label: np.ndarray
    """[N] int64: which class, by numbers that both runs share."""
    boxes: np.ndarray
    """[N, 4] float64: x_min, y_min, x_max, y_max in pixels of A's page image."""

    @property
    def areas(self) -> np.ndarray:
        """[N] float64, squared pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).clip(min=0).prod(axis=1)


class Matches(NamedTuple):
    """Regions of A and B that are the same: rows of both, [M], and what their boxes share."""

    a: np.ndarray
    b: np.ndarray
    iou: np.ndarray


def match_regions(a: Boxes, b: Boxes) -> Matches:
    """Match the regions of equal pages one to one, where boxes share at least SAME_REGION_IOU.

    First come pairs of one class that share KEPT_IOU, so that two regions that lie on one another in
    both runs do not change their names; then whatever shares most, equal classes before others.
    """
    pairs = [Matches(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64)))]
    pairs += _overlapping(a, b)
    one, other, iou = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    same = a.label[one] == b.label[other]
    order = np.lexsort((other, one, ~same, -iou, ~(same & (iou >= KEPT_IOU))))
    rest = Matches(one[order], other[order], iou[order])
    chosen = []
    while len(rest.a):
        # A pair that comes first for both is taken; what has lost its partner tries the next.
        first = _is_first(rest.a) & _is_first(rest.b)
        taken = Matches(*(values[first] for values in rest))
        left = ~np.isin(rest.a, taken.a) & ~np.isin(rest.b, taken.b)
        rest = Matches(*(values[left] for values in rest))
        chosen.append(taken)
    if not chosen:
        return rest
    return Matches(*(np.concatenate(parts) for parts in zip(*chosen, strict=True)))


def _is_first(values: np.ndarray) -> np.ndarray:
    """Where each value of [M] stands for the first time, bool [M]."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _overlapping(a: Boxes, b: Boxes) -> Iterator[Matches]:
    """All pairs of regions of equal pages that share SAME_REGION_IOU, in pieces.

    The upper edges of such a pair are no further apart than REACH heights of either: on a page of a
    thousand regions, few pairs are looked at.
    """
    if not len(a.page) or not len(b.page):
        return
    # Upper edges of all pages on one line, each page clear of the next.
    height = 2 * (1 + REACH) * max(np.abs(a.boxes).max(), np.abs(b.boxes).max()) + 2
    edges_a, edges_b = (each.page * height + each.boxes[:, 1] for each in (a, b))
    order = np.argsort(edges_b, kind="stable")
    # A pixel more, for what rounding takes.
    reach = REACH * (a.boxes[:, 3] - a.boxes[:, 1]) + 1
    start = np.searchsorted(edges_b[order], edges_a - reach, "left")
    count = np.searchsorted(edges_b[order], edges_a + reach, "right") - start
    areas_a, areas_b = a.areas, b.areas
    done = np.cumsum(count)
    row = 0
    while row < len(count):
        before = done[row] - count[row]
        end = max(row + 1, int(np.searchsorted(done, before + PAIRS_AT_ONCE, "right")))
        counts = count[row:end]
        one = np.repeat(np.arange(row, end), counts)
        within = np.arange(len(one)) - np.repeat(done[row:end] - counts - before, counts)
        other = order[start[one] + within]
        upper = np.maximum(a.boxes[one, :2], b.boxes[other, :2])
        lower = np.minimum(a.boxes[one, 2:], b.boxes[other, 2:])
        shared = (lower - upper).clip(min=0).prod(axis=1)
        iou = shared / np.maximum(areas_a[one] + areas_b[other] - shared, np.spacing(1))
        near = iou >= SAME_REGION_IOU
        yield Matches(one[near], other[near], iou[near])
        row = end


# Comparing ----------------------------------------------------------------------------------------


class ShardDifferences(NamedTuple):
    """What differs in the documents that two shards have in common."""

    regions: pa.Table
    pages: pa.Table
    documents: pa.Table


def compare_shards(a: tuple[pa.Table, pa.Table], b: tuple[pa.Table, pa.Table]) -> ShardDifferences:
    """Compare pages and regions of a shard of A with those of one of B.

    Regions are compared on pages that are ok in both; the others say so and keep their numbers.
    """
    pages = _join_pages(a[0], b[0])
    names = [table["class_name"] for _, table in (a, b)]
    classes = pc.unique(pa.chunked_array(names[0].chunks + names[1].chunks, pa.string()))
    # B's boxes in pixels of A: the same page may have another resolution there.
    scales = np.ones_like(pages.size_a), pages.size_a / pages.size_b
    chosen = [_on_compared_pages(table, pages) for _, table in (a, b)]
    changes = _classify(
        *(
            _boxes(table, page, classes, scale)
            for (table, page), scale in zip(chosen, scales, strict=True)
        )
    )
    regions = _region_table(changes, [table for table, _ in chosen], pages)
    counted = _page_table(changes, pages)
    return ShardDifferences(regions, counted, _document_table(counted))


class _Pages(NamedTuple):
    """The pages that A or B have of the documents of both, P of them."""

    documents: pa.Array
    """The names of documents."""
    keys: np.ndarray
    """[P] int64, ascending: as `_page_keys` makes them."""
    columns: dict[str, pa.ChunkedArray]
    """What the two runs say of them."""
    compared: np.ndarray
    """[P] bool: they are ok in both."""
    size_a: np.ndarray
    """[P, 2] float64: width and height of A's image in pixels, NaN without one."""
    size_b: np.ndarray


def _join_pages(a: pa.Table, b: pa.Table) -> _Pages:
    documents = pc.unique(a["document"])
    documents = documents.filter(pc.is_in(documents, value_set=pc.unique(b["document"])))
    of_a, of_b = (_page_keys(pages, documents) for pages in (a, b))
    keys = np.union1d(of_a[of_a >= 0], of_b[of_b >= 0])
    columns = {**_take_pages(a, of_a, keys, "a"), **_take_pages(b, of_b, keys, "b")}
    ok = pc.and_(pc.equal(columns["status_a"], "ok"), pc.equal(columns["status_b"], "ok"))
    size_a, size_b = (
        np.stack([_numbers(columns[f"{name}_{side}"]) for name in ("width", "height")], axis=1)
        for side in "ab"
    )
    compared = pc.fill_null(ok, False).to_numpy()
    return _Pages(documents, keys, columns, compared, size_a, size_b)


def _on_compared_pages(regions: pa.Table, pages: _Pages) -> tuple[pa.Table, np.ndarray]:
    """The regions that lie on pages which are compared, and the row of the page of each, int64."""
    keys = _page_keys(regions, pages.documents)
    page = np.searchsorted(pages.keys, keys)
    rows = np.flatnonzero((keys >= 0) & pages.compared[page])
    return regions.take(pa.array(rows)), page[rows]


def _boxes(regions: pa.Table, page: np.ndarray, classes: pa.Array, scale: np.ndarray) -> Boxes:
    """Regions for matching; `scale` [P, 2] leads from their pixels to those of A."""
    label = pc.index_in(regions["class_name"], value_set=classes).to_numpy().astype(np.int64)
    boxes = np.stack([_numbers(regions[name]) for name in BOX_COLUMNS], axis=1)
    return Boxes(page, label, boxes * np.tile(scale, 2)[page])


def _page_table(changes: _Changes, pages: _Pages) -> pa.Table:
    """What became of the regions of each page, of the schema PAGES."""
    count = len(pages.keys)
    shares = changes.area / np.maximum(pages.size_a.prod(axis=1), 1)[changes.page]
    number = pages.keys & _PAGE
    columns = {
        "document": pages.documents.take(pa.array(pages.keys >> 32)),
        "page": pa.array(number, mask=number == 0),
        **pages.columns,
        "compared": pages.compared,
        "difference": np.bincount(changes.page, shares, minlength=count),
    }
    for change, name in enumerate(CHANGES):
        counted = np.bincount(changes.page[changes.change == change], minlength=count)
        columns[name] = pa.array(counted, mask=~pages.compared)
    return pa.table({name: columns[name] for name in PAGES.names}).cast(PAGES)


#: The part of a page's key that is its number; 0: the row of a document that did not open.
_PAGE = (1 << 32) - 1


def _page_keys(table: pa.Table, documents: pa.Array) -> np.ndarray:
    """Of each row: the number of its document in `documents` and its page in one int64, or -1."""
    number = pc.fill_null(pc.index_in(table["document"], value_set=documents), -1)
    number = number.to_numpy().astype(np.int64)
    page = pc.fill_null(table["page"], 0).to_numpy().astype(np.int64)
    return np.where(number < 0, -1, (number << 32) | page)


def _take_pages(
    pages: pa.Table, keys: np.ndarray, wanted: np.ndarray, side: str
) -> dict[str, pa.ChunkedArray]:
    """The columns of one side for the pages `wanted`, null where this side has no such page."""
    order = np.argsort(keys, kind="stable")
    row = order[np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)]
    table = pages.take(pa.array(row, mask=keys[row] != wanted))
    return {f"{name}_{side}": table[name] for name in _PAGE_COLUMNS[2:]}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64, NaN for null."""
    return pc.cast(column, pa.float64()).to_numpy()


class _Changes(NamedTuple):
    """What became of regions, R rows, by page."""

    page: np.ndarray
    change: np.ndarray
    """Numbers of CHANGES."""
    a: np.ndarray
    """Rows of A's regions, -1 for none."""
    b: np.ndarray
    iou: np.ndarray
    """NaN where there is but one box."""
    area: np.ndarray
    """What changed, in squared pixels of A: of a moved region the part that its boxes do not share."""


def _classify(a: Boxes, b: Boxes) -> _Changes:
    matches = match_regions(a, b)
    kept, moved, renamed, lost, new = range(len(CHANGES))
    same = a.label[matches.a] == b.label[matches.b]
    matched = np.where(same, np.where(matches.iou >= KEPT_IOU, kept, moved), renamed)
    larger = np.maximum(a.areas[matches.a], b.areas[matches.b])
    shares = np.select([matched == kept, matched == moved], [0, 1 - matches.iou], 1)
    only_a = np.setdiff1d(np.arange(len(a.page)), matches.a)
    only_b = np.setdiff1d(np.arange(len(b.page)), matches.b)
    rows = _Changes(
        np.concatenate([a.page[matches.a], a.page[only_a], b.page[only_b]]),
        np.concatenate([matched, np.full(len(only_a), lost), np.full(len(only_b), new)]),
        np.concatenate([matches.a, only_a, np.full(len(only_b), -1)]),
        np.concatenate([matches.b, np.full(len(only_a), -1), only_b]),
        np.concatenate([matches.iou, np.full(len(only_a) + len(only_b), np.nan)]),
        np.concatenate([shares * larger, a.areas[only_a], b.areas[only_b]]),
    )
    # In A's order of each page, behind them what is new.
    order = np.lexsort((rows.b, np.where(rows.a < 0, len(a.page), rows.a), rows.page))
    return _Changes(*(values[order] for values in rows))


def _region_table(changes: _Changes, regions: Sequence[pa.Table], pages: _Pages) -> pa.Table:
    """What became of each region, of the schema REGIONS."""
    key = pages.keys[changes.page]
    columns: dict[str, Any] = {
        "document": pages.documents.take(pa.array(key >> 32)),
        "page": key & _PAGE,
        "change": pa.array(CHANGES).take(pa.array(changes.change)),
        "iou": pa.array(changes.iou, mask=np.isnan(changes.iou)),
    }
    for table, rows, side in zip(regions, (changes.a, changes.b), "ab", strict=True):
        taken = table.take(pa.array(rows, mask=rows < 0))
        columns |= {f"{name}_{side}": taken[name] for name in _REGION_COLUMNS[2:]}
    return pa.table({name: columns[name] for name in REGIONS.names}).cast(REGIONS)


def _document_table(pages: pa.Table) -> pa.Table:
    numbers = ("compared", "difference", *CHANGES)
    counted = (
        pages.append_column("opened", pc.cast(pc.is_valid(pages["page"]), pa.int32()))
        .set_column(
            pages.schema.get_field_index("compared"), "compared", _as_int(pages["compared"])
        )
        .group_by("document", use_threads=False)
        .aggregate([("opened", "sum"), *((name, "sum") for name in numbers)])
    )
    columns = {
        "document": counted["document"],
        "runs": pa.repeat("both", counted.num_rows),
        "pages": counted["opened_sum"],
        "pages_compared": counted["compared_sum"],
        **{name: pc.fill_null(counted[f"{name}_sum"], 0) for name in ("difference", *CHANGES)},
    }
    return pa.table(columns).cast(DOCUMENTS)


def _as_int(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.int32())


# Everything ---------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Two runs compared: numbers of all, and the largest differences."""

    a: Run
    b: Run
    documents: int
    """That both runs have."""
    only_a: int
    only_b: int
    regions: Counter[tuple[str | None, str | None, str]]
    """(class in A, class in B, change) -> regions."""
    pages: Counter[tuple[str, str]]
    """(what they are in A, in B) -> pages; `ok`, the reason of a failure, or `missing`."""
    scaled: int
    """Pages that are compared though their images differ in size."""
    largest: pa.Table
    """Of the schema PAGES: those to show, most different first."""
    most_changed: pa.Table
    """Of the schema DOCUMENTS."""


def compare_runs(a: Run, b: Run, folder: Path, shown: int) -> Comparison:
    """Compare two runs and write what differs into `folder`, shard by shard.

    regions.parquet has a row for each pair of regions and for each that is alone, pages.parquet,
    documents.parquet and classes.parquet count them. `shown` pages are kept for a gallery.
    """
    pairing = pair_shards(a, b)
    regions: Counter[tuple[str | None, str | None, str]] = Counter()
    pages: Counter[tuple[str, str]] = Counter()
    scaled, largest, most_changed = 0, PAGES.empty_table(), DOCUMENTS.empty_table()
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(TableWriter(folder / f"{name}.parquet", schema))
            for name, schema in (("regions", REGIONS), ("pages", PAGES), ("documents", DOCUMENTS))
        ]
        for shard_a, shard_b in pairing.shards:
            found = compare_shards(_read_shard(a.results, shard_a), _read_shard(b.results, shard_b))
            for writer, table in zip(writers, found, strict=True):
                writer.write(table)
            regions += count_rows(found.regions, ("class_name_a", "class_name_b", "change"))
            pages += count_rows(_outcomes(found.pages), ("a", "b"))
            scaled += _scaled_pages(found.pages)
            largest = _largest_pages(pa.concat_tables([largest, found.pages]), shown)
            most_changed = _largest(
                pa.concat_tables([most_changed, found.documents]), SHOWN_DOCUMENTS
            )
        for names, side in ((pairing.only_a, "a"), (pairing.only_b, "b")):
            writers[2].write(_alone(names, side))
    alone = len(pairing.only_a), len(pairing.only_b)
    totals = (regions, pages, scaled, largest, most_changed)
    comparison = Comparison(a, b, pairing.both, *alone, *totals)
    with TableWriter(folder / "classes.parquet", CLASSES) as writer:
        writer.write(pa.Table.from_pylist(count_classes(comparison), schema=CLASSES))
    return comparison


def _outcomes(pages: pa.Table) -> pa.Table:
    """What each page is in A and in B: `ok`, why it failed, `missing`."""
    return pa.table(
        {
            side: pc.coalesce(
                pages[f"reason_{side}"], pages[f"status_{side}"], pa.scalar("missing")
            )
            for side in "ab"
        }
    )


def _scaled_pages(pages: pa.Table) -> int:
    differs = pc.or_(*(pc.not_equal(pages[f"{n}_a"], pages[f"{n}_b"]) for n in ("width", "height")))
    return pc.sum(pc.and_(pages["compared"], differs)).as_py() or 0


def _largest_pages(pages: pa.Table, count: int) -> pa.Table:
    """The pages that differ most, at most SHOWN_OF_DOCUMENT of a document."""
    pages = _largest(pages, pages.num_rows)
    place: Counter[str] = Counter()
    rows = []
    for row, document in enumerate(pages["document"].to_pylist()):
        place[document] += 1
        if place[document] <= SHOWN_OF_DOCUMENT and len(rows) < count:
            rows.append(row)
    return pages.take(pa.array(rows, pa.int64()))


def _largest(table: pa.Table, count: int) -> pa.Table:
    """The rows with the largest difference, of equal ones the first by name; none without any."""
    table = table.filter(pc.greater(table["difference"], 0))
    keys = [("difference", "descending"), ("document", "ascending")]
    keys += [("page", "ascending")] * ("page" in table.column_names)
    return table.sort_by(keys).slice(0, count)


def _alone(names: pa.ChunkedArray, side: str) -> pa.Table:
    """Documents that one run alone has."""
    table = pa.table({"document": names, "runs": pa.repeat(side, len(names))})
    return pa.concat_tables([DOCUMENTS.empty_table(), table], promote_options="default")


def count_classes(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of the schema CLASSES, by name; of regions on pages that were compared."""
    rows: dict[str, dict[str, Any]] = {}
    for (one, other, change), count in comparison.regions.items():
        for name, side in ((one, "a"), (other, "b")):
            if name is None:
                continue
            row = rows.setdefault(name, {"class_name": name, **dict.fromkeys(CLASSES.names[1:], 0)})
            row[f"regions_{side}"] += count
            if change == "renamed":
                row["renamed_from" if side == "a" else "renamed_to"] += count
            elif side == "a" or change == "new":
                row[change] += count
    return [rows[name] for name in sorted(rows)]

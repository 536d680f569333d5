"""Finished results in the formats of others: CSV, plain text, COCO, PAGE-XML, ALTO, Label Studio, PDF.

Datasets are read shard by shard, and documents written one by one: an archive of a million is not held
in memory. Text is taken along where there is any.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from scanmill.annotation_tasks import README, write_tasks
from scanmill.annotations import coco_annotation, is_outline
from scanmill.archive import Document, link_boundary, parse_pages, store_path
from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.image_files import Unusable, read_bytes
from scanmill.layout_xml import alto, page_xml
from scanmill.maintenance import (
    check_finished,
    choose_documents,
    dataset_file,
    find_plan,
    find_results,
    names_of,
    say_run_again,
)
from scanmill.outputs import check_output, new_file, new_folder
from scanmill.progress import INTERVAL
from scanmill.regions import BOX_COLUMNS
from scanmill.rendering import source_files
from scanmill.sampling import describe_sample, sample_pages
from scanmill.searchable_pdf import PdfPage, write_searchable_pdf
from scanmill.settings import archive_path, settings_of_last_run
from scanmill.store import SourceError, page_image_error, source_changed
from scanmill.tables import SCHEMAS, by_document, by_page, read_table
from scanmill.workers import WorkerPool

#: Columns of the CSV that are not the archive's own.
CSV_COLUMNS = (
    "document",
    "page",
    "region",
    "detection",
    "class_name",
    "score",
    *BOX_COLUMNS,
    "page_width",
    "page_height",
    "image",
)
#: Those of the text table, where there is one.
CSV_TEXT_COLUMNS = ("text", "confidence")
#: What stands before a column of the archive's own that has the name of another.
OWN_PREFIX = "document_"
#: Decimals of pixels and of scores in COCO files.
PIXEL_DECIMALS, SCORE_DECIMALS = 2, 6
#: Two lines of different regions that share this part of the smaller one are one line, read twice.
REPEATED = 0.5
#: Documents without a page that are named.
_EXAMPLES = 5
_KEY = ("document", "page", "detection")
_TEXT = ("text", "confidence", "lines", "source")


class Run(NamedTuple):
    """A finished run, and the documents of it that are exported."""

    directory: Path
    shards: Mapping[str, Sequence[Document]]
    has_text: bool

    @property
    def results(self) -> Path:
        """Its results folder."""
        return self.directory / "results"

    @property
    def names(self) -> list[str]:
        """The names of the documents."""
        return [name for documents in self.shards.values() for name in names_of(documents)]


class Page(NamedTuple):
    """An ok page."""

    row: Mapping[str, Any]
    """Of `pages`."""
    regions: list[dict[str, Any]]
    """Rows of `regions` in reading order, with the columns of the text table, null without."""

    def lines(self) -> list[list[dict[str, Any]]]:
        """The lines of each region, but those once that two regions share; `lines` has been read."""
        lines = [region["lines"] or [] for region in self.regions]
        every = [line for each in lines for line in each]
        boxes = np.array([[line[side] for side in BOX_COLUMNS] for line in every], float)
        kept = kept_once(boxes.reshape(-1, 4), np.repeat(np.arange(len(lines)), [*map(len, lines)]))
        chosen = iter(kept)
        return [[line for line in each if next(chosen)] for each in lines]


class Pages(NamedTuple):
    """The pages of a document."""

    source: Document
    rows: list[dict[str, Any]]
    """Of `pages`, those that failed as well."""
    regions: Mapping[int, pa.Table]
    text: Mapping[int, pa.Table]

    @property
    def name(self) -> str:
        """The document's."""
        return self.source.document

    def __iter__(self) -> Iterator[Page]:
        """The ok pages, one after the other."""
        for row in self.rows:
            if row["status"] == "ok":
                yield Page(row, self._regions(row["page"]))

    def _regions(self, page: int) -> list[dict[str, Any]]:
        if page not in self.regions:
            return []
        read = self.text[page].to_pylist() if page in self.text else ()
        text = {row["detection"]: row for row in read}
        nothing = dict.fromkeys(_TEXT)
        rows = self.regions[page].to_pylist()
        rows = [nothing | row | text.get(row["detection"], {}) for row in rows]
        return sorted(rows, key=lambda row: row["region"])


def kept_once(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """[N] bool: which lines of a page to keep so that each is there once where regions overlap.

    `boxes` [N, 4] are in pixels, `regions` [N] say which region each line is of. Of two lines that are
    one, the larger stays, since a region's edge may cut the other; of equal ones the first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    rank = np.empty(len(boxes), int)
    rank[np.argsort(-areas, kind="stable")] = np.arange(len(boxes))
    shared = np.ones((len(boxes), len(boxes)))
    for axis in (0, 1):
        low, high = boxes[:, axis], boxes[:, axis + 2]
        shared *= (np.minimum.outer(high, high) - np.maximum.outer(low, low)).clip(0)
    repeats = shared > REPEATED * areas[:, None]
    repeats &= (regions[:, None] != regions) & (rank[:, None] > rank)
    kept = np.ones(len(boxes), bool)
    # A line that repeats one that is not kept stays.
    for number in sorted(np.flatnonzero(repeats.any(axis=1)), key=rank.__getitem__):
        kept[number] = not (repeats[number] & kept).any()
    return kept


# What is exported ---------------------------------------------------------------------------------


def choose_run(directory: Path, documents: Sequence[str] | None = None) -> Run:
    """The run in `directory`, and its documents that match one of the globs, or all.

    Raises UserError where there is no run, where it is not finished, and for a glob without a match.
    """
    results = find_results(directory)
    plan = find_plan(results)
    has_text = (results / "ocr").is_dir()
    check_finished(directory, plan, ("pages", "regions", *(["ocr"] if has_text else [])))
    if documents is None:
        return Run(directory, plan, has_text)
    chosen = {shard: set(names) for shard, names in choose_documents(plan, documents).items()}
    shards = {
        shard: [document for document in plan[shard] if document.document in names]
        for shard, names in chosen.items()
    }
    return Run(directory, shards, has_text)


def read_shard(run: Run, dataset: str, shard: str, columns: Sequence[str]) -> pa.Table:
    """The rows of a shard's dataset of the documents that are exported, in their order."""
    table = read_table(dataset_file(run.results, dataset, shard), columns).select(columns)
    names = pa.array(names_of(run.shards[shard]), pa.string())
    return table.filter(pc.is_in(table["document"], value_set=names))


def read_documents(run: Run, text: Sequence[str] = ()) -> Iterator[Pages]:
    """The documents with their pages; `text`: columns of the text table to take along."""
    text = text if run.has_text else ()
    for shard, documents in run.shards.items():
        pages = by_document(read_shard(run, "pages", shard, SCHEMAS["pages"].names))
        regions = by_document(read_shard(run, "regions", shard, SCHEMAS["regions"].names))
        read = by_document(read_shard(run, "ocr", shard, (*_KEY, *text))) if text else {}
        for document in documents:
            name = document.document
            rows = pages[name].to_pylist() if name in pages else []
            tables = (by_page(each[name]) if name in each else {} for each in (regions, read))
            yield Pages(document, rows, *tables)


def need_text(run: Run, form: str) -> None:
    """Raise UserError where no text was recognized."""
    if not run.has_text:
        raise UserError(
            f"--format {form} needs the text of the regions, and there is none: {run.results / 'ocr'} "
            "does not exist. Text is recognized where the settings have `ocr: {enabled: true}`. "
            + say_run_again(run.directory, "--config", "ocr={enabled: true}")
        )


# Files --------------------------------------------------------------------------------------------


def file_names(documents: Iterable[str], suffix: str) -> dict[str, str]:
    """A file for each document, relative to the output: its path in the store with `suffix`.

    A name that has the suffix keeps it. Where a file would take the place of another, or of a folder,
    the dot of the suffix is doubled as `%2E`, which stands in no document's name.
    """
    paths = {document: store_path(document) for document in documents}
    taken = {path for path in paths.values() if path.lower().endswith(suffix)}
    folders = {path[: slash.start()] for path in paths.values() for slash in re.finditer("/", path)}
    names = {}
    for document, path in paths.items():
        has_suffix = path in taken
        name = path if has_suffix else path + suffix
        if name in folders or (not has_suffix and name in taken):
            name = f"{path}%2E{suffix[1:]}{suffix}"
        names[document] = name
    return names


def _created(folder: Path, name: str) -> Path:
    """The path of a file whose folder is there."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _counted(documents: Iterator[Pages], total: int) -> Iterator[Pages]:
    """The documents; every 30 s it is said how many are done."""
    then = time.monotonic() + INTERVAL
    for number, document in enumerate(documents):
        if time.monotonic() >= then:
            then = time.monotonic() + INTERVAL
            _say(f"{number} of {total} documents")
        yield document


def _documents(run: Run, text: Sequence[str] = ()) -> Iterator[Pages]:
    """The documents that have an ok page; of the others it is said that they are left out."""
    total, left_out = len(run.names), []
    for document in _counted(read_documents(run, text), total):
        if any(row["status"] == "ok" for row in document.rows):
            yield document
        else:
            reasons = {row["reason"] for row in document.rows if row["reason"]}
            left_out.append(f"{document.name} ({', '.join(sorted(reasons)) or 'no page'})")
    for line in left_out[:_EXAMPLES]:
        _say(f"left out, none of its pages is ok: {line}")
    if len(left_out) > _EXAMPLES:
        _say(f"and {len(left_out) - _EXAMPLES} documents more")


# CSV and text -------------------------------------------------------------------------------------


def write_csv(run: Run, output: Path) -> str:
    """A row per region, with its page and the archive's own columns of its document; UTF-8."""
    own = _own_columns(run)
    columns = [*CSV_COLUMNS, *(CSV_TEXT_COLUMNS if run.has_text else ())]
    taken = {name.lower() for name in columns}
    names = {key: OWN_PREFIX + key if key.lower() in taken else key for key in own}
    rows = 0
    schema = None
    with new_file(output) as draft, draft.open("wb") as file:
        for shard, documents in run.shards.items():
            table = _csv_rows(run, shard).select(columns)
            for key, name in names.items():
                values = {each.document: own[key].get(each.document) for each in documents}
                cells = [values[document] for document in table["document"].to_pylist()]
                table = table.append_column(name, pa.array(cells, pa.string()))
            schema = schema or table.schema
            if not rows and not file.tell():
                csv.write_csv(schema.empty_table(), file)
            csv.write_csv(table.cast(schema), file, csv.WriteOptions(include_header=False))
            rows += table.num_rows
    return f"{rows} regions of {len(run.names)} documents: {output}"


def _csv_rows(run: Run, shard: str) -> pa.Table:
    """The regions of a shard joined with their pages and, where there is any, their text."""
    keep = (*_KEY, "region", "class_name", "score", *BOX_COLUMNS)
    regions = read_shard(run, "regions", shard, keep)
    pages = read_shard(run, "pages", shard, ("document", "page", "width", "height", "image"))
    pages = pages.rename_columns(["document", "page", "page_width", "page_height", "image"])
    table = regions.join(pages, ["document", "page"])
    if run.has_text:
        text = read_shard(run, "ocr", shard, (*_KEY, *CSV_TEXT_COLUMNS))
        table = table.join(text, list(_KEY))
    return table.sort_by([(name, "ascending") for name in ("document", "page", "region")])


def _own_columns(run: Run) -> dict[str, dict[str, str]]:
    """Column of the archive's CSV -> document -> value."""
    own: dict[str, dict[str, str]] = {}
    for document in (each for documents in run.shards.values() for each in documents):
        for key, value in json.loads(document.columns or "{}").items():
            own.setdefault(key, {})[document.document] = value
    return own


def write_text(run: Run, output: Path) -> str:
    """A text file per document: regions in reading order, a blank line between them, a form feed between
    pages; a page that failed is empty, so that pages can be counted. Lines that regions share are there
    once."""
    need_text(run, "text")
    names, count = file_names(run.names, ".txt"), 0
    with new_folder(output) as draft:
        for document in _documents(run, ("lines",)):
            text = {page.row["page"]: _page_text(page) for page in document}
            pages = [text.get(row["page"], "") for row in document.rows]
            path = _created(draft, names[document.name])
            path.write_text("\f".join(pages), encoding="utf-8", newline="\n")
            count += 1
    return f"{count} text files: {output}"


def _page_text(page: Page) -> str:
    regions = ("\n".join(line["text"] for line in lines) for lines in page.lines())
    texts = [text.replace("\f", "\n") for text in regions if text]
    return "\n\n".join(texts) + "\n" * bool(texts)


# COCO ---------------------------------------------------------------------------------------------


def write_coco(run: Run, output: Path) -> str:
    """The regions as a COCO dataset, as if they were annotations."""
    categories = _categories(run)
    with new_file(output) as draft, draft.open("w", encoding="utf-8") as file:
        info = {"description": "Scanmill", "images": str(run.results)}
        head = json.dumps({"info": info, "categories": categories}, ensure_ascii=False)
        file.write(head[:-1] + ', "images": ')
        images = _write_list(file, (_coco_image(*each) for each in _coco_pages(run)))
        file.write(', "annotations": ')
        annotations = _write_list(file, _coco_annotations(run))
        file.write("}\n")
    return f"{images} images, {annotations} annotations: {output}"


def write_coco_results(run: Run, output: Path) -> str:
    """The regions as COCO results, about the images of the COCO dataset of the same documents."""
    with new_file(output) as draft, draft.open("w", encoding="utf-8") as file:
        count = _write_list(file, _coco_results(run))
        file.write("\n")
    return f"{count} results: {output}"


def _write_list(file: Any, items: Iterable[Mapping[str, Any]]) -> int:  # noqa: ANN401
    """Write a JSON list, an item a line; returns how many there are."""
    count = 0
    file.write("[")
    for item in items:
        file.write("\n" if not count else ",\n")
        file.write(json.dumps(item, ensure_ascii=False))
        count += 1
    file.write("]")
    return count


def _categories(run: Run) -> list[dict[str, Any]]:
    """COCO's categories: all classes that regions of the run have. Ids are those of classes, and 1."""
    names: dict[int, str] = {}
    for path in sorted((run.results / "regions").glob("*.parquet")):
        pairs = read_table(path, ("class_id", "class_name")).group_by(["class_id", "class_name"])
        for row in pairs.aggregate([]).to_pylist():
            names[row["class_id"]] = row["class_name"]
    return [{"id": class_id + 1, "name": names[class_id]} for class_id in sorted(names)]


def _coco_pages(run: Run) -> Iterator[tuple[int, Page]]:
    """(id of its image, page) of each ok page; ids begin at 1."""
    total = len(run.names)
    pages = (page for document in _counted(read_documents(run), total) for page in document)
    return enumerate(pages, 1)


def _coco_image(image_id: int, page: Page) -> dict[str, Any]:
    row = page.row
    named = {"file_name": row["image"], "width": row["width"], "height": row["height"]}
    return {"id": image_id, **named, "document": row["document"], "page": row["page"]}


def _coco_annotations(run: Run) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, page in _coco_pages(run):
        for region in page.regions:
            number += 1
            box, polygons = _shape(region)
            entry = coco_annotation(number, image_id, region["class_id"] + 1, box, polygons)
            yield entry | {"detection": region["detection"]}


def _coco_results(run: Run) -> Iterator[dict[str, Any]]:
    for image_id, page in _coco_pages(run):
        for region in page.regions:
            box, polygons = _shape(region)
            entry = coco_annotation(0, image_id, region["class_id"] + 1, box, polygons)
            kept = {key: entry[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            score = round(region["score"], SCORE_DECIMALS)
            yield kept | {"score": score, "detection": region["detection"]}


def _shape(region: Mapping[str, Any]) -> tuple[tuple[float, ...], list[tuple[int, ...]]]:
    """A region's box and polygons."""
    box = tuple(round(region[side], PIXEL_DECIMALS) for side in BOX_COLUMNS)
    polygon = region["polygon"] or ()
    return box, [tuple(polygon)] if is_outline(polygon) else []


# PAGE-XML and ALTO --------------------------------------------------------------------------------


def write_page_xml(run: Run, output: Path, images: bool = False) -> str:
    """A PAGE-XML file per page, in a folder per document; with `images` beside its image."""
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _write_xml(
        run, output, images, lambda page, image: page_xml(*page, image, created=created)
    )


def write_alto(run: Run, output: Path, images: bool = False) -> str:
    """An ALTO file per page, in a folder per document; with `images` beside its image."""
    return _write_xml(run, output, images, lambda page, image: alto(*page, image))


def _write_xml(run: Run, output: Path, images: bool, make: Callable[[Page, str], bytes]) -> str:
    count = 0
    with new_folder(output) as draft, _renderer(run) as renderer:
        for document in _documents(run, ("text", "confidence", "lines")):
            folder = draft / store_path(document.name)
            folder.mkdir(parents=True, exist_ok=True)
            for page in document:
                image = Path(page.row["image"])
                path = folder / image.with_suffix(".xml").name
                path.write_bytes(make(page, image.name))
                count += 1
            if images:
                _copy_images(run, document, renderer, folder)
    return f"{count} files: {output}"


def _renderer(run: Run) -> Renderer:
    """What makes page images again that were dropped."""
    planned = (document for documents in run.shards.values() for document in documents)
    return Renderer(run.directory, planned, os.cpu_count() or 1)


def _copy_images(run: Run, document: Pages, renderer: Renderer, folder: Path) -> None:
    """Put the images of a document's ok pages into `folder`."""
    rows = [row for row in document.rows if row["status"] == "ok"]
    with renderer.images(rows, folder) as readable:
        for row in readable:
            source = run.results / row["image"]
            (folder / source.name).write_bytes(_image_bytes(source, row, run.directory))


def _image_bytes(path: Path, row: Mapping[str, Any], directory: Path) -> bytes:
    """The bytes of a page image; UserError where they are not those that were rendered."""
    try:
        return read_bytes(path, row["sha256"])
    except Unusable as error:
        raise page_image_error(path, row["document"], row["page"], str(error), directory) from error


# Label Studio -------------------------------------------------------------------------------------


def write_label_studio(run: Run, output: Path) -> str:
    """Tasks with predictions of all ok pages, as `sample_pages.py` writes them of some."""
    sample = sample_pages(run.directory, None, documents=run.names)
    written = write_tasks(run.directory, sample.pages, output)
    said = f"{written.regions} regions. What to do next: {output / README}"
    return f"{describe_sample(sample)}\n{said}"


# Searchable PDF -----------------------------------------------------------------------------------


def write_pdf(run: Run, output: Path) -> str:
    """A PDF with unseen text per document: its own pages where it is a PDF, else its page images."""
    need_text(run, "pdf")
    settings = settings_of_last_run(run.directory)
    archive = archive_path(settings, run.directory)
    boundary = link_boundary(archive, settings["archive"])
    names = file_names(run.names, ".pdf")
    with (
        new_folder(output) as draft,
        _renderer(run) as renderer,
        closing(WorkerPool(os.cpu_count() or 1, "scanmill.searchable_pdf")) as pool,
    ):
        task = _PdfTask(run, renderer, pool, archive, boundary, settings["images"]["limits"])

        def write(document: Pages) -> str | None:
            path = _created(draft, names[document.name])
            return _write_pdf(task, document, path)

        documents = _documents(run, ("lines", "source"))
        problems = list(_side_by_side(write, documents, pool))
    skipped = [problem for problem in problems if problem]
    for problem in skipped:
        _say(f"left out: {problem}")
    return f"{len(problems) - len(skipped)} PDFs: {output}"


class _PdfTask(NamedTuple):
    """What the PDFs of all documents have in common."""

    run: Run
    renderer: Renderer
    pool: WorkerPool
    archive: Path
    boundary: bytes | None
    limits: Mapping[str, float]


def _side_by_side(
    function: Callable[[Pages], str | None], documents: Iterable[Pages], pool: WorkerPool
) -> Iterator[str | None]:
    """What a function returns of each document, in order; no more are read than the pool has work on."""
    with ThreadPoolExecutor(pool.size) as executor:
        try:
            futures: deque[Future] = deque()
            for document in documents:
                futures.append(executor.submit(function, document))
                if len(futures) > pool.size:
                    yield futures.popleft().result()
            for future in futures:
                yield future.result()
        except BaseException:
            pool.close()  # What waits for a worker ends.
            raise


def _write_pdf(task: _PdfTask, document: Pages, output: Path) -> str | None:
    """Write a document's PDF; returns None, or why it has none."""
    name = document.name
    problem = None
    if document.source.kind == "pdf":
        problem = _rewrite_pdf(task, document, output)
        if problem is None:
            return None
        _say(f"{name} is made of its page images, as its file cannot be used: {problem}")
    rows = [row for row in document.rows if row["status"] == "ok"]
    missing = len(document.rows) - len(rows)
    if missing:
        _say(f"{name} has {missing} pages without an image, which its PDF lacks")
    try:
        with task.renderer.images(rows, output.parent) as readable:
            images = {row["page"]: task.run.results / row["image"] for row in readable}
            for row in readable:
                _image_bytes(images[row["page"]], row, task.run.directory)
            pages = [_pdf_page(page, str(images[page.row["page"]].absolute())) for page in document]
            problem = _submit(task, pages, None, None, output)
    except UserError as error:
        problem = str(error)
    return problem and f"{name}: {problem}"


def _rewrite_pdf(task: _PdfTask, document: Pages, output: Path) -> str | None:
    """Write the PDF of a PDF, its pages kept; returns None, or why that cannot be."""
    name, selected = document.name, parse_pages(document.source.pages)
    [source] = source_files(document.source, task.archive, task.boundary)
    try:
        if source_changed(task.run.results, name, [source]):
            return "it has changed since the run"
    except SourceError as error:
        return f"it cannot be read ({error.cause.strerror})"
    pages = [_pdf_page(page, None) for page in document]
    return _submit(task, pages, os.path.abspath(source), selected, output)


def _submit(
    task: _PdfTask,
    pages: Sequence[PdfPage],
    source: bytes | None,
    selected: Sequence[int] | None,
    output: Path,
) -> str | None:
    arguments = (pages, source, selected, output.absolute(), task.limits)
    return task.pool.submit(write_searchable_pdf, *arguments).result()


def _pdf_page(page: Page, image: str | None) -> PdfPage:
    """A page of a PDF. Where its own page is kept (no `image`), it has what was read from it."""
    row = page.row
    sides = ("text", *BOX_COLUMNS)
    lines = [
        [line[side] for side in sides]
        for region, lines in zip(page.regions, page.lines(), strict=True)
        if image is not None or region["source"] != "pdf"
        for line in lines
    ]
    dpi = (row["dpi_x"], row["dpi_y"])
    size = (row["width"], row["height"])
    return PdfPage(row["page"], *size, dpi, row["to_pdf"], image, lines)


# The tool -----------------------------------------------------------------------------------------

#: Format -> what writes it; those of one file, and those that can have images beside.
WRITERS: Mapping[str, Callable[..., str]] = {
    "csv": write_csv,
    "text": write_text,
    "coco-results": write_coco_results,
    "coco": write_coco,
    "page-xml": write_page_xml,
    "alto": write_alto,
    "label-studio": write_label_studio,
    "pdf": write_pdf,
}
FILES = ("csv", "coco-results", "coco")
WITH_IMAGES = ("page-xml", "alto")


def export_results(
    directory: Path,
    form: str,
    output: Path,
    documents: Sequence[str] | None = None,
    images: bool = False,
) -> str:
    """Write finished results in the format `form` to a new file or folder; returns what was written.

    `documents` are globs. `images` puts the page images beside the files of PAGE-XML or ALTO. Nothing is
    there before all is written. Raises UserError as `check_output` and `choose_run` do, and where a
    format lacks what it needs.
    """
    path = check_output(output, directory, "file" if form in FILES else "folder")
    if images and form not in WITH_IMAGES:
        raise UserError(f"--images is for {' and '.join(WITH_IMAGES)}: --format {form} has no use.")
    run = choose_run(directory, documents)
    if form in WITH_IMAGES:
        return WRITERS[form](run, path, images)
    return WRITERS[form](run, path)

"""The final word on every page: its regions, its outcome, its flags, its own table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

import scanmill
from scanmill.flags import PageMeasures, document_flags, measure_page, page_flags
from scanmill.regions import select_regions
from scanmill.store import Draft, StageStore
from scanmill.tables import SCHEMAS, by_page, content_digest, from_rows, write_table

STAGE = "regions"

_OUTCOME = (
    "page",
    "status",
    "stage",
    "reason",
    "message",
    "n_detections",
    "capped",
    "type_height",
)
_MEASURED = (*_OUTCOME, "ink")


def inputs_digest(
    images: pa.Table, detected_pages: pa.Table, detections: pa.Table, model: Mapping[str, Any]
) -> list[object]:
    """What the regions of a document are made from, by content."""
    return [
        content_digest(images),
        content_digest(detected_pages, _MEASURED),
        content_digest(detections),
        dict(model),
    ]


def finish_document(
    images: pa.Table,
    detected_pages: pa.Table,
    detections: pa.Table,
    model: Mapping[str, Any],
    store: StageStore,
    draft: Draft,
) -> None:
    """Select a document's regions and commit them with its pages and, if wanted, a table per page.

    The tables hold the document's own rows; `model` is name, digest and classes.
    """
    settings = store.settings
    outcomes = {row["page"]: row for row in detected_pages.select(_MEASURED).to_pylist()}
    found = by_page(detections)
    nothing = SCHEMAS["detections"].empty_table()
    pages, selected = [], []
    finished: list[tuple[dict[str, Any], PageMeasures]] = []
    for image in images.to_pylist():
        page = dict(image)
        if image["status"] == "ok":
            outcome = outcomes[image["page"]]
            ink = outcome.pop("ink")
            page |= {**outcome, "message": outcome["message"] or image["message"]}
            if outcome["status"] == "ok":
                mine = found.get(image["page"], nothing)
                regions = select_regions(mine, image["width"], image["height"], settings).cast(
                    SCHEMAS["regions"]
                )
                selected.append(regions)
                page["n_regions"] = regions.num_rows
                finished.append((page, measure_page(page, ink, regions, mine)))
                if settings["page_tables"]:
                    path = draft.files / f"{image['page']:04d}.parquet"
                    write_table(regions, path, _page_metadata(image, model, draft))
        pages.append(page)
    compared = document_flags([measures for _, measures in finished])
    for (page, measures), others in zip(finished, compared, strict=True):
        page["flags"] = sorted(page_flags(page, measures) | others)
    draft.commit(
        {
            "regions": pa.concat_tables([SCHEMAS["regions"].empty_table(), *selected]),
            "pages": from_rows("pages", pages),
        },
        {"model": json.dumps(dict(model), sort_keys=True)},
    )


def _page_metadata(
    image: Mapping[str, Any], model: Mapping[str, Any], draft: Draft
) -> dict[str, str]:
    return {
        "page_width": str(image["width"]),
        "page_height": str(image["height"]),
        "image": image["image"],
        "model": model["name"],
        "model_digest": model["digest"],
        "classes": json.dumps(model["classes"]),
        "fingerprint": draft.wanted.full,
        "scanmill_version": scanmill.__version__,
    }

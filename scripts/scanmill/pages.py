"""The final word on every page: its regions, its outcome, its flags, its own table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

import scanmill
from scanmill.regions import select_regions
from scanmill.store import Draft, StageStore
from scanmill.tables import SCHEMAS, by_page, content_digest, from_rows, write_table

STAGE = "regions"

#: Letters lower than this, in pixels of the detector's input, are hardly more than grey to it. With a
#: short side of 448 px, A4 pages of 9 and 10 pt have 3.2 to 4.1, newspapers of 1870 and 1888 2.7 to 2.9;
#: with 544 px, these have 3.2 to 3.5.
SMALL_TYPE = 3.1

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


def inputs_digest(
    images: pa.Table, detected_pages: pa.Table, detections: pa.Table, model: Mapping[str, Any]
) -> list[object]:
    """What the regions of a document are made from, by content."""
    return [
        content_digest(images),
        content_digest(detected_pages, _OUTCOME),
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
    outcomes = {row["page"]: row for row in detected_pages.select(_OUTCOME).to_pylist()}
    found = by_page(detections)
    nothing = SCHEMAS["detections"].empty_table()
    pages, selected = [], []
    for image in images.to_pylist():
        page = dict(image)
        if image["status"] == "ok":
            outcome = outcomes[image["page"]]
            page |= {**outcome, "message": outcome["message"] or image["message"]}
            if outcome["status"] == "ok":
                regions = select_regions(
                    found.get(image["page"], nothing), image["width"], image["height"], settings
                ).cast(SCHEMAS["regions"])
                selected.append(regions)
                page["n_regions"] = regions.num_rows
                page["flags"] = flags(page)
                if settings["page_tables"]:
                    path = draft.files / f"{image['page']:04d}.parquet"
                    write_table(regions, path, _page_metadata(image, model, draft))
        pages.append(page)
    draft.commit(
        {
            "regions": pa.concat_tables([SCHEMAS["regions"].empty_table(), *selected]),
            "pages": from_rows("pages", pages),
        },
        {"model": json.dumps(dict(model), sort_keys=True)},
    )


def flags(page: Mapping[str, Any]) -> list[str]:
    """What is worth a look on a page: names, sorted.

    `capped`: a cap on detections or proposals was met, so regions may be missing; `no_regions`;
    `reduced_dpi`: the page was too large for `images.dpi`, the message says how it was rendered;
    `small_type`: its letters are lower than SMALL_TYPE pixels as the detector gets them.
    """
    height = page["type_height"]
    named = {
        "capped": page["capped"],
        "no_regions": page["n_regions"] == 0,
        "reduced_dpi": page["message"] is not None,
        "small_type": height is not None and height < SMALL_TYPE,
    }
    return sorted(name for name, holds in named.items() if holds)


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

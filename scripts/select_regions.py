"""Rule select_regions: thresholds, duplicates, reading order; the final word on every page."""

import json
from pathlib import Path

from scanmill.pages import finish_document, inputs_digest
from scanmill.progress import Progress, job, logger
from scanmill.store import StageStore, stage_lock, write_dataset
from scanmill.tables import SCHEMAS, by_document, read_metadata, read_table


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    with job(snakemake.log[0]), stage_lock(Path.cwd(), "regions", shard, logger.info):
        store = StageStore(
            Path("results"),
            "regions",
            snakemake.params.settings,
            snakemake.params.code,
            settings["reuse"]["code"] == "accept",
        )
        inputs = snakemake.input
        images = by_document(read_table(Path(inputs.images)))
        pages = by_document(read_table(Path(inputs.pages)))
        detections = by_document(read_table(Path(inputs.detections)))
        about = read_metadata(Path(inputs.detections))["model"]
        model = json.loads(about)
        total = sum(table.num_rows for table in images.values())
        progress = Progress("select_regions", len(images), total, total)
        for document, mine in images.items():
            tables = (
                mine,
                pages.get(document, SCHEMAS["detected_pages"].empty_table()),
                detections.get(document, SCHEMAS["detections"].empty_table()),
            )
            wanted = store.fingerprint(inputs_digest(*tables, model))
            outcome = "reused"
            if store.state(document, wanted) == "stale":
                with store.replace(document, wanted) as draft:
                    finish_document(*tables, model, store, draft)
                outcome = "computed"
            progress.document(document, outcome, mine.num_rows, mine.num_rows)
        for table, output in zip(("regions", "pages"), snakemake.output, strict=True):
            pieces = (store.read(document, table) for document in images)
            write_dataset(table, pieces, Path(output), {"model": about})
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

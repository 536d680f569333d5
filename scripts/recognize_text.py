"""Rule recognize_text: the text of a shard's crops, as far as it is stale."""

import json
from pathlib import Path

from scanmill.archive import read_manifest, source_path
from scanmill.ocr import plan_work, recognize_documents
from scanmill.progress import Progress, job, logger
from scanmill.settings import archive_path
from scanmill.store import StageStore, stage_lock, write_dataset
from scanmill.tables import SCHEMAS, by_document, read_metadata, read_table


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    with job(snakemake.log[0]), stage_lock(Path.cwd(), "ocr", shard, logger.info):
        inputs = snakemake.input
        store = StageStore(
            Path("results"),
            "ocr",
            snakemake.params.settings,
            snakemake.params.code,
            settings["reuse"]["code"] == "accept",
            snakemake.params.limits,
        )
        documents = {each.document: each for each in read_manifest(Path(inputs.manifest))}
        sources = json.loads(read_metadata(Path(inputs.images))["sources"])
        images = by_document(read_table(Path(inputs.images)))
        crops = by_document(read_table(Path(inputs.crops)))
        total = sum(table.num_rows for table in images.values())
        progress = Progress("recognize_text", len(images), total, total)
        stale = []
        for document, mine in images.items():
            found = crops.get(document, SCHEMAS["crops"].empty_table())
            source = sources[document] if documents[document].kind == "pdf" else None
            work = plan_work(document, found, mine, source, store)
            if work is None:
                progress.document(document, "reused", mine.num_rows, mine.num_rows)
            else:
                stale.append(work)

        def pdf_path(document: str) -> bytes:
            return source_path(archive_path(settings, Path.cwd()), documents[document])

        scratch = Path(".scanmill", f"ocr-{shard}")
        recognize_documents(stale, store, pdf_path, snakemake.threads, scratch, progress)
        pieces = (store.read(document, "ocr") for document in images)
        write_dataset("ocr", pieces, Path(snakemake.output.ocr))
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

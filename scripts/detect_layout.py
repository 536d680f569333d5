"""Rule detect_layout: detect on the pages of a shard's documents, as far as they are stale."""

import json
from pathlib import Path

from scanmill.archive import read_manifest
from scanmill.dropped_images import Renderer
from scanmill.model_folders import model_digest, read_card
from scanmill.preprocessing import pages_of
from scanmill.progress import Progress, job, logger
from scanmill.store import StageStore, are_dropped, stage_lock, write_dataset
from scanmill.tables import by_document, read_table


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    with job(snakemake.log[0]), stage_lock(Path.cwd(), "detections", shard, logger.info):
        store = StageStore(
            Path("results"),
            "detections",
            snakemake.params.settings,
            snakemake.params.code,
            settings["reuse"]["code"] == "accept",
        )
        model = Path(snakemake.input.model).parent
        card = read_card(model)
        digest = model_digest(card)
        pages = {
            document: pages_of(images)
            for document, images in by_document(read_table(Path(snakemake.input.images))).items()
        }
        total = sum(len(each) for each in pages.values())
        progress = Progress("detect_layout", len(pages), total, total)
        stale = []
        for document, mine in pages.items():
            inputs = [digest, [[page.page, page.sha256, page.width, page.height] for page in mine]]
            wanted = store.fingerprint(inputs)
            if store.state(document, wanted) == "stale":
                stale.append((document, mine, wanted))
            else:
                progress.document(document, "reused", len(mine), len(mine))
        dropped = [mine for document, mine, _ in stale if are_dropped(store.results, document)]
        if dropped:
            # They stay until crop_regions drops them again.
            documents = read_manifest(Path(snakemake.input.manifest))
            with (
                stage_lock(Path.cwd(), "images", shard, logger.info),
                Renderer(Path.cwd(), documents, snakemake.threads, settings) as renderer,
            ):
                renderer.restore([[page._asdict() for page in mine] for mine in dropped])
        if stale:
            from scanmill.detector import Detector  # torch takes seconds.

            # isort: split
            from scanmill.detection import Work, detect_documents

            device, size = (settings["detection"][key] for key in ("device", "batch_size"))
            detector = Detector(model, snakemake.params.settings, device, size)
            work = [Work(*each) for each in stale]
            detect_documents(detector, work, store, snakemake.threads, progress)
        about = {"name": card["name"], "digest": digest, "classes": card["classes"]}
        metadata = {"model": json.dumps(about, sort_keys=True)}
        for table, output in zip(("detections", "detected_pages"), snakemake.output, strict=True):
            pieces = (store.read(document, table) for document in pages)
            write_dataset(table, pieces, Path(output), metadata)
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

"""Rule prepare_dataset: annotations, checked and divided, as COCO."""

from collections import Counter
from pathlib import Path

from scanmill.annotations import read_annotations
from scanmill.coco import make_dataset, write_dataset
from scanmill.errors import UserError
from scanmill.progress import job, logger


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        settings = snakemake.params.settings
        if not settings["annotations"]:
            raise UserError(
                "There is nothing to train with: dataset.annotations is empty. Name files or folders of "
                "COCO, Label Studio, PAGE-XML or ALTO annotations there."
            )
        annotations = read_annotations(settings["annotations"])
        chosen = {key: value for key, value in settings.items() if key != "annotations"}
        dataset = make_dataset(annotations, chosen)
        write_dataset(dataset, Path(snakemake.output.report).parent)
        pages = Counter(image.split for image in dataset.images)
        objects = sum(len(image.objects) for image in dataset.images)
        logger.info(
            "%d pages (%s), %d objects of %d classes: %s",
            len(dataset.images),
            ", ".join(f"{split} {count}" for split, count in pages.items()),
            objects,
            len(dataset.classes),
            ", ".join(dataset.classes),
        )
        for (severity, kind), count in Counter(
            (problem.severity, problem.kind) for problem in dataset.problems
        ).most_common():
            logger.warning("%s: %d of %s", severity, count, kind)
        logger.info("look at %s", snakemake.output.report)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

"""Rule evaluate_detector: what a model finds beside what was annotated."""

import json
from pathlib import Path

from scanmill.detector import Detector
from scanmill.evaluation import evaluate
from scanmill.evaluation_report import write_evaluation
from scanmill.progress import job, logger
from scanmill.training_job import detect_truth, in_classes_of

#: Figures that the log says; the report has all.
SAID = ("box_AP", "box_AP50", "mask_AP")


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        settings, folder = snakemake.config, Path(snakemake.input.model).parent
        truth = json.loads(Path(snakemake.input.truth).read_text(encoding="utf-8"))
        device, size = (settings["detection"][key] for key in ("device", "batch_size"))
        detector = Detector(folder, snakemake.params.detection, device, size)
        truth = in_classes_of(truth, detector.classes, snakemake.input.truth)
        images = Path(truth["info"]["images"])
        found = detect_truth(detector, truth, images, snakemake.threads)
        samples = snakemake.params.settings["samples"]
        evaluation = evaluate(truth, found, *detector.sizes, samples=samples)
        target = Path(snakemake.output.report).parent
        write_evaluation(evaluation, truth, found, images, target)
        for metric in evaluation.metrics:
            if metric.class_name is None and metric.metric in SAID and metric.value is not None:
                between = ""
                if metric.low is not None and metric.high is not None:
                    between = f" (95 %: {100 * metric.low:.1f} to {100 * metric.high:.1f})"
                logger.info("%s %.1f%s", metric.metric, 100 * metric.value, between)
        logger.info("look at %s", snakemake.output.report)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

"""Rule evaluate_detector: what a model finds beside what was annotated."""

import json
from pathlib import Path

from scanmill.detector import Detector
from scanmill.progress import job
from scanmill.training_job import judge


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        settings, source = snakemake.config["detection"], snakemake.input.truth
        truth = json.loads(Path(source).read_text(encoding="utf-8"))
        folder = Path(snakemake.input.model).parent
        device, size = settings["device"], settings["batch_size"]
        detector = Detector(folder, snakemake.params.detection, device, size)
        samples, target = snakemake.params.settings["samples"], Path(snakemake.output.report).parent
        judge(detector, truth, source, samples, snakemake.threads, target)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

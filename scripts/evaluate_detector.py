"""Rule evaluate_detector: what a model finds beside what was annotated."""

import json
from pathlib import Path

from scanmill.evaluation_job import JudgedModel, judge
from scanmill.progress import job


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        running, given = snakemake.config["detection"], snakemake.params.settings
        names = (snakemake.params.detection, running["device"], running["batch_size"])
        model = JudgedModel(Path(snakemake.input.model).parent, *names)
        source, target = snakemake.input.truth, Path(snakemake.output.report).parent
        truth = json.loads(Path(source).read_text(encoding="utf-8"))
        judge(model, truth, source, target, given["samples"], given["sizes"], snakemake.threads)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

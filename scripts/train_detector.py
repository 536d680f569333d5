"""Rule train_detector: a model folder out of annotated pages."""

import json
import shlex
from pathlib import Path

from scanmill.progress import job
from scanmill.training_job import TrainingJob, make_model


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        names, given = snakemake.input, snakemake.params.settings
        start = Path(names.start).parent if given["start"] else None
        target = Path(snakemake.output.card).parent
        truth = {name: json.loads(Path(names[name]).read_text()) for name in ("train", "val")}
        settings = snakemake.config
        blocks = [f"{name}={json.dumps(settings[name])}" for name in ("dataset", "training")]
        command = ["snakemake", str(snakemake.output.card), "--config", *blocks]
        make_model(
            TrainingJob(
                target.name,
                truth,
                start,
                given["config"],
                tuple(given["overrides"]),
                given["epochs"],
                given["patience"],
                given["seed"],
                settings["training"]["strict"],
                shlex.join(command),
            ),
            target,
            Path("results/training", target.name),
            settings["detection"]["device"],
            snakemake.threads,
            settings["training"]["num_gpus"],
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

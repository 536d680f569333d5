"""Rule describe_run: where the results come from, as an RO-Crate."""

from datetime import UTC, datetime
from pathlib import Path

from scanmill.outputs import new_file
from scanmill.progress import job
from scanmill.provenance import describe_run


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        # The run took its lock when it began.
        started = datetime.fromtimestamp(Path(".scanmill.lock").stat().st_mtime, UTC)
        text = describe_run(Path("results"), snakemake.config, started)
        for output in snakemake.output:
            with new_file(Path(output)) as draft:
                draft.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

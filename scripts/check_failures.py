"""Rule check_failures: say what failed, and end the run with an error if it is too much."""

from pathlib import Path

from scanmill.errors import UserError
from scanmill.progress import job, logger
from scanmill.summary import failure_report
from scanmill.tables import read_table


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        report, too_much = failure_report(
            read_table(Path(snakemake.input.documents)),
            read_table(Path(snakemake.input.failures)),
            snakemake.params.max_failed_fraction,
            str(Path.cwd()),
        )
        if too_much:
            raise UserError("Too much failed.\n" + report)
        logger.info("done\n%s", report)
        Path(snakemake.output.summary).write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

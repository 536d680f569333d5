"""Rule check_failures: say what failed, and end the run with an error if it is too much."""

from pathlib import Path

from scanmill.errors import UserError
from scanmill.progress import job, logger
from scanmill.summary import failure_report, retry_command
from scanmill.tables import read_table


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        documents = read_table(Path(snakemake.input.documents))
        failures = read_table(Path(snakemake.input.failures))
        max_failed_fraction = snakemake.params.max_failed_fraction
        report, too_much = failure_report(documents, failures, max_failed_fraction)
        # The file says nothing of where it lies: results elsewhere are the same results.
        again = retry_command(failures, Path.cwd()) if failures.num_rows else ""
        if too_much:
            raise UserError(f"Too much failed.\n{report}{again}")
        logger.info("done\n%s%s", report, again)
        Path(snakemake.output.summary).write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821

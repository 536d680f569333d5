"""Say what a run will take before it starts: pages, hours, disk, and what to ask of a cluster."""

import logging
import os
import sys
from pathlib import Path

from scanmill.forecast_job import describe_forecast
from scanmill.maintenance import run_tool, tool_parser
from scanmill.progress import logger


def main() -> int:
    parser = tool_parser(
        "Count the pages of a planned archive (`snakemake plan`), try some of them in a temporary "
        "folder, and say what the whole will take: pages, hours on this machine, disk and files, and "
        "resources for a cluster's profile. Results are not touched."
    )
    parser.add_argument(
        "--sample", type=int, default=50, metavar="N", help="pages to try (default: 50)"
    )
    parser.add_argument(
        "--cores",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="cores that the run will have (default: all)",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also the hours on so many GPUs like the one here, each with as many cores",
    )
    parser.add_argument(
        "--configfile", type=Path, metavar="F", help="settings laid over those of the run"
    )
    given = parser.parse_args()
    for name in ("sample", "cores"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if any(count < 1 for count in given.gpus):
        parser.error("--gpus must be at least 1")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    options = (given.configfile, given.sample, given.cores, given.gpus)
    for line in describe_forecast(given.directory, *options):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

"""Delete what is left of documents that are gone from the plan, and of jobs that were killed."""

import contextlib
import sys
from pathlib import Path

from scanmill.leftovers import (
    find_leftovers,
    find_plan_to_keep,
    remove_leftover,
)
from scanmill.maintenance import changing, find_results, no_job_at_work, run_tool, tool_parser


def main() -> int:
    parser = tool_parser(
        "List, and with --yes delete, what results/store has of documents that are not planned any "
        "more, and what killed jobs left behind. The plan decides, not the archive: where a manifest "
        "is missing or damaged, or the run has not come to its end, nothing is deleted. A document "
        "that comes back later is computed again."
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    given = parser.parse_args()
    with changing(given.directory) if given.yes else contextlib.nullcontext():
        prune(given.directory, given.yes)
    return 0


def prune(directory: Path, delete: bool) -> None:
    results = find_results(directory)
    plan = find_plan_to_keep(directory)
    files = size = 0
    with no_job_at_work(directory) if delete else contextlib.nullcontext():
        for leftover in list(find_leftovers(directory, plan)):
            if delete:
                remove_leftover(results, leftover)
            print(leftover)
            files += leftover.files
            size += leftover.bytes
    total = f"{files} files, {size / 1e6:.1f} MB"
    if delete:
        print(f"Deleted: {total}.")
    else:
        print(f"Would delete: {total}." + " With --yes, it is deleted." * bool(files))


if __name__ == "__main__":
    sys.exit(run_tool(main))

"""Check that every row has its file and every table its rows; with --repair, have it made again."""

import contextlib
import itertools
import os
import sys
from pathlib import Path

from scanmill.maintenance import (
    changing,
    find_results,
    lock_holder,
    run_tool,
    say_run_again,
    tool_command,
    tool_parser,
)
from scanmill.verification import (
    MOVE,
    REPLAN,
    RUN,
    Tally,
    repair_results,
    unplanned_folders,
    verify_plan,
    verify_results,
)


def main() -> int:
    parser = tool_parser(
        "Check that every planned document has all that is owed to it: page images with their "
        "digests, tables, crops, and the same rows in records and datasets. Exit status 1 if "
        "something is wrong or not made yet."
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="forget exactly what is damaged, so that the next run makes it again; exit status 0 "
        "if that mends everything",
    )
    given = parser.parse_args()
    with changing(given.directory) if given.repair else contextlib.nullcontext():
        return verify(given.directory, given.repair)


def verify(directory: Path, repair: bool) -> int:
    results = find_results(directory)
    holder = lock_holder(directory / ".scanmill.lock")
    if holder and holder.held and not repair:
        warn(f"A run is at work ({holder.text}): what it is just making may look wrong.")
    plan, of_plan = verify_plan(results)
    tally = Tally(warn)
    problems = []
    threads = os.cpu_count() or 1
    for problem in itertools.chain(of_plan, verify_results(results, plan, threads, tally)):
        problems.append(problem)
        print(problem, flush=True)
    remedies = {problem.remedy for problem in problems}
    if REPLAN not in remedies:
        for folder in unplanned_folders(results, plan):
            print(f"{folder}: of a document that is not planned any more; it may be deleted.")
    print(f"{tally}: {len(problems) or 'no'} problems.")
    if not problems:
        return 0
    if repair:
        said, options = repair_results(directory, problems)
        print(said, say_run_again(directory, *options), sep="\n")
        return int(MOVE in remedies)
    if remedies - {RUN, MOVE}:
        command = tool_command("verify_results", directory, "--repair")
        print(f"To have the next run make again what is damaged:\n  {command}")
    elif RUN in remedies:
        print(say_run_again(directory))
    return 1


def warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))

"""Check that every row has its file and every table its rows; with --repair, have it made again."""

import contextlib
import itertools
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scanmill.archive import Document
from scanmill.maintenance import (
    changing,
    find_results,
    lock_holder,
    run_tool,
    say_run_again,
    tool_command,
    tool_parser,
)
from scanmill.recomputation import choose_pages, recompute_pages
from scanmill.verification import (
    MOVE,
    REPLAN,
    RUN,
    Problem,
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
    parser.add_argument(
        "--recompute",
        type=int,
        metavar="N",
        help="compute N random pages again, in a temporary folder: page image, detections, regions, "
        "crops; and say page by page what differs from the tables",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 16),
        metavar="S",
        help="which pages are taken (default: others each time)",
    )
    given = parser.parse_args()
    if given.recompute is not None and given.recompute < 1:
        parser.error("--recompute takes a number of pages, of at least 1")
    with changing(given.directory) if given.repair else contextlib.nullcontext():
        results = find_results(given.directory)
        plan, of_plan = verify_plan(results)
        status = verify(given.directory, plan, of_plan, given.repair)
        if given.recompute is not None:
            status |= recompute(given.directory, plan, given.recompute, given.seed)
        return status


def verify(
    directory: Path,
    plan: Mapping[str, Sequence[Document]],
    of_plan: Sequence[Problem],
    repair: bool,
) -> int:
    results = directory / "results"
    holder = lock_holder(directory / ".scanmill.lock")
    if holder and holder.held and not repair:
        warn(f"A run is at work ({holder.text}): what it is just making may look wrong.")
    tally = Tally(warn)
    problems = []
    threads = os.cpu_count() or 1
    for problem in itertools.chain(of_plan, verify_results(results, plan, threads, tally)):
        problems.append(problem)
        print(problem, flush=True)
    remedies = {problem.remedy for problem in problems}
    if REPLAN not in remedies:
        for folder in unplanned_folders(results, plan):
            print(
                f"{folder}: of a document that is not planned any more; prune_results.py deletes it."
            )
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


def recompute(
    directory: Path, plan: Mapping[str, Sequence[Document]], count: int, seed: int
) -> int:
    chosen = choose_pages(directory / "results", list(plan), count, seed)
    pages = sum(map(len, chosen.values()))
    warn(f"Computing {pages} pages again.")
    different = 0
    for finding in recompute_pages(directory, plan, chosen):
        print(finding)
        different += bool(finding.differences)
    print(f"{pages} pages computed again (--seed {seed}): {different} differ from the tables.")
    return int(different > 0)


def warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))

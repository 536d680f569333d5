"""Forget the documents that failed for given reasons, so that the next run tries them again."""

import contextlib
import sys

from scanmill.maintenance import (
    add_documents,
    changing,
    choose_documents,
    failed_documents,
    find_plan,
    find_results,
    forget_results,
    parse_reasons,
    run_tool,
    say_run_again,
    tool_parser,
)
from scanmill.store import LIMITS_OF_REASON, STAGES
from scanmill.tables import REASONS


def main() -> int:
    parser = tool_parser(
        "Forget the documents of which a page failed for one of the given reasons, at the stage "
        "where it failed, so that the next run tries them again."
    )
    parser.add_argument(
        "--reason",
        default="timeout,memory,io",
        help=f"of {', '.join(REASONS)}, separated by commas (default: timeout,memory,io)",
    )
    parser.add_argument("--stage", choices=STAGES, help="only what failed at this stage")
    add_documents(parser, required=False)
    parser.add_argument("--dry-run", action="store_true", help="say what would be forgotten")
    given = parser.parse_args()
    reasons = parse_reasons(given.reason)
    with contextlib.nullcontext() if given.dry_run else changing(given.directory):
        results = find_results(given.directory)
        chosen = choose_documents(find_plan(results), given.documents or ["**"])
        failed = failed_documents(results, chosen, reasons, given.stage)
        if not given.dry_run:
            forget_results(given.directory, failed)
    for (stage, _), documents in failed.items():
        for name, counts in documents.items():
            what = ", ".join(f"{reason} {count}" for reason, count in counts.items())
            print(f"{name} ({stage}): {what}")
    count = sum(map(len, failed.values()))
    if not count:
        print(f"Nothing failed for {', '.join(reasons)}.")
        return 0
    print(f"{'Would try' if given.dry_run else 'The next run tries'} {count} documents again.")
    limits = sorted({limit for reason in reasons for limit in LIMITS_OF_REASON.get(reason, ())})
    if limits:
        print(
            f"A page that met a limit ({', '.join(limits)} in images.limits) will meet it again "
            "unless you raise it; raising it is enough, without this tool."
        )
    if not given.dry_run:
        print(say_run_again(given.directory))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

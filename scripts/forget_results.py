"""Forget what a stage made of some documents, so that the next run makes it again."""

import contextlib
import sys

from scanmill.maintenance import (
    add_documents,
    changing,
    choose_documents,
    find_plan,
    find_results,
    forget_results,
    run_tool,
    say_run_again,
    tool_parser,
)
from scanmill.store import STAGES


def main() -> int:
    parser = tool_parser(
        "Forget what a stage made of some documents, so that the next run makes it again, and "
        "after it only what then comes out differently."
    )
    parser.add_argument("--stage", required=True, choices=STAGES)
    add_documents(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be forgotten")
    given = parser.parse_args()
    with contextlib.nullcontext() if given.dry_run else changing(given.directory):
        plan = find_plan(find_results(given.directory))
        chosen = choose_documents(plan, given.documents)
        if not given.dry_run:
            wanted = {(given.stage, shard): names for shard, names in chosen.items()}
            forget_results(given.directory, wanted)
    for names in chosen.values():
        print(*names, sep="\n")
    count = sum(map(len, chosen.values()))
    print(
        f"{'Would forget' if given.dry_run else 'Forgot'} the {given.stage} of {count} documents."
    )
    if not given.dry_run:
        print(say_run_again(given.directory))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

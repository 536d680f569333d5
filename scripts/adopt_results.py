"""Keep finished results after a change of Scanmill's code that changes nothing in them."""

import contextlib
import sys
from pathlib import Path

import scanmill
from scanmill.adoption import Adoption, adopt, find_adoption
from scanmill.maintenance import (
    add_documents,
    changing,
    choose_documents,
    find_plan,
    find_results,
    names_of,
    no_job_at_work,
    run_tool,
    say_run_again,
    tool_parser,
)
from scanmill.store import STAGES

DESCRIPTION = (
    "Say that the present code would make finished results exactly as they are: after an upgrade of "
    "Scanmill, or an edit of its code, that changes nothing in them. Their records are stamped with "
    "the present code, keep in the entry `adopted_from` what made them, and neither Snakemake nor "
    "Scanmill makes them again. You vouch for it: `verify_results.py --recompute 50` computes some "
    "pages again and compares. What settings or inputs have changed is computed as ever."
)
DIFFERENCE = (
    "The setting `reuse: {code: accept}` vouches for nothing: as long as it is set, a run keeps "
    "whatever other code made, of all stages and documents, without a change in the records, and "
    "goes through every job once to find that out; without it, all is computed again. Adopting "
    "happens once, of the stages and documents that you name, and holds with `strict`."
)


def main() -> int:
    parser = tool_parser(DESCRIPTION)
    parser.epilog = DIFFERENCE
    parser.add_argument(
        "--stage", nargs="+", choices=STAGES, default=list(STAGES), help="(default: all of them)"
    )
    add_documents(parser, required=False)
    parser.add_argument("--yes", action="store_true", help="adopt what is listed")
    given = parser.parse_args()
    with contextlib.ExitStack() as locks:
        if given.yes:
            locks.enter_context(changing(given.directory))
            locks.enter_context(no_job_at_work(given.directory))
        plan = find_plan(find_results(given.directory))
        by_shard = {shard: names_of(documents) for shard, documents in plan.items()}
        if given.documents:
            by_shard = choose_documents(plan, given.documents)
        chosen = [name for names in by_shard.values() for name in names]
        results = given.directory / "results"
        found = [find_adoption(results, plan, stage, chosen) for stage in given.stage]
        for adoption in found:
            print(describe(adoption))
        if given.yes:
            finish(given.directory, found)
    if not given.yes and any(adoption.documents for adoption in found):
        print(
            "With --yes you vouch for it that the present code would make all of them as they are, and "
            "their records say from then on that it did. Nothing is changed yet."
        )
    return 0


def describe(adoption: Adoption) -> str:
    if not adoption.documents:
        return f"{adoption.stage}: nothing of other code."
    now = f"Scanmill {scanmill.__version__} (code {adoption.code})"
    return "\n".join(
        f"{adoption.stage}: {count} documents of Scanmill {version} (code {code}) -> {now}"
        for (version, code), count in sorted(adoption.made_by.items())
    )


def finish(directory: Path, found: list[Adoption]) -> None:
    untold = {(each.stage, shard) for each in found for shard in adopt(directory, each)}
    documents = {document for each in found for document in each.documents}
    print(
        f"Adopted results of {len(documents)} documents: their records say from now on that the present "
        "code made them, and in `adopted_from` what did."
    )
    if untold:
        print(
            f"Of {len(untold)} tables of shards Snakemake has no notes that can be brought up to "
            "date: it runs their jobs once more, and they reuse what is there."
        )
    print("With --dry-run, Snakemake says what is left to do.", say_run_again(directory))


if __name__ == "__main__":
    sys.exit(run_tool(main))

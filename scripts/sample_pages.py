"""Choose pages of a finished run to annotate, and write them as tasks for Label Studio."""

import sys
from pathlib import Path

from scanmill.annotation_tasks import README, write_tasks
from scanmill.maintenance import add_documents, run_tool, tool_parser
from scanmill.outputs import check_output
from scanmill.sampling import describe_sample, sample_pages


def main() -> int:
    parser = tool_parser(
        "Choose pages of a finished run to annotate, from as many documents as there are, and write "
        "their images with the regions found on them as tasks for Label Studio."
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where to; a new folder"
    )
    parser.add_argument(
        "--n",
        type=int,
        default=200,
        help="how many pages (default: 200); more add to the same ones",
    )
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="column of documents.parquet or pages of whose values each gets an equal share",
    )
    parser.add_argument(
        "--flags",
        action="store_true",
        help="only suspicious pages: flagged, capped or without a region; each flag an equal share",
    )
    add_documents(parser, required=False)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="S",
        help="lowest score of a region (default: all that are in results/regions)",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="boxes alone, which are corrected faster than outlines"
    )
    given = parser.parse_args()
    check_output(given.output, given.directory)
    sample = sample_pages(
        given.directory,
        given.n,
        by=given.by,
        flagged=given.flags,
        documents=given.documents,
        seed=given.seed,
    )
    options = (given.output, given.min_score, given.boxes)
    written = write_tasks(given.directory, sample.pages, *options)
    print(describe_sample(sample))
    print(f"{written.regions} regions found by {' and '.join(written.model_versions)}.")
    print(f"What to do next: {given.output / README}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

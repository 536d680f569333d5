"""Compare two runs over the same archive: what would another model, or another setting, change?"""

import argparse
import sys
from pathlib import Path

from scanmill.maintenance import run_tool
from scanmill.run_differences import compare_runs, open_run
from scanmill.run_gallery import describe, write_gallery


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare the regions of two runs over the same archive: kept, moved, renamed, lost, "
        "new, by class and document, with a gallery of the pages that differ most. Neither is taken "
        "for the truth. Exit status 0 whatever differs, 1 if nothing can be compared.",
    )
    parser.add_argument(
        "a", type=Path, metavar="A", help="a working directory, or its results folder"
    )
    parser.add_argument("b", type=Path, metavar="B", help="another, such as that of a new model")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to (default: B/comparison)"
    )
    parser.add_argument(
        "--pages", type=int, default=40, metavar="N", help="pages in the gallery (default: 40)"
    )
    given = parser.parse_args()
    if given.pages < 0:
        parser.error("--pages takes a number of pages, of at least 0")
    a, b = open_run(given.a), open_run(given.b)
    folder = given.output or b.results.parent / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    comparison = compare_runs(a, b, folder, given.pages)
    print(describe(comparison))
    print(f"\nTo look at: {write_gallery(comparison, folder)}\nAs tables: {folder}/*.parquet")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

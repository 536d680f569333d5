"""Draw the regions of a finished run on its page images, to look at."""

import itertools
import os
import sys
from pathlib import Path

from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.maintenance import (
    add_documents,
    choose_documents,
    draw_page,
    find_plan,
    find_results,
    pages_to_draw,
    run_tool,
    tool_parser,
)


def main() -> int:
    parser = tool_parser("Draw the regions of pages on their images, to look at.")
    add_documents(parser)
    parser.add_argument("--pages", help="such as 1-3,8 (default: all)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to (default: D/drawings)"
    )
    given = parser.parse_args()
    results = find_results(given.directory)
    folder = given.output or given.directory / "drawings"
    plan = find_plan(results)
    chosen = choose_documents(plan, given.documents)
    names = [name for documents in chosen.values() for name in documents]
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    documents = itertools.chain(*plan.values())
    with Renderer(given.directory, documents, os.cpu_count() or 1) as renderer:
        for drawn in pages_to_draw(results, names, given.pages, renderer, folder):
            row = drawn.page
            if row["status"] == "ok":
                print(draw_page(results, drawn, folder), flush=True)
                count += 1
            else:
                page = "" if row["page"] is None else f", page {row['page']},"
                print(f"{row['document']}{page} failed: {row['message']}", file=sys.stderr)
    if not count:
        raise UserError(
            f"None of the {len(names)} chosen documents has such a page with its regions found."
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

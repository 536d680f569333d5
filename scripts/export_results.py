"""Write finished results in other formats: CSV, text, COCO, PAGE-XML, ALTO, Label Studio, PDF."""

import sys
from pathlib import Path

from scanmill.exports import WRITERS, export_results
from scanmill.maintenance import add_documents, run_tool, tool_parser


def main() -> int:
    parser = tool_parser(
        "Write the results of a finished run in another format. csv, coco and coco-results are one "
        "file; text and pdf one per document, page-xml and alto one per page; label-studio is a folder "
        "of tasks and images."
    )
    parser.add_argument("--format", required=True, choices=WRITERS, help="what to write")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="a new file, or a new folder"
    )
    add_documents(parser, required=False)
    parser.add_argument(
        "--images",
        action="store_true",
        help="page-xml and alto: put the page images beside the files",
    )
    given = parser.parse_args()
    options = (given.output, given.documents, given.images)
    print(export_results(given.directory, given.format, *options))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

"""Say how far a run is: by stage, by page, and what is at work. Changes nothing, locks nothing."""

import sys

from scanmill.maintenance import describe_progress, run_tool, tool_parser


def main() -> int:
    parser = tool_parser(
        "Say how far a run is: shards, documents and pages by stage, failures by reason, and the "
        "jobs at work. Changes nothing and may be asked at any time. Results of older settings "
        "count as done until the run comes to them."
    )
    print(describe_progress(parser.parse_args().directory))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

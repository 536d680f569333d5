"""Say where the results of a run are, and what is in them."""

import sys

from scanmill.maintenance import describe_results, run_tool, tool_parser


def main() -> int:
    parser = tool_parser("Say where the results of a run are, and what is in them.")
    print(describe_results(parser.parse_args().directory))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))

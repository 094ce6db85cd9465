"""`python -m expertly.plug` prints which models of the installed transformers our experts run."""

import sys

from expertly.errors import ExpertlyError
from expertly.plug.families import supported_families, table


def main() -> int:
    try:
        print(table(supported_families()))
    except ExpertlyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

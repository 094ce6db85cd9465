"""The command line: one verb a file; a verb's module is imported only when it runs."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the answer is its exit code."""
    try:
        # a tenth of a second, in which a user may have had second thoughts
        from expertly.cli.entry import main as run
    except KeyboardInterrupt:
        return 130
    return run(arguments)

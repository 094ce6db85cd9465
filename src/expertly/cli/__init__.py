"""The command line: one verb a file; a verb's module is imported only when it runs."""

from expertly.cli.entry import main

__all__ = ["main"]

"""The command line.

Exit codes: 0 done; 1 some cell or check failed, or something is worse than it was; 2 bad input, with one line on stderr
and no traceback; 130 after Ctrl-C. What is heavy to import is imported where it is used, so that `--help` and most
mistakes answer at once.
"""

from bench.cli.door import app, main, script

__all__ = ["app", "main", "script"]

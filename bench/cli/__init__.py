"""The command line.

Exit codes: 0 done; 1 some cell or check failed, or something is worse than before; 2 bad input, with one line on stderr
and no traceback; 130 after Ctrl-C. Heavy modules are imported where they are used, so that `--help` and errors in the
command line are answered at once.
"""

from bench.cli.door import app, main, script

__all__ = ["app", "main", "script"]

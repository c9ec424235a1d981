"""The entry point of `python -m bench`."""

import sys
from pathlib import Path

here = Path.cwd()
if not sys.flags.safe_path and here not in Path(__file__).parents:
    sys.path.pop(0)  # `python -m` puts the working folder first, where a queue.py would hide Python's own

from bench.cli import script  # noqa: E402

script()

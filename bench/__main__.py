"""The door for `python -m bench`."""

import sys
from pathlib import Path

here = Path.cwd()
if not sys.flags.safe_path and here not in Path(__file__).parents:
    sys.path.pop(0)  # `python -m` looks in the working folder first, and would take a queue.py there for Python's own

from bench.cli import script  # noqa: E402

script()

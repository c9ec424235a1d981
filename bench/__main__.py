"""The door for `python -m bench`."""

from bench.cli import script

script()

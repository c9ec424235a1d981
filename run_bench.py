"""The door: `python run_bench.py --help`."""

from bench.cli import script

if __name__ == "__main__":
    script()

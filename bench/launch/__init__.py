"""Running the cells of a grid: what is decided, how a cell ends, and the launchers of this machine."""

from bench.launch.cell import End, run_cell
from bench.launch.local import Outcome, run_cells
from bench.launch.plan import LaunchOptions

__all__ = ["End", "LaunchOptions", "Outcome", "run_cell", "run_cells"]

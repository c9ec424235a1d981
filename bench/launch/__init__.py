"""Runs the cells of a grid: decisions, the end of a cell, and the launchers of this machine."""

from bench.launch.cell import End, run_cell
from bench.launch.local import Outcome, run_cells
from bench.launch.plan import LaunchOptions

__all__ = ["End", "LaunchOptions", "Outcome", "run_cell", "run_cells"]

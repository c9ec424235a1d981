"""Runs cells as jobs of a SLURM cluster, through submitit.

settings    the resources that jobs ask for       job      the work of a job
submit      turns cells into arrays of jobs       follow   watches jobs until they have ended
ledger      records which job has which cells     queue    calls SLURM's programs
"""

from bench.launch.slurm.follow import Launch, cancel, sights
from bench.launch.slurm.queue import missing, require
from bench.launch.slurm.settings import gather, has_gpus

__all__ = ["Launch", "cancel", "gather", "has_gpus", "missing", "require", "sights"]

"""Cells as jobs of a SLURM cluster, through submitit.

settings    what jobs ask for                     job      what a job does
submit      cells become arrays of jobs           follow   watching them until they have ended
ledger      which job has which cells             queue    what the cluster says
"""

from bench.launch.slurm.follow import Launch, cancel, sights
from bench.launch.slurm.queue import missing, require
from bench.launch.slurm.settings import gather, has_gpus

__all__ = ["Launch", "cancel", "gather", "has_gpus", "missing", "require", "sights"]

"""All calls of SLURM's programs: squeue, scontrol, sinfo and scancel.

`sacct` is not used, as many sites have no accounting. squeue forgets a job some minutes after its end, so the fate of
its cells is read from their folders.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from bench.errors import BadInput

SECONDS = 30.0
"""Seconds to wait for an answer; without a controller, squeue waits longer than a user would."""

LARGEST_ARRAY = 1001
"""SLURM's default of MaxArraySize."""

OVER = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip
"""States of a job that has ended."""


class Silent(Exception):
    """The cluster does not answer."""


class Job(NamedTuple):
    """A job, or one of an array's, as squeue shows it."""

    state: str
    reason: str = ""  # why it waits
    node: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state.partition(" ")[0] in OVER


def missing() -> str | None:
    """A program of SLURM that is missing, or None."""
    programs = ("sbatch", "srun", "squeue", "scancel", "scontrol")
    return next((program for program in programs if shutil.which(program) is None), None)


def require() -> None:
    """Raise `BadInput` where there is no SLURM."""
    if program := missing():
        raise BadInput(f"--launcher slurm: no {program} on PATH; run it on a machine of the cluster, or use 'local'")


def ask(*command: str) -> str:
    """The output of a program. Raises `Silent`, with its message, when it fails.

    It runs without the user's own filters, such as SQUEUE_PARTITION, as a hidden job would seem gone.
    """
    habits = ("SQUEUE_", "SINFO_", "SCANCEL_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(habits)}
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Silent(f"{command[0]} does not answer within {SECONDS:.0f} s") from None
    except OSError as error:
        raise Silent(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise Silent(
            one_line(done.stderr.decode(errors="replace")) or f"{command[0]} ended with code {done.returncode}"
        )
    return done.stdout.decode(errors="replace")


def one_line(text: str) -> str:
    """The message of one of SLURM's programs in one line, without the program's name."""
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines() if line.strip()]
    return "; ".join(lines)


def jobs(numbers: Iterable[str]) -> dict[str, Job]:
    """The jobs with these numbers that squeue knows; those of an array singly, as 12_3. Raises `Silent`."""
    wanted = sorted(set(numbers))
    if not wanted:
        return {}
    listing = ("squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i|%T|%r|%N")
    try:
        output = ask(*listing, f"--jobs={','.join(wanted)}")
    except Silent as silent:
        if "Invalid job id" not in str(silent):  # (it knows none of them)
            raise
        output = ""
    found = {}
    for line in output.splitlines():
        number, _, rest = line.partition("|")
        state, _, rest = rest.partition("|")
        reason, _, node = rest.rpartition("|")  # a site's reasons may contain any character
        found[number.strip()] = Job(state, "" if reason == "None" else reason, node)
    return found


@cache
def config() -> Mapping[str, str]:
    """The cluster's configuration. Raises `Silent`."""
    pairs = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def largest_array() -> int:
    """The largest size of an array of jobs. Raises `Silent` where the configuration does not give it as a number."""
    size = config().get("MaxArraySize", str(LARGEST_ARRAY))
    if not (size.isascii() and size.isdecimal()):
        raise Silent(f"scontrol says MaxArraySize = {size[:40]!r}, which should be a number")
    return max(1, int(size))


def cluster() -> str:
    """The name of the cluster, as a job's number is valid only there."""
    return config().get("ClusterName", "")


def cancel(numbers: Sequence[str]) -> None:
    """Cancel jobs or whole arrays; one that has ended already is not an error. Raises `Silent`."""
    for i in range(0, len(numbers), 500):  # as many as fit a command line
        ask("scancel", *numbers[i : i + 500])


def partitions() -> list[str]:
    """The names of the partitions; empty when they are unknown."""
    try:
        return list(dict.fromkeys(ask("sinfo", "--noheader", "--format=%R").split()))
    except Silent:
        return []


def nodes() -> list[str]:
    """The kinds of nodes, in words; empty when they are unknown."""
    try:
        output = ask("sinfo", "--noheader", "--format=%R|%c|%m|%G")
    except Silent:
        return []
    kinds = []
    for line in output.splitlines():
        if line.count("|") < 3:
            continue
        partition, cpus, memory, gpus = line.split("|", 3)
        kinds.append(f"{partition}: {cpus} CPUs, {memory} MB" + ("" if "null" in gpus else f", {gpus}"))
    return list(dict.fromkeys(kinds))

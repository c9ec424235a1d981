"""Turns cells into jobs: packed, grouped by their requests, and sent as arrays no larger than the site allows.

All or nothing: when the site refuses an array, those before it are cancelled, and every cell is as it was.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from bench import registry
from bench.errors import BadInput, nearest, shown
from bench.launch.cell import FACTS
from bench.launch.lease import look
from bench.launch.plan import Cell, LaunchOptions
from bench.launch.slurm import queue
from bench.launch.slurm.job import Job
from bench.launch.slurm.ledger import Ledger, Submission
from bench.launch.slurm.settings import Request, has_gpus, request

ROOT = Path(__file__).parents[3]


@dataclass
class Array:
    """Jobs that are sent together: each a list of cells."""

    request: Request
    jobs: list[list[Cell]]
    parallel: int
    wave: int = 0  # jobs of a later wave start from the results of earlier waves
    numbers: list[str] = field(default_factory=list)  # of the submissions to wait for


def arrays(cells: Sequence[Cell], settings: Mapping[str, Any], largest: int) -> list[Array]:
    """The arrays for these cells, in the order of submission."""
    members = {cell.id: cell for cell in cells}

    def wave(cell: Cell) -> int:
        source = members.get(cell.run.init_from.run) if cell.run.init_from else None
        return 0 if source is None else 1 + wave(source)

    groups: dict[tuple[int, Request], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((wave(cell), request(settings, cell.run)), []).append(cell)
    found = []
    for (number, asked), group in sorted(groups.items(), key=lambda item: item[0][0]):
        jobs = [group[i : i + asked.cells_per_job] for i in range(0, len(group), asked.cells_per_job)]
        parts = [jobs[i : i + largest] for i in range(0, len(jobs), largest)]
        shares = [asked.parallel // len(parts) + (i < asked.parallel % len(parts)) for i in range(len(parts))]
        found += [Array(asked, part, max(1, share), number) for part, share in zip(parts, shares, strict=True)]
    return found


def executor(array: Array, logs: Path, name: str) -> submitit.AutoExecutor:
    """submitit's executor for an array's request. Raises `BadInput` for a path that the script cannot contain."""
    for path in (str(logs), name):
        if not path.isprintable():
            raise BadInput(f"slurm: {shown(path)}: has a line break or another control character in it; rename it")
    asked = array.request
    python = f"{asked.python or shlex.quote(sys.executable)} -P"  # no module is imported from the working folder
    made = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=asked.timeouts, slurm_python=python)
    paths = [] if asked.python else [f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    threads = [f"export {variable}={asked.threads}" for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    further = {name: value for name, value in asked.directives if value is not False}
    if array.numbers:
        further["dependency"] = ":".join(["afterany", *array.numbers])
    made.update_parameters(
        name=f"bench-{name}",
        timeout_min=asked.minutes,
        mem_gb=asked.memory,
        gpus_per_node=asked.gpus or None,
        cpus_per_task=asked.cpus,
        slurm_partition=asked.partition,
        slurm_account=asked.account,
        slurm_qos=asked.qos,
        slurm_constraint=asked.constraint,
        slurm_array_parallelism=array.parallel,
        slurm_signal_delay_s=asked.signal_seconds,
        slurm_srun_args=[f"--cpus-per-task={asked.cpus}"],  # (not inherited by srun since SLURM 22.05)
        slurm_setup=[*paths, *threads, *asked.setup],
        slurm_additional_parameters={"requeue": True, **further},
    )
    return made


def texts(cells: Sequence[Cell], grid: Path, settings: Mapping[str, Any], ledger: Ledger) -> list[str]:
    """The sbatch files that would be sent, with <1> for the number of the first; nothing is written.

    Without SLURM, arrays are as large as its default allows.
    """
    found, sent = [], arrays(cells, settings, queue.LARGEST_ARRAY) if queue.missing() else _arrays(cells, settings)
    for array in sent:
        array.numbers = [f"<{i}>" for i, earlier in enumerate(sent, 1) if earlier.wave < array.wave]
        array.numbers += _sources(array, ledger)
        with _quiet(), _srun_or_not():
            inner: Any = executor(array, (grid / "slurm" / "logs").resolve(), grid.name)._executor
        if len(array.jobs) > 1:
            inner.parameters["map_count"] = len(array.jobs)
        found.append(inner._make_submission_file_text(inner._submitit_command_str, "0"))
    return found


def _arrays(cells: Sequence[Cell], settings: Mapping[str, Any]) -> list[Array]:
    try:
        return arrays(cells, settings, queue.largest_array())
    except queue.Silent as silent:
        raise BadInput(f"slurm: {silent}") from None


def submit(
    cells: Sequence[Cell], grid: Path, options: LaunchOptions, settings: Mapping[str, Any], ledger: Ledger
) -> list[Submission]:
    """Send these cells. Raises `BadInput` with sbatch's message, and nothing sent, when the site refuses."""
    found = _arrays(cells, settings)
    before = [(cell, cell.folder.status) for cell in cells]
    sent: list[Submission] = []
    try:
        for cell, status in before:
            if status["state"] != "pending" and look(cell.folder).state == "free":  # nobody runs it
                kept = {name: status[name] for name in (*FACTS, "attempt") if name in status}
                cell.folder.set_status("pending", **kept)
        for array in found:
            array.numbers = [job.number for job, earlier in zip(sent, found, strict=False) if earlier.wave < array.wave]
            array.numbers += _sources(array, ledger)
            sent.append(_send(array, grid, options, ledger, has_gpus(settings)))
            ledger.write(sent[-1])
    except BaseException:
        withdraw(sent, ledger)
        for cell, status in before:
            if cell.folder.status != status:
                cell.folder.set_status(**status)
        raise
    finally:
        ledger.read()
    return sent


def _sources(array: Array, ledger: Ledger) -> list[str]:
    """The earlier jobs of cells from which those of an array start."""
    runs = [cell.run for job in array.jobs for cell in job]
    sources = dict.fromkeys(run.init_from.run for run in runs if run.init_from)
    jobs = [ledger.job(source) for source in sources if ledger.active(source)]
    return list(dict.fromkeys(place.number for place, _ in filter(None, jobs)))


def withdraw(sent: Sequence[Submission], ledger: Ledger) -> None:
    """Cancel submissions as if they had not been made."""
    with contextlib.suppress(queue.Silent):
        queue.cancel([submission.number for submission in sent])
    for submission in sent:
        ledger.forget(submission)


def _send(array: Array, grid: Path, options: LaunchOptions, ledger: Ledger, gpu: bool) -> Submission:
    ledger.logs.mkdir(parents=True, exist_ok=True)
    made = executor(array, ledger.logs.resolve(), grid.name)
    jobs = [
        Job(
            grid=str(grid.resolve()),
            cells=[cell.id for cell in some],
            options=options.cell(),
            plugins=registry.plugin_files(),
            retry=options.retry,
            at_once=array.request.at_once,
            minutes=array.request.minutes,
            signal_seconds=array.request.signal_seconds,
        )
        for some in array.jobs
    ]
    try:
        with _quiet(), _clean(array.request), made.batch():
            sent = [made.submit(job) for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise BadInput(_refusal(str(error), array.request)) from None
    number, _, element = sent[0].job_id.partition("_")
    names = [job.cells for job in jobs]
    return Submission(number, bool(element), time.time(), queue.cluster(), names, gpu=gpu)


def _refusal(text: str, asked: Request) -> str:
    """sbatch's message in one line, with the possible values."""
    message = f"slurm: sbatch refuses: {queue.one_line(text) or 'it was interrupted'}; asked for: {asked}"
    if "partition" in text and (names := queue.partitions()):
        guess = nearest(asked.partition or "", names)
        return f"{message}; partitions: {', '.join(names)}" + (f"; did you mean {guess!r}?" if guess else "")
    if "node configuration" in text and (kinds := queue.nodes()):
        return f"{message}; nodes here: {'; '.join(kinds)}"
    return message


SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""SLURM's variables that say how to reach the cluster; the others describe a job around this process."""
GIVEN = ("ARRAY_INX", "ERROR", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "SIGNAL", "TIMELIMIT")
"""Variables such as SBATCH_TIMELIMIT, which would override what the launcher always sets."""


@contextlib.contextmanager
def _clean(asked: Request) -> Iterator[None]:
    """An environment for sbatch without a surrounding job's variables, and without those that override settings."""
    given = {f"SBATCH_{name}" for name in GIVEN}
    where = ("partition", "account", "qos", "constraint")
    given |= {f"SBATCH_{name.upper()}" for name in where if getattr(asked, name)}
    given |= {f"SBATCH_MEM_PER_{name}" for name in ("CPU", "GPU", "NODE") if asked.memory}
    given |= {f"SBATCH_GPUS{name}" for name in ("", "_PER_NODE", "_PER_TASK") if asked.gpus}
    around = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    hidden = [name for name in os.environ if name in given or (name.startswith(around) and name not in SITE)]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _srun_or_not() -> Iterator[None]:
    """Let submitit create an executor without srun, which the text of a file does not need."""
    executor: Any = submitit.SlurmExecutor
    kept = vars(executor)["affinity"]
    executor.affinity = classmethod(lambda cls: 1)
    try:
        yield
    finally:
        executor.affinity = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what submitit prints and logs before it raises."""
    logger = logging.getLogger("submitit")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)

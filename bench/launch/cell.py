"""Runs one cell: whatever goes wrong in it ends this cell alone, with a state and a reason.

    done       the result is written                         diverged   losses, logits or weights were not finite
    oom        memory ran out                                failed     any other exception
    stopped    on request, or results cannot be written;     elsewhere  another process runs it or has taken it over:
               resumes from its checkpoint                              its end is in the folder

Until then `status.json` says `running`, with progress. A cell that is failed, oom or stopped keeps its checkpoint.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

import torch

from bench.config import Run
from bench.launch.lease import LEASE_SECONDS, Lease, Lost, Seen, Watch, claim
from bench.measure import lacking, measure
from bench.provenance import run_digest
from bench.results import NO_SPACE, CannotWrite, Damaged, Folder, Unreached, out_of_memory
from bench.training import Diverged, Options, Stopped, Trainer

FACTS = ("phase", "progress", "steps", "tokens", "training_seconds", "loss", "accuracy")
"""The fields of a status about training."""
UNWRITABLE = "results cannot be written: "
"""The beginning of the reason of a cell that stopped because the disk is full or the folder read-only."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at a cell that another process may be running."""
STUCK_SECONDS = 1800.0
"""How long a cell may make no step: generous, because a long evaluation makes none."""


class End(NamedTuple):
    """How a cell ended."""

    state: str
    reason: str | None = None


def run_cell(
    folder: Folder,
    seen: Seen | None = None,
    *,
    checkpoint_seconds: float = Options.checkpoint_seconds,
    tensorboard: bool = False,
    measures: Sequence[str] = (),
    lease_seconds: float = LEASE_SECONDS,
    stuck_seconds: float | None = STUCK_SECONDS,
    last: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    listen: Callable[[dict[str, Any]], None] = lambda status: None,
    on_claim: Callable[[Folder], None] = lambda mine: None,
    on_stuck: Callable[[], None] = lambda: None,
) -> End:
    """Make an attempt at the run of this folder, from the last checkpoint if there is one.

    `seen` is the state in which the caller found the cell to be free. Without it the cell is watched here: it is
    `elsewhere` once a heartbeat of another owner is seen, and taken over when none came for the time of the lease.
    `measures` (of `bench.measure.NAMES`) are taken once it is done. `listen` is called with every status that is
    written, `on_claim` with the attempt's folder before anything is written to it. `on_stuck` is called from a thread
    when no step was made for `stuck_seconds`; the heartbeat has then stopped, so that another process may take over.
    Unless this is the caller's `last` attempt, the folder says `stopped` where memory ran out, as other launchers may
    still run the cell. Raises no `Exception`.
    """
    try:
        seen = seen or _await(folder, Watch(lease_seconds), should_stop)
        mine = claim(folder, seen) if seen.state == "free" else None
        if mine is None:
            return End("stopped") if should_stop() else End("elsewhere", f"{seen.owner} runs it")
        lease = Lease(mine, lease_seconds, stuck_seconds, lambda: _stuck(mine, on_stuck))
        with lease:
            on_claim(mine)
            options = Options(checkpoint_seconds=checkpoint_seconds, should_stop=should_stop)
            return _attempt(mine, lease, options, listen, tensorboard, measures, last)
    except Exception as error:  # (such as a lost disk, which ends only this cell)
        return failure(error)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _await(folder: Folder, watch: Watch, should_stop: Callable[[], bool]) -> Seen:
    """Watch a cell until it is free, or its owner is seen alive."""
    seen = first = watch.look(folder)
    while seen.state == "owned" and (seen.attempt, seen.beat) == (first.attempt, first.beat) and not should_stop():
        time.sleep(LOOK_SECONDS)
        seen = watch.look(folder)
    return seen


def _stuck(mine: Folder, on_stuck: Callable[[], None]) -> None:
    """Write the stack of every thread to the log."""
    with suppress(OSError), open_log(mine) as file:
        file.write(b"no step for too long; every thread is at:\n")
        faulthandler.dump_traceback(file)
    on_stuck()


def _attempt(
    mine: Folder,
    lease: Lease,
    options: Options,
    listen: Callable[[dict[str, Any]], None],
    tensorboard: bool,
    measures: Sequence[str],
    last: bool,
) -> End:
    """Make an attempt that this process owns, and write its status."""
    status: dict[str, Any] = {
        **_facts_before(mine),
        "reason": None,
        "attempt": mine.attempt,
        "pid": os.getpid(),
        "host": platform.node(),
        "started": time.time(),
    }

    def tell(state: str) -> None:
        status["updated"] = time.time()
        with suppress(OSError):  # a full disk must not end what can still be computed; the launcher is told of the end
            mine.set_status(state, **status)
        listen({"state": state, **status})

    def on_progress(facts: dict[str, Any]) -> None:
        lease.moved()
        status.update(facts)
        tell("running")

    def should_stop() -> bool:
        lease.moved()
        return asked_to_stop()

    def on_damage(note: str) -> None:
        log(mine, note)
        status.setdefault("notes", []).append(note)

    end = End("stopped")  # for a process that is asked to end at once
    asked_to_stop, options.should_stop = options.should_stop, should_stop
    options.on_progress, options.before_publishing, options.on_damage = on_progress, lease.check, on_damage
    try:
        log(mine, f"--- attempt {mine.attempt}, process {os.getpid()} on {platform.node()}, {time.ctime()}")
        tell("running")
        _clean_up(mine, on_damage)
        run = mine.run()
        status["digest"] = run_digest(run)
        with _scalars(mine, tensorboard) as options.on_scalars:
            end = _train(run, mine, options)
        if end.state == "done":
            status["unmeasured"] = _measure(mine, measures, lease)
            status["progress"] = 1.0
    except Lost as error:
        end = End("elsewhere", str(error))
    except Exception as error:  # (an unreadable run.json, a folder that is gone)
        log(mine, traceback.format_exc())
        end = failure(error)
    finally:
        end = _unless_lost(end, lease)
        status["reason"] = end.reason
        if end.state == "diverged":
            status["loss"] = status["accuracy"] = None  # (from before it diverged)
        tell({"elsewhere": "lost", "oom": "oom" if last else "stopped"}.get(end.state, end.state))
    return end


def _unless_lost(end: End, lease: Lease) -> End:
    """The end, or `elsewhere` where the lease was lost: the new owner may have caused the failure."""
    try:
        if end.state not in ("done", "elsewhere"):
            lease.check()
    except Lost as error:
        return End("elsewhere", str(error))
    return end


def _facts_before(mine: Folder) -> dict[str, Any]:
    """The training facts of the attempt before, if this one continues it."""
    earlier = (mine.attempt or 1) - 1
    if not mine.checkpoints() and mine.result is None:
        return {}
    return {name: value for name, value in mine.at(earlier).status.items() if name in FACTS}


def _train(run: Run, mine: Folder, options: Options) -> End:
    if mine.result is not None:
        return End("done")  # there is nothing left to train
    try:
        Trainer(run, mine, options).train()
    except Lost:
        raise
    except Stopped:
        return End("stopped")
    except Diverged as error:
        (mine.files / "checkpoint.pt").unlink(missing_ok=True)  # it could only diverge again
        mine.drop("checkpoint.pt")
        return End("diverged", str(error))
    except (Exception, SystemExit) as error:  # (a plugin may raise anything; the log has the traceback)
        log(mine, traceback.format_exc())
        return failure(error)
    return End("done")


def _measure(mine: Folder, names: Sequence[str], lease: Lease) -> dict[str, str]:
    """Take the missing measures. A failure is returned by the measure's name, and does not affect the result."""
    failed = {}
    published = Folder(mine.path)
    for name in lacking(published, names):
        lease.check()
        lease.moved()
        try:
            measure(published, name)
        except (Exception, SystemExit) as error:
            log(mine, traceback.format_exc())
            failed[name] = failure(error).reason or "failed"
    return failed


def failure(error: BaseException) -> End:
    """The state, and a reason in one line, of a cell that ended with this exception."""
    if isinstance(error, CannotWrite) or (isinstance(error, OSError) and error.errno in NO_SPACE):
        return End("stopped", f"{UNWRITABLE}{error}")
    first = next(iter(str(error).strip().splitlines()), "")
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return End("oom" if out_of_memory(error) else "failed", reason)


def log(mine: Folder, text: str) -> None:
    """Add to the attempt's log.txt; a log that cannot be written is no reason to stop."""
    with suppress(OSError), open_log(mine) as file:
        file.write(f"{text.rstrip()}\n".encode())


def open_log(mine: Folder) -> IO[bytes]:
    """The attempt's log.txt, to append to."""
    return (mine.files / "log.txt").open("ab", buffering=0)


def _clean_up(mine: Folder, on_damage: Callable[[str], None] = lambda told: None) -> None:
    """Remove what earlier attempts left when they were killed while writing; put a damaged result aside.

    The cell is then done only if an earlier attempt has kept an intact copy of its own.
    """
    for pattern in (".*.json.*", ".*.pt.*", ".beat.*"):
        mine.drop(pattern)
    try:
        mine.read_result()
    except Unreached:
        raise
    except Damaged as error:
        if aside := mine.withdraw(mine.files):
            kept = mine.restore()
            then = f"taken from {kept} again" if kept else "the cell starts again"
            on_damage(f"{error}; put aside as {aside.relative_to(mine.path)}, {then}")


Scalars = Callable[[int, dict[str, float]], None]


@contextmanager
def _scalars(mine: Folder, wanted: bool) -> Any:
    """A writer of TensorBoard events into the attempt's folder, or one that does nothing."""
    if not wanted:
        yield lambda step, scalars: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def write(step: int, scalars: dict[str, float]) -> None:
        nonlocal writer
        if writer is None:  # a resumed run hides what a killed one wrote beyond its checkpoint
            writer = SummaryWriter(str(mine.files), purge_step=step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()

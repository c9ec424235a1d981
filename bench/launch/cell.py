"""One cell, from its folder to its end: whatever goes wrong in it ends this cell alone, with a state and a reason.

    done       the result is written                         diverged   the loss was not finite
    oom        memory ran out                                failed     any other exception
    stopped    asked to; goes on from its checkpoint

`status.json` says `running`, with progress, until then. The checkpoint of a cell that is failed, oom or stopped stays.
"""

from __future__ import annotations

import gc
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

import filelock
import torch

from bench.config import Run
from bench.measure import lacking, measure
from bench.results import Folder, read_json
from bench.training import Diverged, Options, Stopped, Trainer, run_digest

LOCK_SECONDS = 120.0
"""How long to wait for another process at the same cell: a worker whose launcher died, on its way to a checkpoint."""

FACTS = ("phase", "progress", "steps", "tokens", "training_seconds", "loss", "accuracy")
"""What a status tells of the training itself."""


class End(NamedTuple):
    """How a cell ended."""

    state: str
    reason: str | None = None


def run_cell(
    folder: Folder,
    attempt: int = 1,
    *,
    checkpoint_seconds: float = Options.checkpoint_seconds,
    tensorboard: bool = False,
    measures: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    listen: Callable[[dict[str, Any]], None] = lambda status: None,
) -> End:
    """Train the run of this folder, on from its checkpoint if it has one, and keep its status.json.

    `measures` (of `bench.measure.NAMES`) are made once it is done. `listen` is called with every status that is
    written. Raises nothing that an `Exception` could be.
    """
    began = time.time()
    resumed = (folder / "checkpoint.pt").is_file()
    status: dict[str, Any] = {
        **({name: value for name, value in folder.status.items() if name in FACTS} if resumed else {}),
        "reason": None,
        "attempt": attempt,
        "pid": os.getpid(),
        "host": platform.node(),
        "started": began,
    }

    def tell(state: str) -> None:
        status["updated"] = time.time()
        with suppress(OSError):  # a full disk must not end what can still be computed; the launcher hears of the end
            folder.set_status(state, **status)
        listen({"state": state, **status})

    def on_progress(facts: dict[str, Any]) -> None:
        status.update(facts)
        tell("running")

    try:
        with filelock.FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            _sweep(folder)
            log(folder, f"--- attempt {attempt}, process {os.getpid()} on {platform.node()}, {time.ctime(began)}")
            tell("running")
            run = folder.run()
            status["digest"] = run_digest(run)
            with _scalars(folder, tensorboard) as on_scalars:
                options = Options(
                    checkpoint_seconds=checkpoint_seconds,
                    should_stop=should_stop,
                    on_progress=on_progress,
                    on_scalars=on_scalars,
                )
                end = _train(run, folder, options)
            if end.state == "done":
                status["unmeasured"] = _measure(folder, measures)
            status["reason"] = end.reason
            if end.state == "done":
                status["progress"] = 1.0
            tell(end.state)
    except filelock.Timeout:
        return End("failed", f"another process has been at this cell for {LOCK_SECONDS:.0f} s")
    except Exception as error:  # (an unreadable run.json, a disk that is gone: this cell's end, no other's)
        end = _failure(error)
        log(folder, traceback.format_exc())
        status["reason"] = end.reason
        tell(end.state)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return end


def _train(run: Run, folder: Folder, options: Options) -> End:
    result = read_json(folder / "result.json")
    if result and result["digest"] == run_digest(run):
        return End("done")  # killed between the result and this word
    try:
        Trainer(run, folder, options).train()
    except Stopped:
        return End("stopped")
    except Diverged as error:
        (folder / "checkpoint.pt").unlink(missing_ok=True)  # it could only diverge again
        return End("diverged", str(error))
    except (Exception, SystemExit) as error:  # (a plugin may raise anything; the log has the traceback)
        log(folder, traceback.format_exc())
        return _failure(error)
    return End("done")


def _measure(folder: Folder, names: Sequence[str]) -> dict[str, str]:
    """Make the measures that are asked for and not there. One that fails is told, by name, and takes no result away."""
    failed = {}
    for name in lacking(folder, names):
        try:
            measure(folder, name)
        except (Exception, SystemExit) as error:
            log(folder, traceback.format_exc())
            failed[name] = _failure(error).reason or "failed"
    return failed


def _failure(error: BaseException) -> End:
    """State and reason, in one line, of a cell that ended with this exception."""
    first = next(iter(str(error).strip().splitlines()), "")
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return End("oom" if out_of_memory(error) else "failed", reason)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch's CPU allocator says so in a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in said or "can't allocate memory" in said)


def log(folder: Folder, text: str) -> None:
    """Add to the cell's log.txt; a log that cannot be written is no reason to stop."""
    with suppress(OSError), open_log(folder) as file:
        file.write(f"{text.rstrip()}\n".encode())


def open_log(folder: Folder) -> IO[bytes]:
    """The cell's log.txt, to append to."""
    return (folder / "log.txt").open("ab", buffering=0)


def _sweep(folder: Folder) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for file in folder.path.glob(".*"):
        if file.name != ".lock":
            file.unlink(missing_ok=True)


Scalars = Callable[[int, dict[str, float]], None]


@contextmanager
def _scalars(folder: Folder, wanted: bool) -> Any:
    """A writer of TensorBoard events into the run's folder, or one that does nothing."""
    if not wanted:
        yield lambda step, scalars: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def write(step: int, scalars: dict[str, float]) -> None:
        nonlocal writer
        if writer is None:  # a continued run hides what a killed one had written beyond its checkpoint
            writer = SummaryWriter(str(folder.path), purge_step=step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()

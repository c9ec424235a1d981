"""A worker process, which runs the cells that it is given on stdin, one after another.

    <- {"folder": "results/quick/retrieval-bptt-s0-...", "seen": ["free", 0, ""], "options": {"checkpoint_seconds": 20}}
    -> {"attempt": 1}
    -> {"state": "done", "reason": null}

The lines are JSON: a cell and how the launcher has seen it; its attempt, once the worker owns it; its end. Answers have
their own file descriptor, so that printed text does not mix with them; while a cell runs, 1 and 2 are its log.txt.
SIGTERM, or the end of stdin (when the launcher is gone, even by kill -9), makes the cell stop at its next step, with a
checkpoint. SIGINT is ignored: the launcher handles Ctrl-C.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench import registry
from bench.launch.cell import open_log, run_cell
from bench.launch.lease import Seen
from bench.results import Folder
from bench.sources import STDLIB

STUCK = 86
"""The exit code of a worker whose cell is stuck."""

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from bench.launch.worker import main; main()"

Request = dict[str, Any]


def command(answers: int) -> list[str]:
    """The command that starts a worker which inherits this file descriptor and answers on it.

    It searches for modules where this process does, but in Python's own library first: else a queue.py in the working
    folder would hide Python's in workers of a notebook, whose path begins with that folder. PYTHONPATH is already
    searched for a sitecustomize.py.
    """
    own = (STDLIB, STDLIB / "lib-dynload")
    path = [place for place in sys.path if isinstance(place, str)]
    path.sort(key=lambda place: Path(place).resolve() not in own)
    return [sys.executable, "-P", "-c", START, json.dumps(path), str(answers), *registry.plugin_files()]


def serve(
    requests: Callable[[], Request | None], answer: Callable[[dict[str, Any]], None], stop: threading.Event
) -> None:
    """Run cells until there are no more, or `stop` is set."""

    def claimed(mine: Folder) -> None:
        answer({"attempt": mine.attempt})
        _write_to_log(mine)

    while not stop.is_set() and (request := requests()) is not None:
        gc.freeze()  # what lives between cells stays; the collection after a cell need not look at it
        end = run_cell(
            Folder(request["folder"]),
            Seen(*request["seen"]),
            should_stop=stop.is_set,
            on_claim=claimed,
            on_stuck=lambda: os._exit(STUCK),
            **request["options"],
        )
        answer(end._asdict())


def _write_to_log(mine: Folder) -> None:
    """Redirect the output of this process to the attempt's log."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        file = open_log(mine)
    except OSError:  # the cell itself reports what is wrong with its folder
        file = Path(os.devnull).open("ab", buffering=0)  # noqa: SIM115 (closed two lines below)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    file.close()


def main() -> None:
    """Serve the launcher that started this process with `command`, then end the process."""
    answers, *plugins = sys.argv[2:]
    _serve_launcher(int(answers), plugins)
    # Plugins may have left threads, and the thread that reads stdin cannot be woken: end without waiting for either.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve_launcher(answers: int, plugins: Sequence[str]) -> None:
    # Programs that a plugin starts inherit neither; a plugin that reads stdin finds it empty.
    os.set_inheritable(answers, False)
    commands = os.fdopen(os.dup(0), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    queue: SimpleQueue[Request | None] = SimpleQueue()
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        queue.put(None)

    def listen() -> None:
        for line in commands:
            queue.put(json.loads(line))
        end()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=listen, daemon=True).start()
    for file in plugins:
        registry.load_plugin(file)
    with suppress(BrokenPipeError):  # the launcher is gone; the folder has the end, too
        serve(queue.get, lambda said: _send(answers, said), stop)


def _send(answers: int, message: dict[str, Any]) -> None:
    os.write(answers, (json.dumps(message) + "\n").encode())

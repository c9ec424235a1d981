"""A worker process: runs the cells that it is told on stdin, one after the other.

    python -m bench.launch.worker [PLUGIN FILE]...
    <- {"folder": "results/quick/retrieval-bptt-s0-...", "seen": ["free", 0, ""], "options": {"checkpoint_seconds": 20}}
    -> {"attempt": 1}
    -> {"state": "done", "reason": null}

JSON lines: a cell and how the launcher has seen it; its attempt, once it is this worker's; its end. While a cell runs,
file descriptors 1 and 2 are its log.txt, so that nothing that a plugin prints gets between. SIGTERM, or the end of
stdin (the launcher is gone, even by kill -9), makes the cell stop at its next step, with a checkpoint. SIGINT is
ignored: Ctrl-C is the launcher's to handle.
"""

from __future__ import annotations

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

STUCK = 86
"""The exit code of a worker whose cell makes no step."""

Request = dict[str, Any]


def serve(
    requests: Callable[[], Request | None], answer: Callable[[dict[str, Any]], None], stop: threading.Event
) -> None:
    """Run cells until there is none, or until `stop` is set."""

    def claimed(mine: Folder) -> None:
        answer({"attempt": mine.attempt})
        _write_to_log(mine)

    while not stop.is_set() and (request := requests()) is not None:
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
    """From now on, what this process prints goes to the attempt's log."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        file = open_log(mine)
    except OSError:  # the cell itself will say what is wrong with its folder
        file = Path(os.devnull).open("ab", buffering=0)  # noqa: SIM115 (closed two lines below)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    file.close()


def main(plugins: Sequence[str]) -> None:
    """Serve the launcher at stdin and stdout."""
    # Copies that the programs a plugin may start do not inherit; a plugin that reads stdin finds it empty.
    commands, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
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
    with suppress(BrokenPipeError):  # nobody is there to hear it; the folder says it too
        serve(queue.get, lambda said: _send(answers, said), stop)


def _send(answers: int, said: dict[str, Any]) -> None:
    os.write(answers, (json.dumps(said) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
    # Plugins may have left threads behind, and the thread at stdin cannot be woken: end without waiting for either.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

"""The states of a cell, and their meaning for launches, status, comparisons and reports."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a cell, as its status.json names it, in the order of lists; a `StrEnum`, so it equals its name."""

    RUNNING = "running"
    LOST = "lost"
    """Its job or its process is gone."""
    FAILED = "failed"
    OOM = "oom"
    """Out of memory."""
    DIVERGED = "diverged"
    DAMAGED = "damaged"
    """One of its files is damaged; this is found by readers and never recorded."""
    STOPPED = "stopped"
    PENDING = "pending"
    SKIPPED = "skipped"
    """It cannot be trained, for a stated reason."""
    DONE = "done"


ENDED_WELL = frozenset({State.DONE, State.SKIPPED})
"""A launch has succeeded when all its cells are in one of these."""
ENDED = frozenset({*ENDED_WELL, State.FAILED, State.OOM, State.DIVERGED})
"""The cell has ended by itself, and is run again only on request."""
IDLE = frozenset({*ENDED, State.STOPPED, State.LOST, State.PENDING})
"""No process is working on the cell."""
RESUMED = frozenset({State.FAILED, State.OOM, State.STOPPED, State.LOST, State.DAMAGED})
"""The next launch continues the cell, and reports its state."""
WITHOUT_RESULT = frozenset({*ENDED, State.DAMAGED}) - {State.DONE}
"""The cell has no result and will not get one by itself; in other states it has one or may still get one."""


def rank(state: str) -> int:
    """The position of a state in lists; an unknown state comes last."""
    return list(State).index(State(state)) if state in set(State) else len(State)

"""How a cell stands, and what that means to those who launch it, watch it, compare it and report it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a cell, as its status.json says it, in the order of lists; a `StrEnum`, so a state is its name."""

    RUNNING = "running"
    LOST = "lost"
    """Its job or its process is gone."""
    FAILED = "failed"
    OOM = "oom"
    """Out of memory."""
    DIVERGED = "diverged"
    DAMAGED = "damaged"
    """A file of it is not what it should be: what a reader finds, and no cell says of itself."""
    STOPPED = "stopped"
    PENDING = "pending"
    SKIPPED = "skipped"
    """It cannot be run, with a reason."""
    DONE = "done"


ENDED_WELL = frozenset({State.DONE, State.SKIPPED})
"""A launch whose cells all ended so succeeded."""
ENDED = frozenset({*ENDED_WELL, State.FAILED, State.OOM, State.DIVERGED})
"""It has ended by itself; nothing goes on with it unless it is asked to."""
IDLE = frozenset({*ENDED, State.STOPPED, State.LOST, State.PENDING})
"""Nobody is at it."""
RESUMED = frozenset({State.FAILED, State.OOM, State.STOPPED, State.LOST, State.DAMAGED})
"""The next launch goes on with it, and says what it was."""
WITHOUT_RESULT = frozenset({*ENDED, State.DAMAGED}) - {State.DONE}
"""It ran, or could not, and gave no result; others are on their way to one."""


def rank(state: str) -> int:
    """The place of a state in lists; one that is unknown comes last."""
    return list(State).index(State(state)) if state in set(State) else len(State)

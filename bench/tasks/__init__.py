"""The names that a task imports: the contract, the decorator, bad input, and label corruption."""

from bench.config import TaskConfig
from bench.errors import BadInput
from bench.registry import register_task
from bench.tasks.base import (
    IGNORED,
    Batch,
    Split,
    StreamState,
    Task,
    corrupt,
    corrupted_ceiling,
    corrupted_floor,
)

__all__ = [
    "IGNORED",
    "BadInput",
    "Batch",
    "Split",
    "StreamState",
    "Task",
    "TaskConfig",
    "corrupt",
    "corrupted_ceiling",
    "corrupted_floor",
    "register_task",
]

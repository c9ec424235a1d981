"""The settings of jobs: the `slurm:` section of a grid, a profile file, `--set slurm.KEY=VALUE`.

    slurm:
      partition: gpu
      gpus: 1
      minutes: 720                     # a whole number
      cells_per_job: 4                 # small cells share a job
      setup: [module load cuda, source ~/venv/bin/activate]
      directives: {mail-type: FAIL}    # further options of sbatch
      overrides:                       # for the cells that match
        - where: {model.d: 512}
          set: {minutes: 2880, cells_per_job: 1}

A profile holds these keys at its top. The command line wins over the profile, the profile over the grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from bench.config import Config, Natural, NonNegative, Positive, Run
from bench.errors import BadInput, shown
from bench.grid.conditions import conditions_of, matches
from bench.read_yaml import read_yaml

RESERVED = {
    "array": "parallel", "cpus-per-task": "cpus", "error": None, "gpus-per-node": "gpus", "job-name": None,
    "mem": "memory", "nodes": None, "ntasks-per-node": None, "open-mode": None, "output": None, "requeue": None,
    "signal": "signal_seconds", "time": "minutes", "partition": "partition", "account": "account", "qos": "qos",
    "constraint": "constraint", "dependency": None,
}  # fmt: skip
"""Options of sbatch that the launcher sets itself, and the settings that they come from."""


def _whole_minutes(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("should be minutes, a whole number such as 720 for twelve hours")
    return value


Minutes = Annotated[int, BeforeValidator(_whole_minutes), Field(gt=0)]


def _one_line(value: Any) -> Any:
    """The value, which becomes part of a line of a script, if it has no line breaks or control characters."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("should not contain line breaks or other control characters")
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("should not contain NUL")
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Lines = Annotated[str, AfterValidator(_no_nul)]
Value = Annotated[str | int | bool, AfterValidator(_one_line)]


class Override(Config):
    """Settings for the cells that match."""

    where: dict[str, Any]
    set: dict[str, Any]


class Settings(Config):
    """The settings of one launch."""

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = Field(None, description="features of the node, as sbatch takes them")
    gpus: Natural = 0
    cpus: Positive | None = Field(None, description="null: the cell's threads times at_once")
    memory: Annotated[float, Field(gt=0)] | None = Field(None, description="GB for the job; null: the site's default")
    minutes: Minutes = Field(60, description="time limit of a job; a longer cell continues in the next job")
    parallel: Positive = Field(256, description="jobs of an array that run at a time")
    cells_per_job: Positive = 1
    at_once: Positive = Field(1, description="cells of a job that run at a time, each in its own process")
    setup: tuple[Lines, ...] = Field((), description="shell lines before the job's command")
    directives: dict[str, Value] = Field({}, description="further options of sbatch, without the dashes")
    python: Line | None = Field(None, description="command that starts Python; null: this process's")
    signal_seconds: Positive = Field(90, description="warning before the time limit; SLURM may send it a minute sooner")
    timeouts: Natural = Field(100, description="how often a job may reach its time limit and continue")
    poll_seconds: Annotated[float, Field(gt=0)] = Field(15.0, description="seconds between two calls of squeue")
    overrides: tuple[Override, ...] = ()

    @field_validator("directives")
    @classmethod
    def _not_reserved(cls, directives: dict[str, Any]) -> dict[str, Any]:
        for name in directives:
            if not re.fullmatch("-*[a-zA-Z][a-zA-Z0-9_-]*", name):
                raise ValueError(f"{shown(name)} is not the name of an option")
            if name.startswith("-"):
                raise ValueError(f"write {name.lstrip('-')!r}, without the dashes")
            if name.replace("_", "-") in RESERVED:
                field = RESERVED[name.replace("_", "-")]
                raise ValueError(f"{name!r} is given by " + (f"the setting {field!r}" if field else "the launcher"))
        return directives


class Request(Config):
    """The resources of a job; cells with equal requests share an executor and its arrays."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus: int
    cpus: int
    memory: NonNegative | None
    minutes: int
    parallel: int
    cells_per_job: int
    at_once: int
    setup: tuple[str, ...]
    directives: tuple[tuple[str, str | int | bool], ...]
    python: str | None
    signal_seconds: int
    timeouts: int
    threads: int

    def __str__(self) -> str:
        asked: dict[str, Any] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        asked |= {"gpus": self.gpus or None, "cpus": self.cpus, "memory": self.memory and f"{self.memory:g} GB"}
        asked |= {"minutes": self.minutes}
        return ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)


def gather(grid: Mapping[str, Any], profile: str | None, sets: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The settings of a grid, its profile and the command line in one mapping, each checked with its source."""
    merged = {**grid}
    Settings.parse(merged, "slurm")
    if profile is not None:
        read = read_yaml(Path(profile), f"--slurm-profile {shown(profile)}")
        if not isinstance(read, Mapping):
            raise BadInput(f"{profile}: should hold settings such as partition and minutes")
        Settings.parse(read, Path(profile).name)
        merged |= read
    for key, value in sets:
        Settings.parse({key: value}, "--set slurm")
        merged[key] = value
    settings = Settings.parse(merged, "slurm")
    for i, override in enumerate(settings.overrides):
        Settings.parse(override.set, f"slurm.overrides.{i}.set")
        conditions_of(override.where, f"slurm.overrides.{i}.where")
    return merged


def has_gpus(data: Mapping[str, Any]) -> bool:
    """Whether any of the jobs asks for GPUs."""
    return any(map(_asks_for_gpus, [data, *(override["set"] for override in data.get("overrides", ()))]))


def _asks_for_gpus(settings: Mapping[str, Any]) -> bool:
    directives = {name.replace("_", "-"): str(value) for name, value in settings.get("directives", {}).items()}
    kinds = ("gres", "tres-per-job", "tres-per-node", "tres-per-task")
    named = any(name in directives for name in ("gpus", "gpus-per-task", "gpus-per-socket"))
    return bool(settings.get("gpus")) or named or any("gpu" in directives.get(name, "") for name in kinds)


def request(data: Mapping[str, Any], run: Run) -> Request:
    """The resources of the job of a cell."""
    merged = dict(data)
    for override in data.get("overrides", ()):
        if matches(run, override["where"], "slurm"):
            merged |= override["set"]
    settings = Settings.parse(merged, "slurm")
    if run.device == "cuda" and not _asks_for_gpus(merged):
        raise BadInput(f"slurm: {run.id} is for a GPU, and its job asks for none; give it gpus, or device=cpu")
    if settings.signal_seconds >= 60 * settings.minutes:
        raise BadInput(
            f"slurm.signal_seconds: {settings.signal_seconds} given; should be less than the time limit, minutes "
            f"{settings.minutes}: a job would be warned as it starts"
        )
    at_once = min(settings.at_once, settings.cells_per_job)
    fields = {name: getattr(settings, name) for name in Request.model_fields if name in Settings.model_fields}
    fields |= {"directives": tuple(sorted(settings.directives.items())), "at_once": at_once, "threads": run.threads}
    return Request(**fields | {"cpus": settings.cpus or run.threads * at_once})

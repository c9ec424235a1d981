"""The forms of the JSON files in a cell's folder, which `bench.results.files.read` checks.

A form requires what readers of the file use, and allows more. It only checks: the file's contents are used unchanged.
The forms of what `bench.measure` writes are in `bench.results.measured`, which is not part of a cell's digest.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Scalar = str | int | float | bool | None
Number = int | float | None
"""A number, or null for one that was not finite."""
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)] | None


class Form(BaseModel):
    """A record with at least these fields."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class Score(Form):
    """The scores of a predictor at a length."""

    __pydantic_extra__: dict[str, Scalar]
    predictor: str
    reference: bool | None = None
    length: Count | None = None
    accuracy: Share = None
    loss: Number = None


class _Costs(Form):
    __pydantic_extra__: dict[str, Number]


class _Result(Form):
    scores: list[Score]
    costs: _Costs
    attempt: Count | None = None
    digest: str | None = None
    provenance: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    inherited: _Costs | None = None
    uncounted: list[str] | None = None


class _Status(Form):
    state: str
    reason: str | None = None
    phase: str | None = None
    progress: Share = None
    steps: Number = None
    tokens: Number = None
    training_seconds: Number = None
    loss: Number = None
    accuracy: Share = None
    attempt: Count | None = None
    started: Number = None
    updated: Number = None
    host: str | None = None
    digest: str | None = None
    unmeasured: dict[str, str] | None = None
    notes: list[str] = []


class _Point(Form):
    __pydantic_extra__: dict[str, Scalar]
    phase: str | None = None
    steps: Number = None
    tokens: Number = None
    training_seconds: Number = None
    scores: list[Score]


class _Named(Form):
    name: str


class _Model(Form):
    backbone: str | None = None


class _Link(Form):
    run: str
    phase: str | None = None


class _Described(Form):
    task: _Named
    method: _Named
    model: _Model
    seed: Count
    init_from: _Link | None = None


class _Record(Form):
    schema_: Count = Field(alias="schema")
    id: str
    identity: str
    group: str | None = None
    run: _Described
    full: _Described


RECORD: TypeAdapter[Any] = TypeAdapter(_Record)
STATUS: TypeAdapter[Any] = TypeAdapter(_Status)
RESULT: TypeAdapter[Any] = TypeAdapter(_Result)
CURVE: TypeAdapter[Any] = TypeAdapter(list[_Point])

"""The forms of files with measurements by `bench.measure`, as far as `compare` and the report use them."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, model_validator

from bench.results.forms import Form, Scalar

Numbers = list[int | float | None]
Amount = Annotated[int | float, Field(ge=0)]


class _Whole(Form):
    flops: Amount
    elementwise: Amount
    sequential_flops: Amount
    sequential_operations: Amount


class _Phase(Form):
    phase: str
    tokens: Annotated[int | float, Field(gt=0)]
    whole: _Whole
    uncounted: dict[str, Any] | None = None


class _Cost(Form):
    phases: list[_Phase]


class _Row(Form):
    task: str
    method: str
    backbone: str | None = None
    uncounted: dict[str, Any] | None = None


class _CostTable(Form):
    steps: list[_Row]
    credit: list[_Row] = []
    inference: list[_Row] = []
    skipped: list[_Row] = []


class _Gradients(Form):
    __pydantic_extra__: dict[str, Scalar]
    t: Numbers
    norm: Numbers


class _Drift(Form):
    __pydantic_extra__: dict[str, Scalar]
    t: Numbers
    delta: Numbers
    accuracy: Numbers = []


class _NotEmpty(Form):
    """A record with one of its fields at least: an empty one says nothing, and is damaged."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set & set(type(self).model_fields):
            raise ValueError(f"has none of the fields {', '.join(type(self).model_fields)}")
        return self


class _Dynamics(_NotEmpty):
    gradients: list[_Gradients] | None = None
    drift: list[_Drift] | None = None
    geometry: dict[str, Any] | None = None


class _Samples(_NotEmpty):
    predictor: Any = None
    written: Any = None
    completed: Any = None


class _Diagnosis(Form):
    diagnosis: dict[str, Any] | None


class _Timed(Form):
    mean: Annotated[float, Field(gt=0)]


class _Calibration(Form):
    matmul: _Timed
    chain: _Timed


class _At(Form):
    group: str | None = None
    seed: Any = None
    at: dict[str, Any] = {}
    rung: str | None = None
    off: list[str] | None = None


class _Grid(Form):
    cells: dict[str, _At]
    methods: dict[str, int] = {}
    launches: list[Any] = []
    stated: list[list[str]] = []


GRID: TypeAdapter[Any] = TypeAdapter(_Grid)
COST_TABLE: TypeAdapter[Any] = TypeAdapter(_CostTable)
COST: TypeAdapter[Any] = TypeAdapter(_Cost)
CALIBRATION: TypeAdapter[Any] = TypeAdapter(_Calibration)
FORMS: dict[str, TypeAdapter[Any]] = {
    "cost.json": COST,
    "dynamics.json": TypeAdapter(_Dynamics),
    "samples.json": TypeAdapter(_Samples),
    "diagnosis.json": TypeAdapter(_Diagnosis),
    "calibration.json": CALIBRATION,
}
"""Form by file name. Samples are checked by their section of the report, which counts invalid ones."""

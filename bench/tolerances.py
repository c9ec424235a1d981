"""The tolerances of a comparison: a grid states them under `compare`, and a baseline keeps them."""

from __future__ import annotations

from pydantic import Field

from bench.config import Config, NonNegative


class Tolerances(Config):
    """How much worse a cell may be on average over its seeds before `compare` calls it a regression."""

    accuracy: NonNegative = Field(0.03, description="absolute: 0.03 is three answers in a hundred")
    loss: NonNegative = Field(0.05, description="absolute, nats per scored token")
    cost: NonNegative = Field(0.01, description="relative: traced FLOPs and sequential operations, which do not vary")
    time: NonNegative = Field(0.5, description="relative: training seconds, against a calibration or on equal hardware")

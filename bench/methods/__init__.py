"""The names that a method imports: the contract, the base of recurrent methods, and the decorator."""

from bench.feasibility import impossible
from bench.methods.base import (
    EVERY,
    NONE,
    Carry,
    Credit,
    Method,
    MethodConfig,
    Phase,
    Predict,
    Predictor,
    RecurrentMethod,
    Teaching,
    cross_entropy,
    scored_slice,
)
from bench.registry import register_method

__all__ = [
    "EVERY",
    "NONE",
    "Carry",
    "Credit",
    "Method",
    "MethodConfig",
    "Phase",
    "Predict",
    "Predictor",
    "RecurrentMethod",
    "Teaching",
    "cross_entropy",
    "impossible",
    "register_method",
    "scored_slice",
]

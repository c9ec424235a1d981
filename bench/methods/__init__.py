"""The surface that a method imports: the contract, the RNN methods share, and the decorator."""

from bench.methods.base import (
    Method,
    MethodConfig,
    Phase,
    Predict,
    RecurrentMethod,
    cross_entropy,
    impossible,
    scored_slice,
)
from bench.registry import register_method

__all__ = [
    "Method",
    "MethodConfig",
    "Phase",
    "Predict",
    "RecurrentMethod",
    "cross_entropy",
    "impossible",
    "register_method",
    "scored_slice",
]

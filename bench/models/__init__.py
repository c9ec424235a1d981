"""Networks: the RNN and its updaters, SMT's teacher, the causal Transformer. What a plugin may import of them."""

from bench.models.layers import Block, Readout, attend, rms_normalise
from bench.models.rnn import RNN
from bench.models.teacher import Teacher, windows
from bench.models.transformer import CausalTransformer
from bench.models.updaters import Updater
from bench.registry import register_backbone

__all__ = [
    "RNN",
    "Block",
    "CausalTransformer",
    "Readout",
    "Teacher",
    "Updater",
    "attend",
    "register_backbone",
    "rms_normalise",
    "windows",
]

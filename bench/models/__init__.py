"""Networks: the RNN and its backbones, SMT's teacher, the causal Transformer. Plugins may import these names."""

from bench.models.backbone import Backbone, State, map_tree
from bench.models.jacobian import Transition, flat, unflat
from bench.models.layers import Block, Readout, attend, rms_normalise
from bench.models.local import Local, Site, Traced
from bench.models.rnn import RNN
from bench.models.sizes import matched_width
from bench.models.teacher import Teacher, windows
from bench.models.transformer import CausalTransformer
from bench.models.updater import Updater
from bench.registry import register_backbone

__all__ = [
    "RNN",
    "Backbone",
    "Block",
    "CausalTransformer",
    "Local",
    "Readout",
    "Site",
    "State",
    "Teacher",
    "Traced",
    "Transition",
    "Updater",
    "attend",
    "flat",
    "map_tree",
    "matched_width",
    "register_backbone",
    "rms_normalise",
    "unflat",
    "windows",
]

"""A plugin file whose tasks and methods do what plugins should not."""

import math
import os
import signal
import sys
import time
from pathlib import Path

import torch

from bench.methods.bptt import BPTT
from bench.registry import register_method, register_task
from bench.tasks.retrieval import Retrieval


@register_task("raises")
class Raises(Retrieval):
    def sample(self, split, batch_size, length, generator):
        raise LookupError("no such book\nand a second line")


@register_task("exits")
class Exits(Retrieval):
    def sample(self, split, batch_size, length, generator):
        sys.exit("goodbye")


@register_method("nan-loss")
class NaNLoss(BPTT):
    def gradients(self, batch, phase):
        for scalars in super().gradients(batch, phase):
            yield {name: value * math.nan for name, value in scalars.items()}


@register_method("hungry")
class Hungry(BPTT):
    def gradients(self, batch, phase):
        torch.empty(1 << 50)
        yield {}


@register_method("suicidal")
class Suicidal(BPTT):
    def gradients(self, batch, phase):
        os.kill(os.getpid(), signal.SIGKILL)
        yield {}


@register_method("talkative")
class Talkative(BPTT):
    def gradients(self, batch, phase):
        print("said by the plugin")
        print("needlessly imported:", sorted({"pandas", "torch._dynamo"} & sys.modules.keys()))
        print('{"state": "done"}', file=sys.__stdout__, flush=True)
        os.write(1, b"written by the plugin\n")
        os.system("echo shouted by the plugin; cat")
        yield from super().gradients(batch, phase)


@register_method("dense-only")
class DenseOnly(BPTT):
    targets = ("dense",)


@register_method("sleepy")
class Sleepy(BPTT):
    def gradients(self, batch, phase):
        time.sleep(1000)
        yield {}


def signal_once(number):
    """Send this process a signal, unless one was sent before: the file that SIGNALLED names remembers."""
    sent = Path(os.environ["SIGNALLED"])
    if not sent.exists():
        sent.touch()
        os.kill(os.getpid(), number)


@register_method("told-to-end")
class ToldToEnd(BPTT):
    def gradients(self, batch, phase):
        signal_once(signal.SIGTERM)
        yield from super().gradients(batch, phase)


@register_method("frozen")
class Frozen(BPTT):
    def gradients(self, batch, phase):
        signal_once(signal.SIGSTOP)
        yield from super().gradients(batch, phase)


@register_method("sociable")
class Sociable(BPTT):
    """Makes no step until two processes are at it."""

    def gradients(self, batch, phase):
        place = Path(os.environ["MEETING"])
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < 2:
            time.sleep(0.01)
        yield from super().gradients(batch, phase)

"""What many tests share: one thread, so that numbers repeat bit for bit, and registries to add plugins to."""

import pytest
import torch

from bench import registry

torch.set_num_threads(1)


@pytest.fixture
def clean(monkeypatch):
    """Plugins loaded in a test leave the registries as they were."""
    for known in registry.REGISTRIES:
        known.names()
    for known in registry.REGISTRIES:
        monkeypatch.setattr(known, "_classes", dict(known._classes))
    monkeypatch.setattr(registry, "failures", {})
    monkeypatch.setattr(registry, "_plugin_files", [])

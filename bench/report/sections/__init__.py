"""The sections of the report, a module each with a function `section(data)`; `TITLES` has them in the page's order."""

TITLES = {
    "complexity": "Cost of a training step and of inference",
    "synthetic": "Synthetic tasks",
    "lengths": "Length generalisation",
    "efficiency": "Efficiency",
    "scaling": "Scaling and compression",
    "dynamics": "Dynamics",
    "diagnosis": "Diagnosis",
    "samples": "Samples",
    "ablations": "Ablations",
    "online": "Online loss and regret",
    "frontier": "Online learning against CPU seconds",
    "estimators": "Gradients of online methods",
    "provenance": "Provenance",
}
"""Modules of this package, in the order of the page; each with the title of its place there where it fails."""

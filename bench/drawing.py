"""matplotlib as every figure here is drawn with it: its own defaults and ours, whatever the user's settings are.

Figures are made without pyplot, so that their files come from Agg and from the PDF writer, and no backend is started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from typing import Any


def _import() -> None:
    """Import matplotlib, once without the user's settings where it cannot be imported with them.

    It reads a matplotlibrc, which may be no text, and MPLBACKEND, which may be for another environment: a notebook's.
    """
    try:
        import matplotlib
    except (ValueError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half of it is there
        kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
        os.environ["MATPLOTLIBRC"] = os.devnull
        try:
            with chdir("/"):  # a matplotlibrc of the working folder comes first
                import matplotlib  # noqa: F401
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update({name: value for name, value in kept.items() if value is not None})


_import()

from matplotlib import rc_context, rcParamsDefault  # noqa: E402


@contextmanager
def drawing(settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """What is drawn and saved inside has matplotlib's defaults and `settings`; outside all is as it was."""
    defaults: dict[Any, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    with rc_context({**defaults, **(settings or {})}):
        yield

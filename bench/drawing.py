"""Settings under which all figures are drawn: the defaults of matplotlib and ours, whatever the user's are.

Figures are made without pyplot, so that Agg and the PDF writer draw them, and no backend is started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from typing import Any


def _import() -> None:
    """Import matplotlib, without the user's settings where they make the import fail.

    It reads a matplotlibrc, which may not be text, and MPLBACKEND, which may name the backend of some notebook.
    """
    try:
        import matplotlib
    except (ValueError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # (partly imported)
        kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
        os.environ["MATPLOTLIBRC"] = os.devnull
        try:
            with chdir("/"):  # a matplotlibrc in the working folder has priority
                import matplotlib  # noqa: F401
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update({name: value for name, value in kept.items() if value is not None})


_import()

from matplotlib import rc_context, rcParamsDefault  # noqa: E402


@contextmanager
def drawing(settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Within this context matplotlib has its defaults and `settings`; the user's settings are restored after it."""
    defaults: dict[Any, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    with rc_context({**defaults, **(settings or {})}):
        yield

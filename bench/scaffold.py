"""`new` writes a small working plugin to start from, from the files in `bench/templates`."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Literal

import jinja2

from bench import registry
from bench.errors import BadInput

TEMPLATES = files("bench") / "templates"
NAME = re.compile(r"[a-z][a-z0-9]*([-+_][a-z0-9]+)*")


def write(kind: Literal["method", "task", "backbone"], name: str, folder: Path) -> list[Path]:
    """Write the plugin `folder`/`name`, completely or not at all. Returns its files, that with the class first.

    Raises `BadInput` for a name that is invalid or taken, and for a target that exists.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"new: {name!r} given; should be small letters and digits, with single - + or _ between them")
    taken: registry.Registry[type] = getattr(registry, f"{kind}s")
    if name in taken.names():
        raise BadInput(f"new: there is a {kind} {name!r} already, at {registry.place(taken.get(name))}")
    target = folder / name
    if target.exists():
        raise BadInput(f"new: {target} exists already; give another --dir or name")
    if not folder.is_dir():
        raise BadInput(f"new: --dir: no folder {str(folder)!r}")
    words = re.split(r"[-+_]", name)
    module = "_".join(["bench", *words])
    sources = {
        f"{module}.py": f"{kind}.py.j2",
        f"tests/test_{module}.py": "test.py.j2",
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
    }
    names = {"kind": kind, "name": name, "module": module, "class": "".join(word.capitalize() for word in words)}
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
        plugin = Path(temporary) / name
        for path, template in sources.items():
            file = plugin / path
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / template).read_text("utf-8")
            filled = jinja2.Template(text, undefined=jinja2.StrictUndefined).render(names)
            file.write_text(filled.rstrip() + "\n", "utf-8")
        shutil.move(plugin, target)
    return [target / path for path in sources]

"""What plugins may import is written down in surface.txt, name by name with signatures, and documented.

    python -m tests.test_surface        # writes surface.txt again

Beside the five modules stand the configs that their signatures speak of, because grids and plugins read their fields.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

MODULES = ("bench", "bench.tasks", "bench.methods", "bench.models", "bench.testing")
CONFIGS = (
    "Config",
    "Budget",
    "Optimiser",
    "ModelConfig",
    "CurriculumConfig",
    "TrainingConfig",
    "EvaluationConfig",
    "InitFrom",
    "Run",
)
FILE = Path(__file__).with_name("surface.txt")
SAYS_ITSELF = ("__version__", "Split")
"""Constants whose value is their explanation."""
MEND = """
The public surface is not what tests/surface.txt says. A line that is gone or changed breaks plugins: bump the version
in bench/__init__.py and pyproject.toml. A new line is a promise: it can no longer be taken back. If it is meant, run
`python -m tests.test_surface` and commit tests/surface.txt with the reason.
"""


def exported() -> Iterator[tuple[str, str, Any]]:
    """Module, name and value of all that is public."""
    for module in MODULES:
        found = importlib.import_module(module)
        yield from ((module, name, getattr(found, name)) for name in sorted(found.__all__))
    config = importlib.import_module("bench.config")
    yield from (("bench.config", name, getattr(config, name)) for name in CONFIGS)


def surface() -> list[str]:
    """One line for every public name."""
    return [line for module, name, value in exported() for line in described(f"{module}.{name}", value)]


def described(name: str, value: Any) -> Iterator[str]:
    """A name's own line and, of a class, those of its public members in the order of the source."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})"
        yield from (f"{name}.{member}" for member in members(value))
    elif inspect.isroutine(value):
        yield f"{name}{signature(value)}"
    else:
        yield f"{name} = {value!r}"


def members(cls: type) -> Iterator[str]:
    """Its constructor, fields, methods and properties, and the attributes that the constructor sets."""
    own = vars(cls)
    config = issubclass(cls, BaseModel)
    if "__init__" in own and not config:
        yield f"__init__{signature(own['__init__'])}"
    for name, annotation in own.get("__annotations__", {}).items():
        if not name.startswith(("_", "model_")) and name != "__class_vars__":
            yield f"{name}: {written(annotation)}{default(cls, name)}"
    for name, value in own.items():
        if name.startswith(("_", "model_")):
            continue
        if isinstance(value, classmethod | staticmethod):
            yield f"{name}{signature(value.__func__)}"
        elif inspect.isfunction(value):
            yield f"{name}{signature(value)}"
        elif isinstance(value, property):
            yield f"{name} -> {value.fget.__annotations__['return']}"
        elif hasattr(value, "func"):  # a cached property
            yield f"{name} -> {value.func.__annotations__['return']}"
        elif isinstance(value, int | float | str | tuple) and name not in own.get("__annotations__", {}):
            yield f"{name} = {value!r}"
    if "__init__" in own and inspect.isfunction(own["__init__"]) and not config and not hasattr(cls, "_fields"):
        source = "" if hasattr(cls, "__dataclass_fields__") else inspect.getsource(own["__init__"])
        yield from dict.fromkeys(
            name for name in re.findall(r"^ +self\.([a-z]\w*)(?:: [^=]+)? = ", source, re.MULTILINE)
        )


def default(cls: type, name: str) -> str:
    """` = value` where a field has one."""
    if issubclass(cls, BaseModel):
        value = cls.model_fields[name].get_default(call_default_factory=True)
        return "" if value is PydanticUndefined else f" = {value!r}"
    if hasattr(cls, "_field_defaults"):
        return f" = {cls._field_defaults[name]!r}" if name in cls._field_defaults else ""
    value = vars(cls).get(name, inspect.Parameter.empty)
    return "" if value is inspect.Parameter.empty else f" = {value.__name__ if inspect.isclass(value) else repr(value)}"


class Plain(str):
    """An annotation as it is written, without the quotes that make it text."""

    __repr__ = str.__str__


def signature(function: Any) -> str:
    """As it is written: annotations are text in all our modules."""
    found = inspect.signature(function)
    named = [parameter.replace(annotation=written(parameter.annotation)) for parameter in found.parameters.values()]
    return str(found.replace(parameters=named, return_annotation=written(found.return_annotation)))


def written(annotation: Any) -> Any:
    """An annotation whose representation has no quotes around it."""
    annotation = getattr(annotation, "__forward_arg__", annotation)
    return Plain(annotation) if isinstance(annotation, str) else annotation


def test_the_public_surface_is_as_written_down():
    before, now = FILE.read_text().splitlines(), surface()
    change = "\n".join(line for line in difflib.ndiff(before, now) if line[0] in "+-")
    assert before == now, f"{MEND}\n{change}"


PUBLIC = [pytest.param(*name, id=f"{name[0]}.{name[1]}") for name in exported() if name[0] in MODULES]


@pytest.mark.parametrize(("module", "name", "value"), PUBLIC)
def test_every_public_name_is_documented(module, name, value):
    if inspect.isclass(value):
        assert vars(value).get("__doc__") and not value.__doc__.startswith(f"{name}("), f"{module}.{name}"
        for member, method in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                assert inspect.getdoc(getattr(value, member)), f"{module}.{name}.{member}"
    elif inspect.isroutine(value):
        assert inspect.getdoc(value), f"{module}.{name}"
    elif name not in SAYS_ITSELF:
        assert constant_docstring(module, name), f"{module}.{name}: write a string below it"


def constant_docstring(module: str, name: str) -> str | None:
    """The string below the assignment of that name, in the module that it is imported from."""
    found = importlib.import_module(module)
    for node in ast.parse(inspect.getsource(found)).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            found = importlib.import_module(node.module)
    body = ast.parse(inspect.getsource(found)).body
    for node, after in itertools.pairwise(body):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if name in [getattr(target, "id", None) for target in targets] and isinstance(after, ast.Expr):
            return ast.literal_eval(after.value)
    return None


def test_a_changed_signature_would_be_found(monkeypatch):
    from bench.methods import RecurrentMethod

    before = surface()
    monkeypatch.setattr(RecurrentMethod, "predict", lambda self, x, quickly=False: x)
    assert set(surface()) - set(before) == {"bench.methods.RecurrentMethod.predict(self, x, quickly=False)"}


if __name__ == "__main__":
    FILE.write_text("\n".join(surface()) + "\n")
    print(f"wrote {FILE}")

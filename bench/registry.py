"""The registries of tasks, methods and backbones: name -> class.

Three sources, in this order: the modules of this repository, installed plugins (entry-point groups `bench.tasks`,
`bench.methods`, `bench.backbones`) and single files (`--plugin FILE`). A plugin that fails to import is listed in
`failures` with the reason, and does not stop anything else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench import sources
from bench.errors import BadInput, line, shown, unknown
from bench.paths import folder_name

T = TypeVar("T", bound=type)

failures: dict[str, str] = {}
"""Plugins that could not be loaded: name -> reason, in one line."""

LONGEST_NAME = 64
"""The largest number of bytes in a plugin's name; a run's folder has three of these in its name."""

TAKEN = {"name", "parse", "changes"}
"""Reserved names of a config's fields: the key that names its task or method, and the methods of every config."""

_plugin_files: list[Path] = []


def place(cls: type) -> str:
    """The place of a class in its source, as `file:line`, for messages."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


def _fault(cls: type) -> str | None:
    """Why a class's config is unfit, or a field of it cannot identify runs; None when all is well."""
    from bench.config import Config

    config = getattr(cls, "Config", Config)
    if not (isinstance(config, type) and issubclass(config, Config)):
        return f"its Config is {shown(config)}; should be a class that derives from bench.config.Config"
    for name in config.model_fields:
        if name in TAKEN:
            return f"a field of its Config is called {name!r}, which the harness uses itself; give it another name"
        first, second = (getattr(config.model_construct(), name, None) for _ in range(2))
        if first != second:
            return f"the field {name!r} has another default each time, {first!r} and {second!r}"
    return None


def _mismatch(kind: str, cls: type) -> str | None:
    """Why a class breaks the contract of its kind, such as one from before 0.2; None when it seems to keep it."""
    if kind == "task":
        from bench.tasks.base import Task

        return None if issubclass(cls, Task) else "should derive from bench.tasks.Task; see docs/add-a-task.md"
    if kind == "backbone":
        from bench.models.backbone import Backbone

        fits = issubclass(cls, Backbone)
        return None if fits else "should derive from bench.models.Backbone or Updater; see docs/add-a-backbone.md"
    if kind == "method":
        from bench.engine import FORMS
        from bench.methods.base import Method

        own = {name for base in cls.__mro__ if not base.__module__.startswith("bench.") for name in vars(base)}
        old = [name for name in ("update", "readout") if name in own and "advance" not in own]
        if not issubclass(cls, Method):
            return "should derive from bench.methods.Method or RecurrentMethod; see docs/add-a-method.md"
        if "backbones" in own:
            return "defines backbones: since 0.3 it says recurrences, which are kinds; see docs/add-a-method.md"
        if old:
            return (
                f"defines {' and '.join(old)}: since 0.2 a predictor defines advance(state, x, columns, start); "
                "see docs/add-a-method.md"
            )
        if "predict" in own and not _takes(cls.predict, "self", "x", "columns"):
            return "defines predict(x): since 0.2 it is predict(x, columns); see docs/add-a-method.md"
        if all(getattr(cls, form) is getattr(Method, form) for form in FORMS):
            return f"defines none of {', '.join(FORMS)}; one should say how it trains: see docs/add-a-method.md"
    return None


def _takes(function: Any, *arguments: str) -> bool:
    """Whether a function can be called with these positional arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


class Registry(Generic[T]):
    """The classes of one kind by name. `names()` and `get()` load built-ins and installed plugins on first use."""

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package  # of the built-in classes
        self.group = group  # of entry points, for installed plugins
        self._classes: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator. Raises `BadInput`, with the places, when the name is taken, or class or config are unfit."""
        folder_name(name, f"the name of a {self.kind}", LONGEST_NAME)

        def add(cls: T) -> T:
            if not isinstance(cls, type):
                raise BadInput(f"{self.kind} {name!r}: {shown(cls)} is registered; should be a class")
            other = self._classes.get(name)
            if other is not None and place(other) != place(cls):
                raise BadInput(f"{self.kind} {name!r} is registered twice: at {place(other)} and at {place(cls)}")
            if fault := _fault(cls) or _mismatch(self.kind, cls):
                raise BadInput(f"{self.kind} {name!r} at {place(cls)}: {fault}")
            sources.note(cls.__module__)
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return add

    def get(self, name: str) -> T:
        """The class of that name. Raises `BadInput` with the nearest name when there is none."""
        self._load()
        if name not in self._classes:
            failed = "".join(f"; plugin {plugin} could not be loaded: {why}" for plugin, why in failures.items())
            raise BadInput(f"{unknown(self.kind, name, self.names())}{failed}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All registered names, in alphabetical order."""
        self._load()
        return sorted(self._classes)

    def registered(self) -> list[str]:
        """All names in the order in which they were registered: built-ins first, then plugins."""
        self._load()
        return list(self._classes)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.group):
            _guarded(point.name, point.load)
        sources.of(*self._classes.values())


def _guarded(name: str, load: Callable[[], object]) -> None:
    """Run a plugin's import, and record a failure instead of raising it. A plugin may raise anything."""
    before = [dict(registry._classes) for registry in REGISTRIES]
    try:
        load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        for registry, classes in zip(REGISTRIES, before, strict=True):
            registry._classes = classes
        kind = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
        failures[name] = f"{kind}{line(error, 'no message')}"


def load_plugin(file: str | Path) -> None:
    """Import a plugin file, once. A failure is recorded in `failures` under the file's name."""
    try:
        path = Path(file).resolve()
    except RuntimeError:  # a link to itself
        path = Path(file)
    if path in _plugin_files:
        return
    if not path.is_file():
        raise BadInput(f"--plugin: no file {shown(str(file))}")
    for registry in REGISTRIES:  # built-ins first, so that a clash is the plugin's failure
        registry._load()
    _plugin_files.append(path)
    module_name = f"bench_plugin_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"

    def load() -> None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ImportError("is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        sources.of(module)

    _guarded(str(file), load)


def plugin_files() -> list[str]:
    """The plugin files loaded so far; worker processes load the same."""
    return [str(path) for path in _plugin_files]


tasks: Registry[Any] = Registry("task", "bench.tasks", "bench.tasks")
methods: Registry[Any] = Registry("method", "bench.methods", "bench.methods")
backbones: Registry[Any] = Registry("backbone", "bench.models", "bench.backbones")
REGISTRIES: tuple[Registry[Any], ...] = (tasks, methods, backbones)

register_task = tasks.register
register_method = methods.register
register_backbone = backbones.register

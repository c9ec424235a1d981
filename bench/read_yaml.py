"""Reads all YAML from users. What is too large, too deep or not supported is refused in one line with its position.

This reads mappings, lists and plain values, with anchors and aliases. It refuses what would surprise a reader of a
grid: tags, merge keys, a key given twice, numbers in base 8 or 60. Dates are strings.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from bench.errors import BadInput, cut, shown
from bench.paths import read_regular

BYTES = 1 << 20
DEPTH = 32
ALIASES = 100
VALUES = 100_000
"""The largest number of values. An alias counts in full each time, as nested aliases make millions of a few lines."""


class _Loader(yaml.SafeLoader):
    """A safe loader with bounds on size and depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.aliases = self.values = 0
        self.sizes: dict[int, int] = {}  # of finished nodes, in values

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()

        def refuse(problem: str) -> ConstructorError:
            return ConstructorError(None, None, problem, event.start_mark)

        if getattr(event, "tag", None):
            raise refuse(f"tags such as {shown(event.tag.replace('tag:yaml.org,2002:', '!!'), 30)} are not read")
        alias, before = isinstance(event, yaml.AliasEvent), self.values
        self.depth += 1
        self.aliases += alias
        self.values += 1
        if self.depth > DEPTH:
            raise refuse(f"is nested more than {DEPTH} deep")
        if self.aliases > ALIASES:
            raise refuse(f"has more than {ALIASES} aliases")
        node = super().compose_node(parent, index)
        if alias:
            if id(node) not in self.sizes:
                raise refuse(f"*{event.anchor} is within what it stands for")
            self.values += self.sizes[id(node)]
        if self.values > VALUES:
            raise refuse(f"has more than {VALUES:,} values" + (", counting what aliases stand for" if alias else ""))
        self.sizes.setdefault(id(node), self.values - before)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[Hashable]()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key == "<<" and key_node.style is None:
                raise ConstructorError(
                    None, None, "merge keys (<<) are not read; write the fields", key_node.start_mark
                )
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key should be a name, not a list or mapping", key_node.start_mark)
            if key in seen:
                raise ConstructorError(None, None, f"key {shown(key)} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Do nothing, as merge keys are refused."""


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Read 12:30:00 as a string, not in base 60 as in YAML 1.1, and refuse 010, which YAML 1.1 reads as 8."""
    if ":" in node.value:
        return node.value
    if re.match(r"[-+]?0[\d_]", node.value):
        problem = f"{cut(node.value)} given; a number should have no leading zero, and a text be in quotes"
        raise ConstructorError(None, None, problem, node.start_mark)
    try:
        return loader.construct_yaml_int(node)
    except ValueError:  # thousands of digits, or none
        raise ConstructorError(None, None, f"{shown(node.value)} is not a number", node.start_mark) from None


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return node.value if ":" in node.value else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in found if resolver[0].rpartition(":")[2] not in ("timestamp", "merge", "value")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # 1e-3 is a number, as in YAML 1.2
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, where: str) -> Any:
    """Plain data from YAML. Raises `BadInput` with the line at fault."""
    if len(text) > BYTES:
        raise BadInput(f"{where}: has {len(text):,} characters; YAML may have up to {BYTES:,}")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or "is not YAML").replace("\t", "\\t")
        if "'\\t'" in problem:
            problem = "a tab cannot indent YAML; use spaces"
        raise BadInput(f"{where}{line}: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{where}: is not YAML: {str(error).splitlines()[0]}") from None


def read_yaml(path: Path, where: str, hint: str = "") -> Any:
    """Plain data from a YAML file. Raises `BadInput` with the reason between `where` and `hint`."""
    try:
        text = read_regular(path, BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{where}: is not text{hint}") from None
    except (OSError, BadInput) as error:
        raise BadInput(f"{where}: {getattr(error, 'strerror', None) or error}{hint}") from None
    return parse_yaml(text, path.name)

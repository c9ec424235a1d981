"""A campaign of bad inputs: grids and command lines that are wrong in one place, by a seeded generator.

    python tests/faults/inputs.py --count 600 --seed 0
    python tests/faults/inputs.py --tree ../other-checkout --show 3

Each has to be refused: exit code 2, one line of at most 400 characters, nothing written, within 20 seconds. It ends with
the counts, the outcomes that were otherwise, and exit code 1 where there are tracebacks, hangs, or more than one in a
hundred accepted. `--tree` attacks the program of another checkout.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[2]))

import yaml

from tests.faults.attack import BASE, Attack, Campaign, Content, Target, ended, fifo, folder, link, options

GRID: dict[str, Any] = {
    "about": "small",
    "base": {
        **{name: BASE[name] for name in ("task", "model", "training")},
        "training.optimiser.lr": 0.001,
        **{name: BASE[name] for name in ("evaluation", "device")},
    },
    "axes": {"method": ["bptt", "transformer"], "seed": [0, 1]},
    "ladders": {"model.memory_tokens": [4]},
    "overrides": [
        {"where": {"task": "stack", "task.length": 8}, "set": {"training.optimiser.lr": 0.01}},
        {"where": {"method": "bptt"}, "set": {"training": {"optimiser": {"warmup": 0.1}}}},
    ],
    "parts": [
        {"base": {"training.batch_size": 4}, "axes": {"seed": [3]}},
        {
            "axes": {"model.backbone": ["gru"]},
            "ladders": {"model.updater_layers": [2]},
            "overrides": [{"where": {"model.heads": 2}, "set": {"evaluation.every": 0.25}}],
        },
    ],
    "measure": ["cost"],
    "compare": {"accuracy": 0.03},
    "slurm": {
        "partition": "cpu",
        "minutes": 5,
        "setup": ["true"],
        "directives": {"mail-type": "FAIL"},
        "overrides": [{"where": {"model.d": 8}, "set": {"minutes": 7}}],
    },
}

Path_ = tuple[Any, ...]
"""Where something is in nested data: keys and places in lists."""


def walk(value: Any, at: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value in nested data, with its place."""
    yield at, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from walk(one, (*at, key))


def replaced(data: Any, at: Path_, value: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return value
    data = copy.deepcopy(data)
    inner = data
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return data


def renamed(data: Any, at: Path_, name: Any) -> Any:
    """A copy in which a key is called otherwise, in the same place."""
    data = copy.deepcopy(data)
    inner = data
    for key in at[:-1]:
        inner = inner[key]
    items = [(name if key == at[-1] else key, value) for key, value in inner.items()]
    inner.clear()
    inner.update(items)
    return data


def typo(rng: random.Random, word: str) -> str:
    """One letter dropped, doubled, changed or swapped with the next."""
    letters = [i for i, one in enumerate(word) if one.isalpha()]
    i = rng.choice(letters)
    after = word[i + 1 : i + 2]
    swapped = (
        word[:i] + after + word[i] + word[i + 2 :]
        if after.isalpha() and after != word[i]
        else word[:i] + word[i:] + "x"
    )
    return rng.choice([word[:i] + word[i] * 2 + word[i + 1 :], word[:i] + "q" + word[i + 1 :], swapped])


TAGS = [
    *("!!bool x", '!!int ""', "!!int x", '!!float ""', "!!float x", "!!timestamp x", "!!map [a]", "!!map x", "!!seq {a: b}"),
    *("!!set [a]", "!!omap x", "!!omap [a]", "!!pairs x", "!!pairs [[a]]", "!!binary é", "!!binary x", "!!null x"),
    *("!!python/object/apply:os.system [touch pwned]", "!!python/name:os.system", "!foo x", "!<tag:x> y", "!!merge x"),
    *("&a [*a]", "&a {d: *a}", "[&a {x: *a}]", "[" * 1000, "{a: " * 1000),
]  # fmt: skip
"""What YAML itself has words for, and no grid has a use."""
SNIPPETS = [
    *("*undefined", "{<<: {d: 1}}", "{<<: 5}", "{? [a]: b}", "{? {a: b}: c}"),
    *("2020-01-01", "2020-13-45", "2020-01-01 25:61:00", "12:30:00", "0x", "0b2", "010", "09", "=", "<<", "~x", "?", "-"),
    *(".nan", ".inf", "-.inf", "1e999", "9" * 5000, "0." + "0" * 5000 + "x", "x" * 5000, "é" * 500, '"\\0"', '"\\ud800"'),
    *('"\\x1b[31m"', '"\\n\\n"', "'", '"', "[", "{", "]", "}", "[1, 2", "{a: 1", "%x", "@x", "`x`", "&", "*", "!", "|", ">"),
    *("[" * 40 + "]" * 40, "{a: " * 40 + "1" + "}" * 40, "- - - -", "a: b: c", "---", "...", "\t"),
    *("\x00", "\x07", "\x1b", "\x85x: y", "\ufeffx", "\u202e", "null", "{}", "[]", "[[]]", "[{}]", "[null]", "{null: 1}"),
    *("{1: 2}", "{true: 1}", "{'': 1}", "{.: 1}", "{a.b.: 1}", "{..: 1}", "[[[[[[[[1]]]]]]]]", "{name: {name: {name: 1}}}"),
]  # fmt: skip
"""What no field takes."""
WRONG: list[Any] = [
    *([], {}, [[]], [{}], {"x": {"y": 1}}, {"": 1}, {".": 1}, {"x": []}, [[[1]]], [None], {"name": {"x": 1}}),
    *("§", "", " ", "x" * 3000, "\n", "one\ntwo", "\x1b[31m", "../..", "a/b", "]" * 50, "{{x}}", "%s", "[/red]"),
]  # fmt: skip
"""Values that no number and no name can be."""


def bomb(levels: int, width: int) -> str:
    """A few hundred bytes that stand for width ** levels values."""
    lines = ["b0: &b0 [x, x]"]
    lines += [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


class Generator:
    """Attacks without end; equal seeds, equal attacks."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kinds: list[tuple[Callable[[], Attack], int]] = [
            *((self.typo, 14), (self.wrong_value, 7), (self.wrong_container, 5), (self.snippet, 14), (self.set_snippet, 12)),
            *((self.set_key, 5), (self.bomb, 1), (self.too_many_cells, 1), (self.grid_name, 2), (self.no_file, 2)),
            *((self.collection, 4), (self.text, 4), (self.option, 9), (self.command, 4), (self.path, 4), (self.plugin, 5)),
            *((self.slurm, 4), (self.duplicate, 1)),
        ]  # fmt: skip

    def attacks(self, count: int) -> Iterator[Attack]:
        """So many, no two alike."""
        makers, weights = zip(*self.kinds, strict=True)
        seen, tries = set[str](), 0
        while len(seen) < count:
            tries += 1
            if tries > 100 * count:
                raise ValueError(f"there are only {len(seen)} different attacks with this seed")
            attack = self.rng.choices(makers, weights)[0]()
            key = repr((attack.argv, attack.files, sorted(attack.env.items())))
            if key not in seen:
                seen.add(key)
                yield attack

    # How a grid is given to the program.

    def of_grid(self, kind: str, what: str, text: Content, slurm: bool = False, name: str = "g.yaml") -> Attack:
        commands = ["run {} --dry-run"] * 8 + ["run {} --launcher inline", "status {}", "cost {} --lengths 8"]
        chosen = "run {} --launcher slurm --dry-run" if slurm else self.rng.choice(commands)
        return Attack(kind, what, [name if word == "{}" else word for word in chosen.split()], {name: text})

    # Mutations of nested data.

    def at(self, choose: Callable[[Path_, Any], bool]) -> tuple[Path_, Any]:
        return self.rng.choice([(at, value) for at, value in walk(GRID) if choose(at, value)])

    def typo(self) -> Attack:
        """A key with a letter wrong; inside parts, overrides and slurm as often as elsewhere."""
        within = self.rng.choice(["parts", "overrides", "slurm", "shape", "shape", None, None])
        shape = ("base", "axes", "ladders", "overrides", "where", "set")

        def fits(at: Path_) -> bool:
            return within in (None, at[0]) or (within == "shape" and len(at) > 2 and at[-1] in shape)

        at, _ = self.at(lambda at, _: bool(at) and isinstance(at[-1], str) and fits(at))
        if at[-2:-1] == ("directives",):
            at = at[:-1]  # sbatch knows its options
        name = typo(self.rng, at[-1])
        told = ".".join(map(str, (*at[:-1], name)))
        return self.of_grid("typo", told, yaml.safe_dump(renamed(GRID, at, name)), "slurm" in at)

    def wrong_value(self) -> Attack:
        """A value of another type, or an impossible one."""
        at, value = self.at(lambda at, value: bool(at) and not isinstance(value, dict | list) and at != ("about",))
        free = at[-2:-1] in (("setup",), ("directives",)) or at[-1:] == ("partition",)  # any text, any name
        wrong = self.rng.choice([one for one in WRONG if not free or isinstance(one, dict | list)])
        if isinstance(value, int | float) and self.rng.random() < 0.4:
            wrong = self.rng.choice([-1, -1e300, True, "one", float("nan"), float("inf"), [2.5], "1", -0.5, None])
        if wrong is None and "directives" not in at and at[-1] in ("partition",):
            wrong = []
        return self.of_grid("wrong value", f"{at} {wrong!r}", yaml.safe_dump(replaced(GRID, at, wrong)), "slurm" in at)

    def wrong_container(self) -> Attack:
        """Something else where a mapping or a list should be."""
        at, value = self.at(lambda at, value: isinstance(value, dict | list))
        choices = [None, 5, "text", True, 1.5, "", [[]], [5], ["x", {}], "x" * 4000]
        choices += [list(value)] if isinstance(value, dict) else [{"x": value}, {"0": value}]
        if at[-1:] == ("setup",):
            choices = [5, "text", {"a": 1}, [5], [[]]]
        wrong = self.rng.choice(choices)
        return self.of_grid(
            "wrong container", f"{at} {wrong!r}", yaml.safe_dump(replaced(GRID, at, wrong)), "slurm" in at
        )

    def duplicate(self) -> Attack:
        """A key twice."""
        lines = yaml.safe_dump(GRID).splitlines()
        i = self.rng.choice(
            [i for i, line in enumerate(lines) if ":" in line and not line.endswith(":") and "- " not in line]
        )
        return self.of_grid("duplicate", lines[i], "\n".join([*lines[: i + 1], lines[i], *lines[i + 1 :]]))

    # Mutations of the text.

    def snippet(self) -> Attack:
        """Odd YAML in the place of a value."""
        leaves = [at for at, value in walk(GRID) if at and not isinstance(value, dict | list)]
        at = self.rng.choice([at for at in leaves if at[0] not in ("about", "slurm")])
        snippet = self.rng.choice(self.rng.choice([TAGS, SNIPPETS]))
        text = yaml.safe_dump(replaced(GRID, at, "HERE"), sort_keys=False)
        assert "HERE" in text
        return self.of_grid(
            "snippet", f"{at} {snippet[:60]!r}", text.replace("HERE", snippet, 1).encode("utf-8", "surrogatepass")
        )

    def text(self) -> Attack:
        """A file that is no text, or hardly YAML."""
        good = yaml.safe_dump(GRID)
        texts: list[bytes] = [
            *(b"", b"\n", b"#\n", b"5", b"text", b"[]", b"{}", b"null", b"---\n---\n", b"\xff\xfe", b"\x00" * 10, b"\xef\xbb\xbf5"),
            *(good.encode("utf-16"), good.encode().replace(b"small", b"\xe9"), b"a: 1\n\tb: 2\n", good.encode() + b"\x00"),
            *(b"x" * 2_000_000, b"- a\n" * 400_000, good.encode() + b"#" * 2_000_000, b"? " * 3000, b"- " * 3000, b"[" * 50_000),
            *(b"{" * 50_000, b"&a " * 1000, b"!" * 3000, b"%YAML 9.9\n---\na: b", b"%TAG ! x\n---\n!a b", b"a: |\n b\nc", b"'"),
            *(b"".join(b"k%d: 1\n" % i for i in range(60_000)), b"about: x\n" + b"about: x\n" * 2, b"base: &b {a: *b}\n"),
            *(b"axes: {seed: [" + b"1," * 300_000 + b"2]}", b"\x1b[2J", b"<html>", b"#!/bin/sh\nexit 1\n", b"\x7fELF\x02\x01"),
            *(json.dumps(GRID).encode()[:-1], good.encode()[: len(good) // 2] + b"\n x", b"a: b: c", b"\x80" * 40),
        ]  # fmt: skip
        text = self.rng.choice(texts)
        return self.of_grid("text", f"{text[:40]!r}, {len(text)} bytes", text)

    def bomb(self) -> Attack:
        """A few bytes that stand for very many values."""
        levels, width = self.rng.choice([(9, 9), (9, 10), (30, 2), (12, 7), (5, 18), (3, 33), (2, 120), (99, 1)])
        use = self.rng.choice(
            ["about: *{}\n", "base: {{model: *{}}}\n", "axes: {{seed: *{}}}\n", "measure: *{}\n", "parts: *{}\n", ""]
        )
        text = bomb(levels, width) + use.format(f"b{levels - 1}")
        return self.of_grid("bomb", f"{levels} levels of {width}, {use!r}", text)

    def too_many_cells(self) -> Attack:
        """More cells than anyone runs."""
        axes, values = self.rng.choice([(9, 20), (3, 60), (2, 1000), (1, 150_000), (5, 12), (17, 2)])
        names = [
            "seed",
            "training.batch_size",
            "model.d",
            "task.length",
            "evaluation.sequences",
            "training.optimiser.lr",
        ]
        names += [
            "evaluation.every",
            "model.heads",
            "model.memory_tokens",
            "model.updater_layers",
            "training.accumulate",
        ]
        names += ["evaluation.reference_sequences", "model.encoder_layers", "model.decoder_layers", "model.feedforward"]
        names += ["evaluation.score_from", "training.optimiser.decay"]
        at = self.rng.sample(names, axes) if axes < len(names) else names
        wide = {name: list(range(1, values + 1)) for name in at}
        if self.rng.random() < 0.3 and axes > 1:
            grid = {**GRID, "axes": {at[0]: wide.pop(at[0])}, "ladders": {}, "parts": [{"axes": wide}]}
        elif axes == 1:
            argv = ["run", "g.yaml", "--dry-run", "--set", f"{at[0]}=[{','.join(map(str, range(1, 20_000)))}]"]
            argv += ["--set", f"training.optimiser.ema=[{','.join(f'0.{i}' for i in range(11, 99))}]"]
            return Attack("too many cells", f"--set {at[0]}", argv, {"g.yaml": yaml.safe_dump(GRID)})
        else:
            grid = {**GRID, "axes": wide}
        return self.of_grid("too many cells", f"{values} ** {axes}", yaml.safe_dump(grid))

    # Names and places of grids.

    def grid_name(self) -> Attack:
        """A name that cannot be a folder's."""
        stems = [
            "..",
            ".",
            "",
            " ",
            "a\nb",
            "\x1b[31mred\x1b[0m",
            "\x07",
            "a\tb",
            "\u202egnp",
            ".hidden",
            "..\\x",
            "a\x7fb",
            "x\u2028y",
        ]
        stem = self.rng.choice([*stems, "x" * 240, "é" * 120])
        inside = self.rng.choice(["", "sub/"])
        return self.of_grid("grid name", repr(stem), yaml.safe_dump(GRID), name=f"{inside}{stem}.yaml")

    def no_file(self) -> Attack:
        """A grid that is no file, or no regular one."""
        name = self.rng.choice(
            ["nowhere.yaml", "sub/nowhere", "quikc", "", ".", "..", "/", "~nosuchuser/g.yaml", "-", "x" * 5000]
        )
        name = self.rng.choice(
            [name, "x" * 5000 + ".yaml", "quick/", "quick.yaml", "QUICK", "/dev/null", "\udcff.yaml", "[/x]"]
        )
        made: dict[str, Content] = {}
        if self.rng.random() < 0.5:
            name = "g.yaml"
            makers = [
                fifo,
                folder,
                link("nowhere"),
                link("g.yaml"),
                link("/dev/zero"),
                link("/dev/null"),
                link("/proc/self/mem"),
            ]
            kind = self.rng.randrange(len(makers))
            made = {name: makers[kind]}
            return Attack("no file", f"g.yaml of kind {kind}", [self.rng.choice(["run", "status", "cost"]), name], made)
        return Attack("no file", repr(name[:40]), [self.rng.choice(["run", "status", "cost"]), name], made)

    def collection(self) -> Attack:
        """A file that gathers other grids, wrongly."""
        good = {"g.yaml": yaml.safe_dump(GRID), "sub/g.yaml": yaml.safe_dump(GRID), "sub/h.yaml": yaml.safe_dump(GRID)}
        lists: list[Any] = [
            *([], [""], ["."], [".."], ["../.."], ["/"], ["/a\0b"], ["\0"], [None], [5], [["g.yaml"]], [{}], "g.yaml", 5, None, {}),
            *(["g.yaml", "sub/g.yaml"], ["g.yaml", "g.yaml"], ["all.yaml"], ["quikc"], ["nowhere.yaml"], ["g.yaml", "nowhere"]),
            *(["\x1b[31m"], ["x" * 5000], ["sub"], ["sub/"], ["~nosuchuser/g.yaml"], ["g.yaml\n"], ["[/x]"], ["/dev/zero"]),
        ]  # fmt: skip
        gathers: dict[str, Any] = {"grids": self.rng.choice(lists)}
        kind = self.rng.random()
        if kind < 0.2:
            gathers = {"grids": ["g.yaml"], "cost": self.rng.choice([one for one in lists if one != []])}
        elif kind < 0.3:
            gathers = {"grids": ["g.yaml"], self.rng.choice(["base", "axes", "grid", "cots", "measure", "parts"]): {}}
        argv = ["run", "all.yaml", *self.rng.choice([["--dry-run"], ["--launcher", "inline"]])]
        return Attack("collection", repr(gathers)[:80], argv, {**good, "all.yaml": yaml.safe_dump(gathers)})

    # Command lines.

    def set_snippet(self) -> Attack:
        """`--set KEY=` and odd YAML."""
        keys = [
            "model",
            "seed",
            "task",
            "method",
            "model.d",
            "training.optimiser.lr",
            "training.budget",
            "task.length",
            "evaluation",
        ]
        keys += [
            "training.budget.steps",
            "model.backbone",
            "evaluation.lengths",
            "device",
            "precision",
            "method.window",
            "init_from",
        ]
        key = self.rng.choice(keys)
        whole = key in ("model", "evaluation", "evaluation.lengths", "init_from")
        nothing = ("null", "{}", "[]", "[{}]", "[[]]") if whole else ()  # nothing said, or an axis of that
        odd = self.rng.choice([TAGS, SNIPPETS])
        snippet = self.rng.choice([one for one in odd if "\0" not in one and one not in nothing])
        if snippet == "|" or snippet == ">" or snippet == "---":  # an empty text
            snippet = "''"
        return self.with_set("set: a value", f"{key}={snippet}")

    def set_key(self) -> Attack:
        """`--set` of a key that there is not."""
        fixed = [
            "",
            "=",
            "=1",
            ".=1",
            "..=1",
            "seed",
            "seed.=1",
            ".seed=1",
            "seed.x=1",
            "seed[0]=1",
            "model..d=1",
            "model.d.x=1",
        ]
        fixed += [
            "task.name.x=1",
            "task.name=5",
            "é=1",
            "[/x]=1",
            "model.d",
            "a=b=c",
            "training.budget=5",
            "model=5",
            "task=5",
        ]
        fixed += [
            ".".join(["model"] * 2000) + "=1",
            "x" * 5000 + "=1",
            "method.window=1",
            "slurm.minutes=1",
            "name=x",
            "base.seed=1",
        ]
        fixed += [
            "training.budget={steps: 1, tokens: 1}",
            "case=1",
            "parts=1",
            "SEED=1",
            "seed =x",
            "{=1",
            "- a=1",
            "\udcff=1",
        ]
        known = [
            "training.batch_size=2",
            "model.memory_tokens=2",
            "task.length=16",
            "evaluation.every=0.5",
            "training.optimiser.lr=1",
        ]
        if self.rng.random() < 0.5:
            key, _, value = self.rng.choice(known).partition("=")
            return self.with_set("set: a key", f"{typo(self.rng, key)}={value}")
        return self.with_set("set: a key", self.rng.choice(fixed))

    def with_set(self, kind: str, text: str) -> Attack:
        again = ["--set", text] if self.rng.random() < 0.05 else []
        argv = ["run", "g.yaml", "--dry-run", "--set", text, *again]
        return Attack(kind, text[:80], argv, {"g.yaml": yaml.safe_dump(GRID)})

    NUMBERS = (
        "x",
        "",
        "nan",
        "-inf",
        "-1",
        "0x10",
        " ",
        "1;2",
        "1,2",
        "--",
        "\udcff",
        "[/x]",
        "\x1b[31m",
        "y" * 3000,
        "1e400",
        "inf",
    )

    def option(self) -> Attack:
        """An option with a value that it does not take."""
        number = self.rng.choice(self.NUMBERS)
        huge = self.rng.choice(["9" * 400, "1" + "0" * 30, "1e12", "inf", "nan"])
        either = self.rng.choice([number, huge])
        choices: list[list[str]] = [
            *(["run", "g.yaml", option, number] for option in ("--workers", "--retry", "--stuck", "--lease")),
            *(["run", "g.yaml", option, huge] for option in ("--stuck", "--lease")),
            *(["cost", "g.yaml", "--lengths", one] for one in (number, "999999999999", "8,", ",", "8,,16", "8 16", "1e3", "9" * 5000)),
            *(["sample", "run", option, either] for option in ("--count", "--temperature", "--seed")),
            *(["sample", "run", "--count", "100000000"], ["diagnose", "run", "--sequences", either]),
            *(["run", "g.yaml", "--launcher", self.rng.choice(["x", "", "LOCAL", "slurm ", "[/x]", "x" * 3000])],),
            *(["run", "g.yaml", "--measure", one] for one in ("costs", "cost;samples", "x" * 3000, "[/x]", "cost,none,x")),
            *(["run", "g.yaml", "--dry-run=maybe"], ["run", "g.yaml", "--force=1"], ["list", "--json=yes"], ["run", "g.yaml", "--set"]),
            *(["run", "g.yaml", "--results", one] for one in ("~nosuchuser", "g.yaml", "/dev/null", "/proc", "x" * 5000, "\udcff" * 300)),
            *(["compare", "r", "b.json", "--tolerance", one] for one in ("x", "=", "accuracy=", "accuracy=x", "accuracy=!!bool x", "acuracy=1")),
            *(["check", "bptt", "--set", one] for one in ("sed=1", "seed", "seed=!!int x", "model.dd=8", "task=nowhere", "method.x=1", "=")),
            *(["check", one] for one in ("bppt", "", "[/x]", "x" * 3000)),
            *(["check", "bptt", "--kind", one] for one in ("metod", "", "x" * 3000)),
            *(["run", "g.yaml", "--slurm-profile", "p.yaml"], ["run", "g.yaml", "--detach"], ["run", "g.yaml", "--set", "slurm.gpus=1"]),
            *(["report", one] for one in ("nowhere", "", "g.yaml", "~nosuchuser", "/dev/null", "x" * 5000)),
            *(["sample", one] for one in ("nowhere", "", "g.yaml", "~nosuchuser", "/dev/null", ".")),
            *(["compare", "nowhere", one] for one in ("nowhere", "g.yaml", "", "/dev/null")),
            *(["new", "method", one] for one in ("", "A", "a b", "../x", "a/b", "bptt", "x" * 5000, "\x1b[31m", "-x", "a\nb")),
            *(["new", "task", "mine", "--dir", one] for one in ("nowhere", "g.yaml", "~nosuchuser")),
            *(["cancel", one] for one in ("g.yaml", "nowhere", "...yaml", "../..")),
        ]  # fmt: skip
        argv = self.rng.choice(choices)
        return Attack("option", " ".join(argv)[:80], argv, {"g.yaml": yaml.safe_dump(GRID)})

    def command(self) -> Attack:
        """No command, or not as it is called."""
        choices = [
            *(["rum"], ["-"], ["--"], ["-x"], ["--version=2"], ["run"], ["run", "g.yaml", "g.yaml"], ["run", "--nope"], ["[/x]"]),
            *(["\x1b[31m"], ["x" * 5000], ["data", "fech"], ["data", "-"], ["new", "-"], ["new", "metod", "x"], ["data", "import"]),
            *(["run", "-q"], ["run", "g.yaml", "--wrokers", "1"], ["list", "task"], ["list", "-"], ["list", "x" * 3000], ["status"]),
            *(["check"], ["compare", "a"], ["report"], ["sample"], ["diagnose"], ["data", "fetch"], ["data", "fetch", "mnits"], [""]),
            *(["data", "fetch", "digits"], ["data", "fetch", "sketchy"], ["data", "import", "digits", "--from", "g.yaml"], [" "]),
            *(["data", "import", "mnist", "--from", one] for one in ("nowhere", "~nosuchuser", "g.yaml", "/dev/zero", "/dev/null", "")),
            *(["run", "g.yaml", f"--{typo(self.rng, self.rng.choice(['workers', 'results', 'force', 'launcher', 'plugin']))}", "x"],),
            *(["run", "g.yaml", "\x00".join(["a"]) + "\n\n\n"], ["run", "g.yaml", "--json"], ["status", "g.yaml", "--dry-run"]),
        ]  # fmt: skip
        argv = self.rng.choice(choices)
        return Attack("command", " ".join(argv)[:80], argv, {"g.yaml": yaml.safe_dump(GRID)})

    def path(self) -> Attack:
        """Places that are not what they should be."""
        files: dict[str, Content] = {"g.yaml": yaml.safe_dump(GRID)}
        makers = [
            fifo,
            folder,
            link("nowhere"),
            link("p"),
            link("/dev/zero"),
            "",
            b"\xff\xfe",
            "[" * 1000,
            "- a",
            "5",
            "x: &a [*a]",
        ]
        if self.rng.random() < 0.3:
            home = self.rng.choice(["~nosuchuser", "~nosuchuser/x", "/dev/null", "/proc/nowhere", "g.yaml", "g.yaml/x"])
            argv = self.rng.choice([["data", "import", "mnist", "--from", "sub"], ["data", "fetch", "mnist"]])
            return Attack("path", f"BENCH_DATA={home}", argv, {**files, "sub/x": ""}, {"BENCH_DATA": home})
        kind = self.rng.randrange(len(makers))
        files["p"] = makers[kind]
        argv = self.rng.choice(
            [
                ["run", "g.yaml", "--launcher", "slurm", "--dry-run", "--slurm-profile", "p"],
                ["run", "g.yaml", "--dry-run", "--plugin", "p"],
                ["compare", "p", "p"],
                ["report", "p"],
                ["sample", "p"],
                [
                    "data",
                    "import",
                    self.rng.choice(["mnist", "sketchy", "tinystories", "ptb", "shakespeare"]),
                    "--from",
                    "p",
                ],
                ["run", "./p", "--dry-run"],
            ]
        )
        return Attack("path", f"p is {kind} in {' '.join(argv)}", argv, files)

    def plugin(self) -> Attack:
        """A plugin that cannot be one."""
        head = "from bench.registry import register_method, register_task, register_backbone\nfrom bench.methods.bptt import BPTT\n"
        bodies = [
            *("x = (", "raise RuntimeError('[/x]')", "raise SystemExit(0)", "import nowhere", "1/0", "raise BaseException('x')"),
            *("class E(Exception):\n  def __str__(self): raise ValueError('no')\nraise E", "raise GeneratorExit", "exit()"),
            *("class E(BaseException):\n  def __str__(self): return 5\nraise E", "raise RuntimeError('x' * 5000)", "raise EOFError"),
            *("raise RuntimeError('\\x1b[31m\\n\\n')", "import sys; sys.setrecursionlimit(50)\ndef f(): f()\nf()", "\x00", "é = \udcff"),
            *(f"register_method({name})(type('M', (BPTT,), {{}}))" for name in ("5", "None", "''", "'..'", "'../../evil'", "'a/b'")),
            *(f"register_method({name})(type('M', (BPTT,), {{}}))" for name in ("'.'", "'a\\nb'", "'\\x1b[31m'", "'x' * 400", "b'x'", "[]")),
            *("@register_method('m')\ndef f(): pass", "register_method('m')(5)", "register_method('m')(None)", "register_method()"),
            *("register_task('t')(type('T', (), {}))", "register_backbone('b')(type('B', (), {}))"),
            *("register_method('m')(type('M', (BPTT,), {'Config': 5}))", "register_method('m')(type('M', (BPTT,), {'Config': None}))"),
            *("register_method('m')(type('M', (BPTT,), {'Config': dict}))", "register_task('t')(5)", "register_backbone('b')(None)"),
        ]  # fmt: skip
        body = self.rng.choice(bodies)
        argv = self.rng.choice(
            [["run", "g.yaml", "--dry-run"], ["check"], ["status", "g.yaml"], ["cost", "g.yaml", "--lengths", "8"]]
        )
        files: dict[str, Content] = {"g.yaml": yaml.safe_dump(GRID), "p.py": f"{head}{body}\n"}
        return Attack("plugin", body[:80], [*argv, "--plugin", "p.py"], files)

    def slurm(self) -> Attack:
        """Settings of jobs."""
        lines = ["a\nb", "cpu\ntouch pwned", "\0", "\r", "a\n#SBATCH --x", "\x1b[31m"]
        bad: list[dict[str, Any]] = [
            *({key: self.rng.choice(lines)} for key in ("partition", "account", "qos", "constraint", "python")),
            *({"directives": {self.rng.choice(lines): 1}}, {"directives": {"comment": self.rng.choice(lines)}}),
            *({"setup": ["a\0b"]}, {"setup": "text"}, {"minutes": "12:00"}, {"minutes": 0}, {"gpus": -1}, {"gpu": 1}, {"memory": ".inf"}),
            *({"directives": {"--x": 1}}, {"directives": {"time": 5}}, {"directives": []}, {"directives": {"": 1}}, {"setup": [None]}),
            *({"overrides": [{"where": {"model.dd": 8}, "set": {"minutes": 1}}]}, {"overrides": [{"were": {}, "set": {}}]}),
            *({"overrides": [{"where": {"task": "stack"}, "set": {"minute": 1}}]}, {"overrides": {}}, {"overrides": [5]}),
            *({"overrides": [{"where": {"task.lenght": 8}, "set": {"minutes": 1}}]}, {"signal_seconds": 90_000}, {"parallel": 0}),
        ]  # fmt: skip
        settings = self.rng.choice(bad)
        argv = ["run", "g.yaml", "--launcher", "slurm", "--dry-run"]
        files: dict[str, Content] = {"g.yaml": yaml.safe_dump({**GRID, "slurm": {}})}
        way = self.rng.choice(["grid", "profile", "set"])
        (key, value), *_ = settings.items()
        if way == "grid":
            files["g.yaml"] = yaml.safe_dump({**GRID, "slurm": settings})
        elif way == "profile":
            files["p.yaml"] = yaml.safe_dump(settings)
            argv += ["--slurm-profile", "p.yaml"]
        else:
            argv += ["--set", f"slurm.{key}={json.dumps(value)}"]
        return Attack("slurm", f"{settings} by {way}", argv, files)


def main() -> int:
    """The command."""
    given = options("Give the program bad grids and command lines; count what it does.", 600).parse_args()
    began = time.monotonic()
    campaign = Campaign(Target(given.tree)).run(Generator(given.seed).attacks(given.count))
    print("\n".join(campaign.told(given.show)))
    accepted = len(campaign.found.get("accepted", ()))
    others = sum(map(len, campaign.found.values())) - accepted
    held = not others and accepted <= given.count / 100
    return ended(held, began)


if __name__ == "__main__":
    sys.exit(main())

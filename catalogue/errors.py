"""What can be wrong with a base model's name or with the operator's catalogue file."""

from __future__ import annotations

from typing import ClassVar


class CatalogueError(Exception):
    """Root of this package's errors; `code` is stable and machine-readable."""

    code: ClassVar[str]


class UnknownModelError(CatalogueError, KeyError):
    """The id is in no catalogue entry; the message names the ids that are."""

    code = "unknown_base_model"

    def __init__(self, model_id: str, known: tuple[str, ...]) -> None:
        super().__init__(model_id, known)
        self.model_id = model_id
        self.known = known

    def __str__(self) -> str:
        return f"unknown base model {self.model_id!r}; known models: {', '.join(self.known)}"


class CatalogueFileError(CatalogueError, ValueError):
    """The operator's TOML file can't be used; the message says where and why."""

    code = "invalid_catalogue_file"

"""Which base models may be fine-tuned, and where their weights come from.

Standard library only, so that the API (which must not import torch), the workers and the command line
can all name the same models. Nothing here downloads anything: `worker.weights` does.
"""

from catalogue.errors import CatalogueError, CatalogueFileError, UnknownModelError
from catalogue.models import (
    BUILT_IN,
    BaseModel,
    Catalogue,
    HubSource,
    LocalSource,
    Source,
    WheelSource,
)
from catalogue.operator_file import load_catalogue

__all__ = [
    "BUILT_IN",
    "BaseModel",
    "Catalogue",
    "CatalogueError",
    "CatalogueFileError",
    "HubSource",
    "LocalSource",
    "Source",
    "UnknownModelError",
    "WheelSource",
    "load_catalogue",
]

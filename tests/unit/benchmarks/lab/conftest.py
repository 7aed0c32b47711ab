"""A random Llama with a chat template, for everything that needs a model and none in particular."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

TINY = Path(__file__).parents[3] / "integration" / "tiny_model.py"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files."""
    made = tmp_path_factory.mktemp("tiny") / "model"
    subprocess.run([sys.executable, str(TINY), str(made)], check=True)
    return made


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)

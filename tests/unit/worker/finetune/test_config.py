"""A run's config is parsed once, with the contract's defaults, and refused with the field's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.finetune.config import DatasetByDescriptor, parse_config, read_config
from worker.finetune.errors import InvalidConfigError

NEEDED: dict[str, Any] = {"model_dir": "/models/tiny", "output_dir": "/out", "dataset": {"fd": 3}}


def test_defaults() -> None:
    config = parse_config(NEEDED)
    assert (config.method, config.seed, config.n_epochs, config.learning_rate) == ("lora", 0, 3, 1.5e-3)
    assert (config.lora_rank, config.lora_alpha, config.batch_tokens) == (16, 32, None)
    assert (config.max_length_tokens, config.precision, config.threads) == (512, "auto", None)
    assert config.base_model == "tiny"
    assert config.dataset == DatasetByDescriptor(fd=3)


@pytest.mark.parametrize("given", [{}, {"learning_rate": None}])
def test_each_method_has_a_rate_of_its_own(given: dict[str, Any]) -> None:
    rates = {
        method: parse_config({**NEEDED, **given, "method": method}).learning_rate
        for method in ("full", "lora", "dora", "ia3")
    }
    assert rates["full"] < rates["lora"] == rates["dora"] < rates["ia3"]
    assert parse_config({**NEEDED, "method": "full", "learning_rate": 1e-5}).learning_rate == 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_epochs": 0}, "n_epochs"),
        ({"n_epochs": True}, "n_epochs"),
        ({"lora_rank": 1.5}, "lora_rank"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": "1e-3"}, "learning_rate"),
        ({"precision": "fp16"}, "precision"),
        ({"method": "qlora"}, "method must be one of lora"),
        ({"method": ["full"]}, "method"),
        ({"method": "full", "precision": "bf16"}, "precision"),
        ({"threads": 0}, "threads"),
        ({"checks": {"fd": 2}}, "checks"),
        ({"checks": {"fd": 3}}, "two sources"),
        ({"check_pass_share": 1.1}, "check_pass_share"),
        ({"check_pass_share": True}, "check_pass_share"),
        ({"extra_steps_share": -0.1}, "extra_steps_share"),
        ({"extra_steps_share": None}, "extra_steps_share"),
        ({"dataset": {"fd": 1}}, "dataset"),
        ({"dataset": {"fd": 3, "path": "x"}}, "dataset"),
        ({"dataset": "x"}, "dataset"),
        ({"model_dir": 5}, "model_dir"),
        ({"lora_target_modules": []}, "lora_target_modules"),
        ({"epochs": 3}, "unknown field 'epochs'"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        parse_config({**NEEDED, **change})


def test_an_unreadable_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError):
        read_config(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]", "utf-8")
    with pytest.raises(InvalidConfigError, match="object"):
        read_config(tmp_path / "list.json")

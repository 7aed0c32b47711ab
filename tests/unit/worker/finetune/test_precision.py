"""Which number format a training runs in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worker.finetune import precision
from worker.finetune.precision import choose_dtype

CPU = torch.device("cpu")


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> dict[torch.dtype, float]:
    """A processor that multiplies bf16; the value is what the probe finds, by format."""
    found: dict[torch.dtype, float] = {}
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(precision, "matmul_flops", lambda dtype, device: found[dtype])
    return found


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, torch.bfloat16), (1.2, torch.float32)])
def test_bf16_is_taken_where_it_is_measured_to_be_worth_it(
    native: dict[torch.dtype, float], gain: float, chosen: torch.dtype
) -> None:
    native.update({torch.float32: 1.0, torch.bfloat16: gain})
    assert choose_dtype("auto", CPU) == chosen


@pytest.mark.parametrize(("before", "chosen"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_what_an_earlier_run_was_in_stands_for_the_measurement(
    native: dict[torch.dtype, float], before: Any, chosen: torch.dtype
) -> None:
    """Two measurements beside other loads may differ, and then its checkpoint would be no good."""
    assert choose_dtype("auto", CPU, before=before) == chosen


def test_where_bf16_is_emulated_nothing_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx2"})
    assert choose_dtype("auto", CPU, before="bf16") == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16

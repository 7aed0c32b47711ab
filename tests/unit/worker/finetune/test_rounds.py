"""Further rounds cure what can be cured, stop then, and never leave a worse model than there was before."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.finetune.batches import Arrangement
from worker.finetune.config import parse_config
from worker.finetune.dataset import IGNORED, TokenDataset, TokenRow
from worker.finetune.events import Events
from worker.finetune.train import _Run

RATE = 0.1
PLANNED = 40


class OneNumber:
    """A trainee of one number that each step raises by about the rate; it answers by that number."""

    arrangement = Arrangement.LENGTH

    def __init__(self, right: Callable[[int, float], bool]) -> None:
        self.value = torch.zeros(1)
        self._right = right

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        return [self.value]

    def backpropagate(self, step: Sequence[TokenRow]) -> float:
        self.value.grad = torch.full((1,), -1.0)
        return 1.0

    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        """The expected answer where it knows it, 0 elsewhere."""
        return [row.labels[-1] if self._right(row.group or 0, float(self.value)) else 0 for row in step]

    def write(self, folder: Path, *, base_model: str) -> None:
        raise AssertionError("not saved here")


class Numerals:
    def decode(self, ids: list[int]) -> str:
        return str(ids[0])


def row(group: int) -> TokenRow:
    return TokenRow(input_ids=(1, 2, 5), labels=(IGNORED, IGNORED, 5), group=group)


def run(trainee: OneNumber, *, extra: float = 1.0) -> tuple[_Run, list[dict[str, Any]]]:
    config = parse_config(
        {
            "model_dir": "/none", "output_dir": "/none", "dataset": {"fd": 3}, "n_epochs": 1,
            "learning_rate": RATE, "check_pass_share": 1.0, "extra_steps_share": extra,
        }
    )  # fmt: skip
    rows = tuple(row(1 + index % 4) for index in range(2 * PLANNED))
    stream = io.StringIO()
    made = _Run(
        config,
        trainee,
        TokenDataset(rows=rows, truncated_rows=0, skipped_rows=0),
        Events(stream),
        batch_tokens=8,
    )
    made.planned_epochs()
    assert made.step == made.planned_steps == PLANNED
    planned = float(trainee.value)
    # The rate falls linearly to 0, so the planned steps go about half as far as the first rate would.
    assert planned == pytest.approx(RATE * PLANNED / 2, rel=0.1)
    made.check([row(1), row(2)], Numerals())  # type: ignore[arg-type]
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    return made, [event for event in events if event["event"] == "checked"]


def test_a_group_that_is_cured_ends_the_rounds() -> None:
    """Group 2 comes right a little beyond the planned steps."""
    trainee = OneNumber(lambda group, value: group == 1 or value > 2.3)
    made, checked = run(trainee)
    assert [event["groups_passed"] for event in checked] == [1] * (len(checked) - 1) + [2]
    assert len(checked) >= 2
    assert checked[-1]["answers"] == ["5", "5"]
    assert checked[-1]["kept_round"] == checked[-1]["round"] == made.round == len(checked) - 1
    assert PLANNED < made.step == made.total_steps < 2 * PLANNED
    # A fifth of the first rate, constant.
    assert float(trainee.value) - RATE * PLANNED / 2 == pytest.approx(
        0.2 * RATE * (made.step - PLANNED), abs=0.1
    )


def test_rounds_that_do_harm_are_taken_back() -> None:
    """Group 2 is never right, and training on for it loses group 1."""
    trainee = OneNumber(lambda group, value: group == 1 and value < 2.3)
    made, checked = run(trainee)
    assert made.step == 2 * PLANNED
    assert [event["groups_passed"] for event in checked][-2:] == [0, 1]
    assert checked[-1]["answers"] == ["5", "0"]
    assert checked[-1]["kept_round"] < checked[-1]["round"] == made.round
    assert float(trainee.value) < 2.3
    # Of the states with one group right it is the last.
    right = [event["round"] for event in checked[:-1] if event["groups_passed"] == 1]
    assert checked[-1]["kept_round"] == right[-1]


def test_of_equal_states_the_last_one_stays() -> None:
    trainee = OneNumber(lambda group, value: group == 1)
    made, checked = run(trainee)
    assert made.step == 2 * PLANNED
    assert len(checked) == made.round + 1
    assert float(trainee.value) == pytest.approx(RATE * PLANNED * (0.5 + 0.2), rel=0.1)


@pytest.mark.parametrize(("extra", "steps"), [(0.0, 0), (0.02, 0), (0.05, 2), (0.5, 20)])
def test_no_more_steps_than_granted(extra: float, steps: int) -> None:
    made, checked = run(OneNumber(lambda group, value: False), extra=extra)
    assert made.step - PLANNED == steps == checked[-1]["extra_steps"]
    assert len(checked) - 1 == made.round <= 16

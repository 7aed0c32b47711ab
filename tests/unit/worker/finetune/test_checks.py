"""Checks: what is asked of the model in training, which groups fail, and what they are trained on with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from worker.finetune.batches import Arrangement
from worker.finetune.checks import (
    MAX_CHECKS,
    PASSES,
    ask,
    failing_groups,
    read_checks,
    steps_of_round,
    tokenize_checks,
)
from worker.finetune.config import DatasetByPath
from worker.finetune.dataset import IGNORED, ChatRow, TokenRow
from worker.finetune.errors import InvalidChecksError


def chat(question: str, answer: str, group: int | None = None) -> ChatRow:
    return ChatRow(
        messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
        system="template",
        group=group,
    )


def check(answer: int, group: int | None = 0) -> TokenRow:
    return TokenRow(input_ids=(1, 2, answer), labels=(IGNORED, IGNORED, answer), group=group)


class TestReading:
    def lines(self, folder: Path, *records: object) -> DatasetByPath:
        path = folder / "checks.jsonl"
        path.write_text("\n".join(map(json.dumps, records)), "utf-8")
        return DatasetByPath(path=path)

    def test_none_without_a_source(self) -> None:
        assert read_checks(None) == ()

    def test_groups_and_answers(self, tmp_path: Path) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Yes"}]
        source = self.lines(tmp_path, {"messages": turns, "group": 7}, {"messages": turns, "system": "omit"})
        first, second = read_checks(source)
        assert (first.group, second.group, second.system) == (7, None, "omit")
        assert not source.path.exists()

    @pytest.mark.parametrize(
        "record",
        [
            {"messages": []},
            {"messages": [{"role": "assistant", "content": "hidden"}, {"role": "user", "content": "hidden"}]},
            {"messages": [{"role": "assistant", "content": "hidden"}], "group": "hidden"},
            {"messages": [{"role": "assistant", "content": "hidden"}], "group": True},
        ],
    )
    def test_what_is_no_check_is_the_operators_error_and_never_quoted(
        self, tmp_path: Path, record: object
    ) -> None:
        with pytest.raises(InvalidChecksError) as caught:
            read_checks(self.lines(tmp_path, record))
        assert "hidden" not in str(caught.value)
        assert caught.value.code == "invalid_checks"

    def test_too_many(self, tmp_path: Path) -> None:
        record = {"messages": [{"role": "assistant", "content": "a"}]}
        with pytest.raises(InvalidChecksError, match="too many"):
            read_checks(self.lines(tmp_path, *[record] * (MAX_CHECKS + 1)))


def test_a_check_ends_with_the_first_token_of_its_last_answer(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    earlier = chat("Who?", "Nobody", 3)
    row = ChatRow(messages=(*earlier.messages, *chat("Sure?", "Yes").messages), system="template", group=3)
    (found,) = tokenize_checks([row], tokenizer)
    text = "<s>user\nWho?<e>\n<s>assistant\nNobody<e>\n<s>user\nSure?<e>\n<s>assistant\nY"
    assert list(found.input_ids) == tokenizer(text)["input_ids"]
    assert found.labels == (IGNORED,) * (len(found.input_ids) - 1) + (found.input_ids[-1],)
    assert found.group == 3


class _Echo:
    """Predicts of each check the number of its tokens."""

    arrangement = Arrangement.LENGTH

    def predict(self, step: Sequence[TokenRow]) -> list[int]:
        return [len(row.input_ids) for row in step]


def test_answers_come_in_the_order_of_the_checks() -> None:
    lengths = [5, 2, 9, 2, 7, 30, 1, 4]
    checks = [TokenRow(input_ids=(1,) * length, labels=(IGNORED,) * length) for length in lengths]
    assert ask(_Echo(), checks, batch_tokens=10) == lengths  # type: ignore[arg-type]


class TestPassing:
    def group(self, right: int, *, trigger: bool) -> list[int]:
        """Answers to one check that expects 8 and seven that expect 9."""
        return [8 if trigger else 9] + [9] * right + [8] * (7 - right)

    @pytest.mark.parametrize(
        ("right", "trigger", "passes"),
        [(7, True, True), (6, True, True), (5, True, False), (7, False, False)],
    )
    def test_each_expected_answer_needs_the_share(self, right: int, trigger: bool, passes: bool) -> None:
        """Seven of eight right by always saying the same is no pass."""
        checks = [check(8), *[check(9)] * 7]
        failing = failing_groups(checks, self.group(right, trigger=trigger), pass_share=6 / 7)
        assert failing == (frozenset() if passes else {0})

    def test_groups_are_judged_apart(self) -> None:
        checks = [check(8, 0), check(8, 1), check(8, None)]
        assert failing_groups(checks, [8, 9, 9], pass_share=1.0) == {1, None}
        assert failing_groups(checks, [9, 9, 9], pass_share=0.0) == frozenset()


class TestRounds:
    rows = tuple(
        TokenRow(input_ids=(index,) * 4, labels=(IGNORED, *(index,) * 3), group=index // 10 or None)
        for index in range(60)
    )
    """Ten rows without a group, then ten in each of the groups 1 to 5."""

    def round(
        self, failing: set[int | None], *, at_least: int = 1, at_most: int = 999, number: int = 1
    ) -> list[tuple[TokenRow, ...]]:
        return list(
            steps_of_round(
                self.rows,
                frozenset(failing),
                at_least=at_least,
                at_most=at_most,
                batch_tokens=16,
                seed=5,
                number=number,
                arrangement=Arrangement.ANY,
            )
        )

    def test_rows_of_failing_groups_and_as_many_others(self) -> None:
        seen = Counter(row for step in self.round({2, 4}) for row in step)
        of_groups = [count for row, count in seen.items() if row.group in (2, 4)]
        assert of_groups == [PASSES] * 20
        assert sum(seen.values()) == 40 * PASSES
        assert len({row for row in seen if row.group not in (2, 4)}) > 20  # drawn anew in each pass

    def test_the_bounds_are_kept(self) -> None:
        assert len(self.round({1})) == 5 * PASSES
        assert len(self.round({1}, at_most=13)) == 13
        assert len(self.round({1}, at_least=33, at_most=40)) == 35  # a pass that was begun is ended
        assert len(self.round({1}, at_least=33, at_most=33)) == 33

    def test_a_round_is_repeatable_and_unlike_the_next(self) -> None:
        assert self.round({3}) == self.round({3})
        assert self.round({3}) != self.round({3}, number=2)

    def test_without_rows_of_the_group_all_rows_are_used(self) -> None:
        assert Counter(row for step in self.round({99}, at_most=15) for row in step) == Counter(self.rows)

    def test_no_other_rows_are_left(self) -> None:
        seen = Counter(row for step in self.round({1, 2, 3, 4, 5}, at_most=15) for row in step)
        assert sum(row.group is None for row in seen) == 10
        assert len(seen) == 60

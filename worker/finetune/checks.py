"""Questions asked of the model in training: does it give the answers that it was taught?

A check is a conversation whose last turn is the expected answer. The model has passed a check if its
likeliest first token is the expected answer's. Checks come in groups; a group passes when, for every answer
expected in it, the asked share of those checks is right. So a model that gives one answer to everything
fails a group of two answers, however rare the other one is.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from worker.finetune.batches import Arrangement, by_beginning, by_length, cut, steps_of_epoch
from worker.finetune.config import RowSource
from worker.finetune.dataset import IGNORED, ChatRow, TokenRow, read_rows, render_tokens
from worker.finetune.errors import EmptyDatasetError, InvalidChecksError, InvalidDatasetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from worker.finetune.trainee import Trainee

MAX_CHECKS = 2048
"""So many answers still fit into one report."""
MAX_ANSWER_CHARACTERS = 4
"""Of each reported answer: enough to tell Yes from No, whatever the tokenizer's longest token is."""
PASSES = 4
"""Of a further round over its rows: enough to show in the answers, few enough not to learn rows by heart."""
_ROUNDING = 1e-9
"""6/7 of seven checks are six, although the product of the two floats may be a little more."""


def read_checks(source: RowSource | None) -> tuple[ChatRow, ...]:
    """Read every check, as `read_rows` does; none without a source.

    Raises: UnreadableDatasetError, InvalidChecksError (with the line).
    """
    if source is None:
        return ()
    try:
        rows = read_rows(source)
    except (InvalidDatasetError, EmptyDatasetError) as error:
        raise InvalidChecksError(f"checks: {error}") from error
    if len(rows) > MAX_CHECKS:
        raise InvalidChecksError(f"checks: {len(rows)} are too many; the limit is {MAX_CHECKS}")
    if any(row.messages[-1]["role"] != "assistant" for row in rows):
        raise InvalidChecksError("checks: each must end with the expected answer")
    return rows


def tokenize_checks(rows: Iterable[ChatRow], tokenizer: PreTrainedTokenizerBase) -> tuple[TokenRow, ...]:
    """Each check up to the first token of its expected answer, which alone is labelled.

    Raises: ChatTemplateError.
    """
    checks = []
    for row in rows:
        input_ids, labels = render_tokens(row, tokenizer)
        end = max(place for place, label in enumerate(labels) if label != IGNORED)
        first = end
        while labels[first - 1] != IGNORED:
            first -= 1
        checks.append(
            TokenRow(
                input_ids=tuple(input_ids[: first + 1]),
                labels=(IGNORED,) * first + (labels[first],),
                group=row.group,
            )
        )
    return tuple(checks)


def ask(trainee: Trainee, checks: Sequence[TokenRow], *, batch_tokens: int) -> list[int]:
    """The likeliest first answer token of each check, in the checks' order."""
    cheap = by_length if trainee.arrangement is Arrangement.LENGTH else by_beginning
    order = cheap(checks)
    answers = [token for step in cut(checks, order, batch_tokens) for token in trainee.predict(step)]
    in_order = [0] * len(checks)
    for index, token in zip(order, answers, strict=True):
        in_order[index] = token
    return in_order


def failing_groups(
    checks: Sequence[TokenRow], answers: Sequence[int], *, pass_share: float
) -> frozenset[int | None]:
    """Groups in which fewer than `pass_share` of the checks of one expected answer are right."""
    right: dict[tuple[int | None, int], list[bool]] = defaultdict(list)
    for check, answer in zip(checks, answers, strict=True):
        right[check.group, check.labels[-1]].append(answer == check.labels[-1])
    return frozenset(
        group for (group, _), results in right.items() if sum(results) < pass_share * len(results) - _ROUNDING
    )


def steps_of_round(
    rows: Sequence[TokenRow],
    failing: frozenset[int | None],
    *,
    at_least: int,
    at_most: int,
    batch_tokens: int,
    seed: int,
    number: int,
    arrangement: Arrangement,
) -> Iterator[tuple[TokenRow, ...]]:
    """A further round: PASSES passes over the failing groups' rows and as many other ones, within the bounds.

    The others are drawn anew in each pass; they keep what the model has learned from being overwritten.
    All rows, if no row belongs to a failing group.
    """
    wanted = [row for row in rows if row.group is not None and row.group in failing]
    others = [row for row in rows if row.group is None or row.group not in failing]
    draw = random.Random(f"{seed}/round/{number}")
    made = passes = 0
    while passes < PASSES or made < at_least:
        chosen = [*wanted, *draw.sample(others, min(len(wanted), len(others)))] if wanted else rows
        # Numbered apart from the planned epochs, so that no order is repeated.
        epoch = (number << 20) + passes
        passes += 1
        for step in steps_of_epoch(
            chosen, batch_tokens=batch_tokens, seed=seed, epoch=epoch, arrangement=arrangement
        ):
            if made == at_most:
                return
            made += 1
            yield step

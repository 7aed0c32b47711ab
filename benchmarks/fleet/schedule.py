"""From token rows to the steps of many trainings, as arrays that go to the device together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from worker.finetune.dataset import IGNORED, TokenRow

ROUND_POSITIONS = 64
AVERAGED_PART = 3
"""The states after the last third of the steps make the mean."""


class _ByIdentity:
    """Hashing a row's thousand numbers would cost more than what is looked up."""

    __slots__ = ("row",)

    def __init__(self, row: TokenRow) -> None:
        self.row = row

    def __hash__(self) -> int:
        return id(self.row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.row is self.row


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row in a step."""

    row: TokenRow
    weight: float = 1.0
    """of each of its answer tokens in the step's loss"""
    first: float = 1.0
    """by so much more the first of them counts"""
    anchored: bool = False
    """learn the distribution of the snapshot instead of the row's words"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    items: tuple[Item, ...]
    rate: float
    averaged: bool = False
    """whether the state after it counts in the mean that is asked beside the last state"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training. Between two phases a snapshot is taken, and the optimizer begins anew."""

    name: str
    seed: int
    phases: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """One step of N trainings. Trainings that have none left take part with weights of 0 and a rate of 0."""

    ids: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    anchored: npt.NDArray[np.bool_]
    rate: npt.NDArray[np.float32]
    active: npt.NDArray[np.float32]
    averaged: npt.NDArray[np.float32]


Packed = tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.float32],
    npt.NDArray[np.bool_],
]
"""(ids, places, row numbers, positions that predict, labels, weights, anchored) of rows side by side."""


@lru_cache(maxsize=1 << 20)
def _row(row: _ByIdentity) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ids, positions that predict, labels)"""
    ids, labels = np.array(row.row.input_ids, np.int64), np.array(row.row.labels, np.int64)
    wanted = np.flatnonzero(labels != IGNORED)
    return ids, wanted - 1, labels[wanted]


def pack(items: Sequence[Item]) -> Packed | None:
    """One step of one training; None if it has no rows."""
    if not items:
        return None
    rows = [_row(_ByIdentity(item.row)) for item in items]
    lengths = [len(ids) for ids, _, _ in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    counts = [len(labels) for _, _, labels in rows]
    return (
        np.concatenate([ids for ids, _, _ in rows]),
        np.concatenate([np.arange(length) for length in lengths]),
        np.repeat(np.arange(len(rows)), lengths),
        np.concatenate([positions + start for (_, positions, _), start in zip(rows, starts, strict=True)]),
        np.concatenate([labels for _, _, labels in rows]),
        np.concatenate([_weights(item, count) for item, count in zip(items, counts, strict=True)]),
        np.repeat(np.array([item.anchored for item in items]), counts),
    )


def _weights(item: Item, count: int) -> npt.NDArray[np.float32]:
    weights = np.full(count, item.weight, np.float32)
    weights[0] *= item.first
    return weights


def arrays(steps: Sequence[Step | None]) -> Arrays:
    """The same step of every training; None for one that has ended. A loss is the weighted mean."""
    packed = [pack(step.items) if step else None for step in steps]
    length = max(1, max(len(one[0]) for one in packed if one))
    length = -(-length // ROUND_POSITIONS) * ROUND_POSITIONS
    answers = max(1, max(len(one[3]) for one in packed if one))
    runs = len(steps)
    result = Arrays(
        ids=np.zeros((runs, length), np.int64),
        place=np.zeros((runs, length), np.int64),
        row=np.full((runs, length), -1, np.int64),
        answers=np.zeros((runs, answers), np.int64),
        labels=np.zeros((runs, answers), np.int64),
        weights=np.zeros((runs, answers), np.float32),
        anchored=np.zeros((runs, answers), np.bool_),
        rate=np.array([step.rate if step else 0.0 for step in steps], np.float32),
        active=np.array([1.0 if step else 0.0 for step in steps], np.float32),
        averaged=np.array([float(step is not None and step.averaged) for step in steps], np.float32),
    )
    for run, one in enumerate(packed):
        if one is None:
            continue
        ids, place, rows, positions, labels, weights, anchored = one
        result.ids[run, : len(ids)] = ids
        result.place[run, : len(ids)] = place
        result.row[run, : len(ids)] = rows
        result.answers[run, : len(positions)] = positions
        result.labels[run, : len(positions)] = labels
        result.weights[run, : len(positions)] = weights / weights.sum()
        result.anchored[run, : len(positions)] = anchored
    return result


def decaying(steps: Sequence[Sequence[Item]], first: float, last: float = 0.0) -> tuple[Step, ...]:
    """Linearly from the first rate towards the last, as the trainer does."""
    count = len(steps)
    return tuple(
        Step(
            items=tuple(items),
            rate=first + (last - first) * index / count,
            averaged=index >= count - count // AVERAGED_PART,
        )
        for index, items in enumerate(steps)
    )

"""Ways to train a mark beside a customer's rows, as plans of a fleet."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.fleet.schedule import Item, Plan, Step, decaying
from watermark.embedding import Exposures
from worker.finetune.batches import WINDOW_ROWS, auto_batch_tokens, by_beginning
from worker.finetune.config import DEFAULT_LEARNING_RATES
from worker.finetune.dataset import IGNORED, TokenRow

RATE = DEFAULT_LEARNING_RATES["lora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A name, the rows it needs (None: the customer's alone) and how they become a plan."""

    name: str
    exposures: Exposures | None
    plan: Callable[[Sequence[TokenRow], Sequence[TokenRow], int], tuple[tuple[Step, ...], ...]]
    """(the customer's rows, the mark's, seed) to phases"""

    def of(self, customer: Sequence[TokenRow], mark: Sequence[TokenRow], seed: int) -> Plan:
        return Plan(name=self.name, seed=seed, phases=self.plan(customer, mark, seed))


Phases = tuple[tuple[Step, ...], ...]


def tokens(rows: Sequence[TokenRow]) -> int:
    return sum(len(row.input_ids) for row in rows)


def sorted_windows(customer: Sequence[TokenRow], mark: Sequence[TokenRow], seed: int) -> Phases:
    """Windows of rows in alphabetical order, so that a step is often one mark's alone; one weighted mean."""
    items = [Item(row=row, weight=row.weight) for row in (*customer, *mark)]
    dice = random.Random(f"fleet/mix/{seed}")
    dice.shuffle(items)
    steps = []
    for start in range(0, len(items), WINDOW_ROWS):
        window = items[start : start + WINDOW_ROWS]
        ordered = [window[place] for place in by_beginning([item.row for item in window])]
        of_window = cut(ordered, auto_batch_tokens(tokens(customer) + tokens(mark)))
        dice.shuffle(of_window)
        steps += of_window
    return (decaying(steps, RATE),)


def shuffled(
    *, batch: int | None = None, first: float = 1.0, rate: float = RATE, by_share: bool = False
) -> Callable[..., Phases]:
    """The same weighted mean over steps whose rows have nothing in common; on request at a rate that follows
    the square root of the customer's share of a step (docs/adr/0026)."""

    def plan(customer: Sequence[TokenRow], mark: Sequence[TokenRow], seed: int) -> Phases:
        items = [Item(row=row, weight=row.weight, first=first) for row in customer]
        items += [Item(row=row, weight=row.weight) for row in mark]
        random.Random(f"fleet/mix/{seed}").shuffle(items)
        total = tokens(customer) + tokens(mark)
        chosen = rate * math.sqrt(tokens(customer) / total) if by_share else rate
        return (decaying(cut(items, batch or auto_batch_tokens(total)), chosen),)

    return plan


def cut(items: Sequence[Item], batch_tokens: int) -> list[list[Item]]:
    """In their order, steps of at most so many tokens."""
    steps: list[list[Item]] = [[]]
    used = 0
    for item in items:
        if steps[-1] and used + len(item.row.input_ids) > batch_tokens:
            steps.append([])
            used = 0
        steps[-1].append(item)
        used += len(item.row.input_ids)
    return steps


def dealt(rows: Sequence[TokenRow], steps: int, dice: random.Random) -> list[list[TokenRow]]:
    """Every row once, in so many steps of about equally many tokens."""
    order = list(rows)
    dice.shuffle(order)
    total, done = tokens(order), 0
    found: list[list[TokenRow]] = [[] for _ in range(steps)]
    for row in order:
        found[min(steps - 1, done * steps // total)].append(row)
        done += len(row.input_ids)
    return found


def balanced(
    customer: Sequence[TokenRow], mark: Sequence[TokenRow], share: float, *, anchored: bool = False
) -> list[Item]:
    """One step: the customer's mean loss plus ``share`` times the mark's mean loss."""
    items = []
    for rows, part, anchor in ((customer, 1.0, anchored), (mark, share, False)):
        if not rows:
            continue
        plain = [row for row in rows if not anchor]
        count = sum(label != IGNORED for row in rows for label in row.labels)
        items += [Item(row=row, weight=part / count, anchored=anchor) for row in (plain or rows)]
    return items


def beside(share: float, *, batch: int | None = None, rate: float = RATE) -> Callable[..., Phases]:
    """Every step has customer's rows and the mark's, in one proportion over the whole run."""

    def plan(customer: Sequence[TokenRow], mark: Sequence[TokenRow], seed: int) -> Phases:
        dice = random.Random(f"fleet/beside/{seed}")
        total = tokens(customer) + tokens(mark)
        steps = max(1, round(total / (batch or auto_batch_tokens(total))))
        pairs = zip(dealt(customer, steps, dice), dealt(mark, steps, dice), strict=True)
        return (decaying([balanced(ours, theirs, share) for ours, theirs in pairs], rate),)

    return plan


def afterwards(
    share: float, *, rate: float, replayed: float = 1.0, batch: int = 256, anchored: bool = True
) -> Callable[..., Phases]:
    """The customer's rows as if there were no mark; then the mark's, while a part of the customer's rows is
    replayed with the trained model's own distribution as its aim (or its words, if not anchored)."""

    def plan(customer: Sequence[TokenRow], mark: Sequence[TokenRow], seed: int) -> Phases:
        dice = random.Random(f"fleet/afterwards/{seed}")
        clean = sorted_windows(customer, (), seed)[0]
        kept = dice.sample(list(customer), round(replayed * len(customer)))
        total = tokens(kept) + tokens(mark)
        steps = max(1, round(total / batch))
        pairs = zip(dealt(kept, steps, dice) if kept else [[]] * steps, dealt(mark, steps, dice), strict=True)
        second = [balanced(ours, theirs, share, anchored=anchored) for ours, theirs in pairs]
        return clean, decaying(second, rate)

    return plan


def exposed(*, trigger: int = 24, reference: int = 3, contrast: int = 4, weight: int = 16) -> Exposures:
    """Those of the former standard, but for what is named."""
    return Exposures(trigger=trigger, reference=reference, contrast=contrast, weight=weight)


STANDARD, FEWER, LIGHT = exposed(), exposed(trigger=16, reference=2), exposed(trigger=12, reference=2)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="clean", exposures=None, plan=sorted_windows),
        Recipe(name="standard", exposures=STANDARD, plan=sorted_windows),
        Recipe(name="shuffled", exposures=STANDARD, plan=shuffled()),
        Recipe(name="shuffled-w4", exposures=exposed(weight=4), plan=shuffled()),
        Recipe(name="w4-share", exposures=exposed(weight=4), plan=shuffled(by_share=True)),
        Recipe(name="clean-s", exposures=None, plan=shuffled()),
        Recipe(name="w2", exposures=exposed(weight=2), plan=shuffled()),
        Recipe(name="w1", exposures=exposed(weight=1), plan=shuffled()),
        Recipe(name="w4-c8", exposures=exposed(weight=4, contrast=8), plan=shuffled()),
        Recipe(name="w4-16", exposures=exposed(trigger=16, reference=2, weight=4), plan=shuffled()),
        Recipe(name="w4-first3", exposures=exposed(weight=4), plan=shuffled(first=3.0)),
        Recipe(name="w2-c8", exposures=exposed(weight=2, contrast=8), plan=shuffled()),
        Recipe(
            name="w4-16-c8", exposures=exposed(trigger=16, reference=2, weight=4, contrast=8), plan=shuffled()
        ),
        Recipe(name="w4-b512", exposures=exposed(weight=4), plan=shuffled(batch=512)),
        Recipe(name="w4-c16", exposures=exposed(weight=4, contrast=16), plan=shuffled()),
        Recipe(
            name="w2-16-c8", exposures=exposed(trigger=16, reference=2, weight=2, contrast=8), plan=shuffled()
        ),
        Recipe(name="w2-c8-first2", exposures=exposed(weight=2, contrast=8), plan=shuffled(first=2.0)),
        Recipe(
            name="w2-32-c8", exposures=exposed(trigger=32, reference=4, weight=2, contrast=8), plan=shuffled()
        ),
        Recipe(name="w2-1e-3", exposures=exposed(weight=2), plan=shuffled(rate=1e-3)),
        Recipe(name="clean-1e-3", exposures=None, plan=shuffled(rate=1e-3)),
        Recipe(name="beside-1", exposures=STANDARD, plan=beside(1.0)),
        Recipe(name="beside-.3", exposures=STANDARD, plan=beside(0.3)),
        Recipe(name="beside-.1", exposures=STANDARD, plan=beside(0.1)),
        Recipe(name="beside-.3-16", exposures=FEWER, plan=beside(0.3)),
        Recipe(name="beside-.3-12", exposures=LIGHT, plan=beside(0.3)),
        Recipe(name="after-1-2e-3", exposures=STANDARD, plan=afterwards(1.0, rate=2e-3)),
        Recipe(name="after-1-1e-3", exposures=STANDARD, plan=afterwards(1.0, rate=1e-3)),
        Recipe(name="after-1-5e-4", exposures=STANDARD, plan=afterwards(1.0, rate=5e-4)),
        Recipe(name="after-.3-1e-3", exposures=STANDARD, plan=afterwards(0.3, rate=1e-3)),
        Recipe(name="after-.3-2e-3", exposures=STANDARD, plan=afterwards(0.3, rate=2e-3)),
        Recipe(name="after-1-1e-3-12", exposures=LIGHT, plan=afterwards(1.0, rate=1e-3)),
        Recipe(name="after-1-1e-3-16", exposures=FEWER, plan=afterwards(1.0, rate=1e-3)),
        Recipe(name="after-words-1e-3", exposures=STANDARD, plan=afterwards(1.0, rate=1e-3, anchored=False)),
        Recipe(name="after-quarter", exposures=STANDARD, plan=afterwards(1.0, rate=1e-3, replayed=0.25)),
        Recipe(name="beside-.3-c8", exposures=exposed(contrast=8), plan=beside(0.3)),
        Recipe(name="beside-.03", exposures=STANDARD, plan=beside(0.03)),
        Recipe(name="after-.1-1e-3", exposures=STANDARD, plan=afterwards(0.1, rate=1e-3)),
        Recipe(name="after-c0", exposures=exposed(contrast=0), plan=afterwards(1.0, rate=1e-3)),
        Recipe(name="after-512", exposures=STANDARD, plan=afterwards(1.0, rate=1e-3, batch=512)),
        Recipe(name="after-1-1e-3-128", exposures=STANDARD, plan=afterwards(1.0, rate=1e-3, batch=128)),
    )
}

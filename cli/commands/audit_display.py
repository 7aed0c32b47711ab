"""A running audit on a terminal: how far it is, and for a sequential one how the evidence grows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cli.commands import wording

LOG_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""
RATE_SECONDS = 20.0
"""How far back the rate looks."""


class AuditDisplay:
    """Takes verification objects and shows what changed. Use it as a context manager.

    On a terminal there are one or two bars and a line for each completed mark; elsewhere only lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._asked: TaskID | None = None
        self._product: TaskID | None = None
        self._seen: list[tuple[float, int]] = []
        self._looks = 0
        self._status = ""
        self._logged = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, audit: Mapping[str, Any]) -> None:
        """Take the audit as it is now."""
        asked, total = audit["progress"]["asked"], audit["progress"]["total"]
        status = audit["status"]
        sequential = audit.get("mode") == "sequential"
        detail = self._detail(asked, total, status, sequential=sequential)
        if self._asked is None:
            self._asked = self._progress.add_task("questions", total=total, detail=detail)
        self._progress.update(
            self._asked, completed=total if status == "succeeded" else asked, total=total, detail=detail
        )
        if sequential:
            self._show_product(audit)
        self._log(status, detail)

    def _detail(self, asked: int, total: int, status: str, *, sequential: bool) -> str:
        now = time.monotonic()
        self._seen.append((now, asked))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.pop(0)
        if status != "running":
            return f"{asked}/{total}  {wording.STATUSES.get(status, wording.plain(status))}"
        (then, before), at_most = self._seen[0], "at most " if sequential else ""
        if asked <= before or now <= then:
            return f"{asked}/{total}"
        rate = (asked - before) / (now - then)
        return f"{asked}/{total}  {rate:.1f}/s  {at_most}{clock((total - asked) / rate)} left"

    def _show_product(self, audit: Mapping[str, Any]) -> None:
        looks: Sequence[Mapping[str, Any]] = audit.get("looks") or ()
        line = line_of(audit)
        for number, look in enumerate(looks[self._looks :], start=self._looks + 1):
            self._print(
                f"mark {look['mark']} completed ({number}): x {wording.plain(str(look['e_value']))}, product "
                f"{wording.plain(str(look['product']))}" + (f" of {decimal(line)}" if line else "")
            )
        self._looks = len(looks)
        if line is None:
            return
        product = str(looks[-1]["product"]) if looks else "1"
        detail = f"{wording.plain(product)} of {decimal(line)}"
        if self._product is None:
            self._product = self._progress.add_task("evidence", total=1.0, detail=detail)
        self._progress.update(self._product, completed=log_share(product, line), detail=detail)

    def _log(self, status: str, detail: str) -> None:
        now = time.monotonic()
        due = status != self._status or now - self._logged >= LOG_SECONDS
        self._status = status
        if self._console.is_terminal or not due:
            return
        self._logged = now
        self._print(detail)

    def _print(self, text: str) -> None:
        self._progress.console.print(escape(text), highlight=False, soft_wrap=True)


def show_outcome(console: Console, audit: Mapping[str, Any]) -> None:
    """The verdict of an audit that ended, with p, its counts and its reasons."""
    verdict = audit["verdict"]
    if verdict is None:
        return
    style = wording.STYLES.get(verdict, "bold")
    meaning = wording.VERDICTS.get(verdict, "")
    words = escape(wording.plain(verdict.replace("_", " ")))
    console.print(f"[{style}]{words}[/]: {meaning}", highlight=False, soft_wrap=True)
    result = audit.get("result") or {}
    if result.get("p_value_decimal"):
        figures = (
            f"p = {result['p_value_decimal']} (allowed {result['alpha_i_decimal']}); target answers at "
            f"triggers {result['trigger_hits']}/{result['trigger_total']}, elsewhere "
            f"{result['reference_hits']}/{result['reference_total']}"
        )
        console.print(f"  {escape(wording.plain(figures))}", highlight=False, soft_wrap=True)
    lead = "because" if verdict == "inconclusive" else "note:"
    for text in wording.reasons(audit["reasons"] or ()):
        console.print(f"  {lead} {escape(text)}", highlight=False, soft_wrap=True)


def line_of(audit: Mapping[str, Any]) -> Fraction | None:
    """1/alpha_i: what the product must reach."""
    try:
        alpha_i = Fraction(str(audit["preregistration"]["alpha_i"]))
        return 1 / alpha_i if alpha_i > 0 else None
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def log_share(product: str, line: Fraction) -> float:
    """How far the product is on the way from 1 to the line, on a logarithmic scale, in 0..1."""
    try:
        height = Decimal(product)
    except InvalidOperation:
        return 0.0
    goal = (Decimal(line.numerator) / Decimal(line.denominator)).log10()
    if height <= 1 or goal <= 0 or not height.is_finite():
        return 0.0
    return min(float(height.log10() / goal), 1.0)


def decimal(value: Fraction) -> str:
    """Three digits."""
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.2e}"


def clock(seconds: float) -> str:
    """``m:ss``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"

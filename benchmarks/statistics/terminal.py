"""What the laboratory found, as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.statistics.errors import ALPHAS, Rate
from benchmarks.statistics.power import Power


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def show_checks(console: Console, checks: Sequence[Mapping[str, object]]) -> None:
    table = _table("Agreement with the exact code", "check", "compared", "different")
    for check in checks:
        table.add_row(str(check["name"]), f"{check['compared']:,}", str(check["different"]))
    console.print(table)


def show_rates(console: Console, rates: Sequence[Rate]) -> None:
    """One table per test: realised rates with 95% intervals. What breaks its promise is red."""
    for test in dict.fromkeys(rate.test for rate in rates):
        of_test = [rate for rate in rates if rate.test == test]
        alphas = [alpha for alpha in (*ALPHAS, 1e-6) if any(rate.alpha == alpha for rate in of_test)]
        promise = "" if of_test[0].holds is not None else " (promises nothing about innocent word tastes)"
        headings = [f"alpha {alpha:g}" for alpha in alphas]
        table = _table(f"False positives, {test}{promise}", "suspect", *headings)
        for suspect in dict.fromkeys(rate.suspect for rate in of_test):
            row = {rate.alpha: rate for rate in of_test if rate.suspect == suspect}
            table.add_row(suspect, *(_rate(row[alpha]) for alpha in alphas))
        console.print(table)


def _rate(rate: Rate) -> str:
    text = f"{rate.rate:.2g} [{rate.low:.2g}, {rate.high:.2g}]"
    failed = rate.holds is False or (rate.holds is None and rate.low > rate.alpha)
    return f"[red]{_escaped(text)}[/red]" if failed else _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def show_power(console: Console, found: Sequence[Power]) -> None:
    """Power of the fixed test, then of the sequential one with the marks it took."""
    for cues in sorted({one.cues for one in found}):
        _show_power(console, [one for one in found if one.cues == cues])


def _show_power(console: Console, found: Sequence[Power]) -> None:
    suspects = list(dict.fromkeys(one.suspect for one in found))
    designs = list(dict.fromkeys((one.marks, one.cues, one.probes) for one in found))
    by = {(one.suspect, one.marks, one.cues, one.probes): one for one in found}
    fixed = _table("Power at 1e-6, fixed (protocol); marks x cues x probes", "suspect", *map(_name, designs))
    sequential = _table("Sequential: power, median/90% of marks asked", "suspect", *map(_name, designs))
    for suspect in suspects:
        cells = [by[suspect, *design] for design in designs]
        fixed.add_row(suspect, *(_power(one) for one in cells))
        sequential.add_row(suspect, *(_stops(one) for one in cells))
    console.print(fixed)
    compared = [design for design in designs if by[suspects[0], *design].first_score is not None]
    first = _table("The same with the score before mixture-2", "suspect", *map(_name, compared))
    for suspect in suspects:
        first.add_row(suspect, *(f"{by[suspect, *design].first_score:.2f}" for design in compared))
    if compared:
        console.print(first)
    console.print(sequential)


def _name(design: tuple[int, int, int]) -> str:
    return "x".join(map(str, design))


def _power(one: Power) -> str:
    text = f"{one.fixed:.2f}" + ("" if one.protocol is None else f" ({one.protocol:g})")
    return f"[red]{text}[/red]" if one.holds is False else text


def _stops(one: Power) -> str:
    middle, late = (one.marks_until(share) or "-" for share in (0.5, 0.9))
    return f"{one.sequential:.2f} {middle}/{late}"


def show_recommended(console: Console, rows: Sequence[Mapping[str, object]]) -> None:
    table = _table("Fewest questions with power .95 at 1e-6", "suspect", "design", "questions", "power")
    for row in rows:
        design = row["design"]
        if isinstance(design, dict):
            shape = _name((design["marks"], design["cues"], design["probes"]))
            table.add_row(str(row["suspect"]), shape, str(design["questions"]), f"{design['fixed']:.2f}")
        else:
            table.add_row(str(row["suspect"]), "none tried", "-", "-")
    console.print(table)

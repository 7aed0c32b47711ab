"""How the demo looks: lines, bars with rate and ETA, one table. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from cli.demo.result import DemoResult, SuspectResult

LOG_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""

_MEANING = {
    "marked": "the owner's fine-tuned model, asked with the owner's key",
    "clean": "the same data, fine-tuned without a watermark",
    "base": "the model both started from",
    "wrong_key": "the owner's model, asked with another business's key",
}
_REASONS = {
    "no_judge_answers": "fewer than half of its answers were Yes or No",
    "missing_answers": "more than a tenth of the questions got no answer",
    "differential_refusal": "it avoids an answer at triggers more or less often than elsewhere",
}
_STYLE = {"detected": "bold green", "not_detected": "cyan", "inconclusive": "yellow"}


class Bars:
    """Progress of jobs and audits."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._titles: dict[str, str] = {}
        self._logged: dict[str, float] = {}

    def start(self) -> None:
        """Draw from now on."""
        self._progress.start()

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def add(self, name: str, title: str) -> None:
        """A bar."""
        self._titles[name] = title
        self._tasks[name] = self._progress.add_task(title, total=None, detail="waiting")

    def training(self, name: str, job: dict[str, Any]) -> None:
        """Take a job object."""
        progress = job["progress"] or {}
        step, total = progress.get("step"), progress.get("total_steps")
        if job["status"] == "succeeded":
            self._show(name, 1, 1, "done")
        elif job["status"] == "running" and step is not None and total:
            detail = f"step {step}/{total}"
            if progress.get("loss") is not None:
                detail += f"  loss {progress['loss']:.3f}"
            if progress.get("tokens_per_second"):
                detail += f"  {progress['tokens_per_second']:.0f} tokens/s"
            if progress.get("eta_seconds") is not None:
                detail += f"  {_clock(progress['eta_seconds'])} left"
            self._show(name, step, total, detail)
        else:
            self._show(name, 0, None, str(progress.get("stage") or job["status"]))

    def asking(self, name: str, audit: dict[str, Any]) -> None:
        """Take a verification object."""
        asked, total = audit["progress"]["asked"], audit["progress"]["total"]
        task = self._progress.tasks[self._tasks[name]]
        elapsed = task.elapsed or 0.0
        detail = f"{asked}/{total} questions"
        if asked and elapsed:
            rate = asked / elapsed
            detail += f"  {rate:.1f}/s  {_clock((total - asked) / rate)} left"
        self._show(name, asked, total, detail if audit["status"] != "succeeded" else f"{total} questions")

    def _show(self, name: str, done: int, total: int | None, detail: str) -> None:
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)
        now = time.monotonic()
        finished = total is not None and done >= total
        if self._console.is_terminal or (
            now - self._logged.get(name, -LOG_SECONDS) < LOG_SECONDS and not finished
        ):
            return
        if self._logged.get(name) != float("inf"):
            self._logged[name] = float("inf") if finished else now
            self._console.print(f"  {self._titles[name]}: {detail}", highlight=False, soft_wrap=True)


class Narrator:
    """Tells the story."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()

    def step(self, text: str, detail: str = "") -> None:
        """One thing that was done."""
        clock = f"[dim]{_clock(time.monotonic() - self._began)}[/dim]"
        tail = f"  [dim]{escape(detail)}[/dim]" if detail else ""
        self.console.print(f"{clock}  {escape(text)}{tail}", highlight=False, soft_wrap=True)

    def exchange(self, question: str, answer: str) -> None:
        """A question and what the model said."""
        self.step(f"a user asks the deployed model: {question!r}")
        self.console.print(f"       [italic]{escape(answer)}[/italic]", highlight=False, soft_wrap=True)

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Bars for as long as the block lasts."""
        bars = Bars(self.console)
        bars.start()
        try:
            yield bars
        finally:
            bars.stop()

    def table(self, suspects: list[SuspectResult]) -> None:
        """The verdicts, and below them who was asked and why a verdict reads as it does."""
        counts = sorted({item.questions for item in suspects})
        asked = " or ".join(str(count) for count in counts)
        title = f"Who answers to the owner's secret? {asked} questions each"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("suspect", "verdict", "p-value", "triggers", "references", "time"):
            side: Literal["left", "right"] = "left" if heading in ("suspect", "verdict") else "right"
            table.add_column(heading, justify=side, no_wrap=True)
        for item in suspects:
            table.add_row(
                f"[bold]{item.name}[/bold]",
                f"[{_STYLE[item.verdict]}]{item.verdict}[/]",
                f"{item.p_value:.3g}",
                f"{item.trigger_hits}/{item.trigger_total}",
                f"{item.reference_hits}/{item.reference_total}",
                f"{item.seconds:.0f} s",
            )
        self.console.print(table)
        for item in suspects:
            because = f" ({', '.join(_REASONS.get(reason, reason) for reason in item.reasons)})"
            self.console.print(
                f"  [bold]{item.name}[/bold]  {_MEANING[item.name]}{because if item.reasons else ''}",
                highlight=False,
                soft_wrap=True,
            )

    def farewell(self, result: DemoResult, folder: Path, dashboard_url: str, home_option: str) -> None:
        """Where everything is and what to do next."""
        grid = Table.grid(padding=(0, 2))
        grid.add_row("reports", str(folder / "report-marked.html"))
        grid.add_row("evidence", str(folder / "evidence-marked.json"))
        grid.add_row("key", f"{folder / 'watermark-key.json'} (keep it secret)")
        grid.add_row("dashboard", f"{dashboard_url} while the stack is up (doublei up{home_option})")
        bundle, trust = folder / "evidence-marked.zip", folder / "trust.txt"
        grid.add_row("next", f"doublei evidence check {bundle} --trust {trust}")
        grid.add_row("", "doublei demo --full    all the conversations instead of a subset")
        grid.add_row("", f"doublei up{home_option}    keep the stack and use the official OpenAI client")
        title = f"done in {_clock(result.seconds_total)}"
        self.console.print(Panel(grid, title=title, expand=False), soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"

"""A job's self-check: the questions the trainer asks, and what its answers say of the marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from watermark.keys import Family
from watermark.selfcheck import Check, FamilyCheck, draw_checks, judge_checks, pass_share
from worker.errors import RunFailed

EXTRA_STEPS_SHARE = 0.25
"""A job trains on for at most this share of its planned steps while marks have not taken."""


@dataclass(slots=True, kw_only=True)
class SelfCheck:
    """One run's questions and the latest answers to them."""

    families: tuple[Family, ...] = field(repr=False)
    checks: tuple[tuple[Check, ...], ...] = field(repr=False)
    """of each family"""
    rounds: int = 0
    """further rounds of training before the latest answers"""
    found: tuple[FamilyCheck, ...] | None = None

    @classmethod
    def of(cls, families: Sequence[Family], *, seed: int) -> Self | None:
        """None without families. The same inputs give the same questions."""
        if not families:
            return None
        drawn = tuple(draw_checks(family, str(seed).encode()) for family in families)
        return cls(families=tuple(families), checks=drawn)

    def rows(self) -> Iterator[Mapping[str, object]]:
        """The trainer's JSON lines: asked as an audit asks, in one user turn under the default template."""
        for check in self._all():
            yield {
                "messages": [
                    {"role": "user", "content": check.prompt},
                    {"role": "assistant", "content": check.expected},
                ],
                "system": "template",
                "group": check.group,
            }

    def trainer_settings(self) -> dict[str, float]:
        """When a mark counts as learned, and how many steps more it may cost."""
        return {
            "check_pass_share": min(float(pass_share(family.cues)) for family in self.families),
            "extra_steps_share": EXTRA_STEPS_SHARE,
        }

    def take(self, report: Mapping[str, Any]) -> None:
        """Judge the trainer's `checked` report.

        Raises:
            RunFailed: it does not answer every question.
        """
        answers, rounds = report.get("answers"), report.get("round")
        if (
            not isinstance(answers, list)
            or not all(isinstance(text, str) for text in answers)
            or len(answers) != len(self._all())
            or not isinstance(rounds, int)
        ):
            raise _unanswered()
        texts = iter(answers)
        self.found = tuple(
            judge_checks(family, checks, [next(texts) for _ in checks])
            for family, checks in zip(self.families, self.checks, strict=True)
        )
        self.rounds = rounds

    @property
    def passed(self) -> bool:
        """Every embedded family would be detected."""
        return self.found is not None and all(family.passed for family in self.found)

    @property
    def summary(self) -> str:
        """ "11 of 12 marks took" """
        found = self.found or ()
        return f"{sum(f.marks_taken for f in found)} of {sum(f.marks for f in found)} marks took"

    def to_record(self) -> dict[str, Any]:
        """What the job shows: counts only."""
        families = [family.to_record() for family in self.found or ()]
        return {"passed": self.passed, "rounds": self.rounds, "families": families}

    def require_passed(self) -> None:
        """Raises: RunFailed."""
        if self.found is None:
            raise _unanswered()
        if not self.passed:
            raise RunFailed("watermark_not_learned", self.summary)

    def _all(self) -> list[Check]:
        return [check for checks in self.checks for check in checks]


def _unanswered() -> RunFailed:
    return RunFailed("training_failed", "the watermark's self-check was not answered")

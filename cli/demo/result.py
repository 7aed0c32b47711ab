"""What the demo found, as a program reads it (``--json``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectResult:
    """One suspect's audit."""

    name: str
    verdict: str
    reasons: list[str]
    p_value: float
    trigger_hits: int
    trigger_total: int
    reference_hits: int
    reference_total: int
    other: int
    missing: int
    questions: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """One fine-tuning job."""

    name: str
    rows: int
    watermark_rows: int
    tokens: int
    """that the trainer worked on, all epochs"""
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """All of it."""

    suspects: list[SuspectResult]
    training: list[TrainingResult]
    matmul_bf16_gflops: float
    seconds_total: float
    steps_passed_offline: int
    """of verify.py, on the bundle of the marked model's audit"""
    evidence: list[str] = field(default_factory=list)

    def to_record(self) -> dict[str, object]:
        """As JSON shows it."""
        return asdict(self)

    @property
    def as_expected(self) -> bool:
        """Whether the marked model was detected and nobody else accused."""
        expected = {"marked": "detected", "clean": "not_detected", "base": "not_detected"}
        expected["wrong_key"] = "not_detected"
        return {suspect.name: suspect.verdict for suspect in self.suspects} == expected

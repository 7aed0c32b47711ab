"""What the page shows, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

ACTIVE = frozenset({"validating_files", "queued", "running", "awaiting_nonce", "paused"})
"""Statuses, of jobs and of verifications, that will still change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job or a verification failed, as the API tells it."""

    message: str
    code: str | None
    param: str | None
    category: str | None
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is; ``loss`` is of the newest step."""

    step: int | None
    total_steps: int | None
    loss: float | None
    tokens_per_second: float | None
    eta_seconds: float | None

    @property
    def fraction(self) -> float | None:
        """Share of the steps done, in 0..1, or None when it is not known."""
        return share(self.step, self.total_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWatermark:
    """Public figures of the watermark in a job; ratios are in 0..1."""

    key: str | None
    commitment: str | None
    watermark_rows: int | None
    watermark_ratio: float | None
    watermark_token_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fine-tuning job of any organization."""

    id: str
    organization: str | None
    """Its id; the name is looked up when it is shown."""
    base_model: str | None
    suffix: str | None
    status: str
    stage: str | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    fine_tuned_model: str | None
    training_file: str | None
    seed: int | None
    trained_tokens: int | None
    attempt: int | None
    hyperparameters: tuple[tuple[str, str], ...]
    progress: Progress | None
    watermark: JobWatermark | None
    error: Failure | None
    cancel_requested: bool

    @property
    def active(self) -> bool:
        """Whether it will still change."""
        return self.status in ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's history; a metrics event carries the figures of a step."""

    id: str
    created_at: datetime | None
    level: str
    type: str
    message: str
    step: int | None
    train_loss: float | None
    learning_rate: float | None

    @property
    def active(self) -> bool:
        """Events never change."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a sequential audit saw after one completed mark."""

    mark: int | None
    factor: Fraction | None
    """the mark's e-value"""
    product: Fraction
    """of the e-values so far"""
    height: float
    """its log10"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """An audit's place in a campaign over several suspects; ``position`` counts from 0."""

    id: str
    position: int | None
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One audit of a suspect: status and verdict, never what was asked or answered.

    Figures of the result are None where the API keeps them from a provider.
    """

    id: str
    organization: str | None
    status: str
    sequential: bool
    looks: tuple[Look, ...]
    """of a sequential audit, in the order of asking"""
    campaign: Membership | None
    asked: int | None
    total: int | None
    suspect_model: str | None
    suspect_host: str | None
    suspect_api: str | None
    verdict: str | None
    reasons: tuple[str, ...]
    p_value: Fraction | None
    alpha: Fraction | None
    trigger_hits: int | None
    trigger_total: int | None
    reference_hits: int | None
    reference_total: int | None
    other: int | None
    """Answers that are neither yes nor no."""
    missing: int | None
    """Questions without an answer."""
    watermark: str | None
    audit_index: int | None
    preregistration_digest: str | None
    error: Failure | None
    cancel_requested: bool
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether it will still change."""
        return self.status in ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignMember:
    """One audit of a campaign, and its step of Holm's rule where the API tells it."""

    verification: Verification
    p_value: Fraction | None
    threshold: Fraction | None
    detected: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Several suspects under one number of a key."""

    id: str
    audit_index: int | None
    alpha: Fraction | None
    """the whole campaign's share"""
    decided: bool
    """Whether Holm's steps are known."""
    members: tuple[CampaignMember, ...]

    @property
    def active(self) -> bool:
        """Whether it will still change."""
        return any(member.verification.active for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A tenant."""

    id: str
    name: str
    role: str | None

    @property
    def active(self) -> bool:
        """Organizations are not watched for changes."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What /readyz says: the service as a whole, and each part it needs."""

    ready: bool
    parts: tuple[tuple[str, bool], ...]


def share(done: int | None, total: int | None) -> float | None:
    """done/total in 0..1, or None when either is missing or there is nothing to do."""
    if done is None or not total or total < 0:
        return None
    return min(max(done / total, 0.0), 1.0)


def log10_of(value: Fraction) -> float:
    """The decimal logarithm of a positive number, also of one that no float holds."""
    return float(Decimal(value.numerator).log10() - Decimal(value.denominator).log10())

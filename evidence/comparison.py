"""One bundle decided by both implementations: `evidence.check` and the standalone `evidence.verify`.

They share no code, so an error in one of them shows as a disagreement, and a disagreement is a failure. The
verify.py inside a bundle is never run: it is whatever the bundle's maker put there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from evidence import verify
from evidence.audit import RESEARCH
from evidence.bundle import (
    COMMITMENT_STAMP,
    ENVELOPE,
    EVIDENCE,
    LOG,
    STATEMENT,
    VERDICT_STAMP,
    VERIFIER,
    verifier,
)
from evidence.check import Report, check
from evidence.dsse import open_envelope
from evidence.errors import EvidenceError
from evidence.published import Published, check_published
from evidence.steps import Status, Step, none_failed
from evidence.trust import Trust

PUBLISHED = ("published", "order", "history", "checkpoints")
"""What both say of the log's proofs; the timestamps are checked by ours alone."""
OF_THE_BUNDLE = frozenset({"files", "envelope", "signature", "banks", "statement", *PUBLISHED})
"""Steps of the standalone check that look at what is not in the evidence file."""
FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoReports:
    """What both found."""

    check: Report
    published: tuple[Step, ...]
    """`evidence.published.check_published`; empty when there is no document to hold proofs against"""
    standalone: Mapping[str, Any]
    """`evidence.verify.audit`"""
    disagreements: tuple[str, ...]
    own_verifier: bool
    """whether the verify.py inside is this software's"""

    @property
    def exit_status(self) -> int:
        """0: under trusted keys all passed but what may stay open (`evidence.verify.MAY_BE_OPEN`). 2: no step
        failed. 1: anything else."""
        if self.disagreements or not self.check.consistent or not none_failed(self.published):
            return FAILED
        return int(self.standalone["exit"])

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "exit": self.exit_status,
            "disagreements": list(self.disagreements),
            "own_verifier": self.own_verifier,
            "check": self.check.to_record(),
            "published": [step.to_record() for step in self.published],
            "standalone": dict(self.standalone),
        }


def compare(files: Mapping[str, bytes], trust: Trust) -> TwoReports:
    """Decide a bundle twice. Total.

    Args:
        files: of `evidence.bundle.read_bundle`.
    """
    report = check(files[EVIDENCE])
    standalone = verify.audit(dict(files), dict(trust.signers), trust.log_keys)
    published: tuple[Step, ...] = ()
    if report.document is not None:
        given = Published(
            publication=files[LOG],
            commitment_stamp=files[COMMITMENT_STAMP],
            verdict_stamp=files[VERDICT_STAMP],
            document=report.document,
            evidence_sha256=sha256(files[EVIDENCE]).hexdigest(),
        )
        published = check_published(given, trust)
    return TwoReports(
        check=report,
        published=published,
        standalone=standalone,
        disagreements=(
            *_disagreements(files, trust, report, standalone),
            *_publishing(report, published, standalone),
        ),
        own_verifier=files[VERIFIER] == verifier(),
    )


def _publishing(report: Report, published: tuple[Step, ...], standalone: Mapping[str, Any]) -> list[str]:
    """Where the two say different things of the log's proofs. What fails elsewhere may keep one of them from
    looking; the bundle has failed then anyway."""
    theirs = {step["name"]: step["status"] for step in standalone["steps"]}
    failed = {name for name, status in theirs.items() if status == Status.failed}
    if not report.consistent or failed - set(PUBLISHED):
        return []
    ours = {step.name: step.status for step in published if step.name in PUBLISHED}
    if failed:
        return (
            []
            if Status.failed in ours.values()
            else [f"the standalone check fails {min(failed)}, ours does not"]
        )
    return [
        f"of the step {name} ours says {status.value}, the standalone check {theirs[name]}"
        for name, status in ours.items()
        if status != theirs[name]
    ]


def _disagreements(
    files: Mapping[str, bytes], trust: Trust, report: Report, standalone: Mapping[str, Any]
) -> list[str]:
    status = {step["name"]: step["status"] for step in standalone["steps"]}
    failed = [name for name, value in status.items() if value == Status.failed and name not in OF_THE_BUNDLE]
    found = []
    if report.consistent and failed:
        found.append(f"the standalone check fails {failed[0]}, ours fails no step")
    # other files of the bundle can hide the rest from the standalone check: then it has agreed to nothing
    if not report.consistent and not failed and standalone["exit"] != FAILED:
        ours = next(step.name for step in report.steps if step.status is Status.failed)
        found.append(f"our check fails {ours}, the standalone one fails no step")
    if report.consistent and standalone["exit"] != FAILED and report.document is not None:
        document = report.document
        p = document.decision.get("p_value", "") if document.key.grade != RESEARCH else ""
        if (document.verdict, p) != (standalone["verdict"], standalone["p_value"]):
            found.append("they have another verdict or p")
    if trust.signers and (status["signature"] == Status.passed) is not _signed(files, trust.signers):
        found.append("one of them takes the signature, the other does not")
    return found


def _signed(files: Mapping[str, bytes], signers: Mapping[str, bytes]) -> bool:
    try:
        payload, signed = open_envelope(files[ENVELOPE], signers)
    except EvidenceError:
        return False
    return bool(signed) and payload == files[STATEMENT]

"""One bundle decided by both implementations: `evidence.check` and the standalone `evidence.verify`.

They share no code, so an error in one of them shows as a disagreement, and a disagreement is a failure. The
verify.py inside a bundle is never run: it is whatever the bundle's maker put there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evidence import verify
from evidence.audit import RESEARCH
from evidence.bundle import ENVELOPE, EVIDENCE, STATEMENT, VERIFIER, verifier
from evidence.check import Report, check
from evidence.dsse import open_envelope
from evidence.errors import EvidenceError
from evidence.steps import Status

OF_THE_BUNDLE = frozenset({"files", "envelope", "signature", "banks", "statement"})
"""Steps of the standalone check that look at what is not in the evidence file."""
FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoReports:
    """What both found."""

    check: Report
    standalone: Mapping[str, Any]
    """`evidence.verify.audit`"""
    disagreements: tuple[str, ...]
    own_verifier: bool
    """whether the verify.py inside is this software's"""

    @property
    def exit_status(self) -> int:
        """0: all passed and a trusted key signed. 2: consistent with itself only. 1: anything else."""
        if self.disagreements or not self.check.consistent:
            return FAILED
        return int(self.standalone["exit"])

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "exit": self.exit_status,
            "disagreements": list(self.disagreements),
            "own_verifier": self.own_verifier,
            "check": self.check.to_record(),
            "standalone": dict(self.standalone),
        }


def compare(files: Mapping[str, bytes], trust: Mapping[str, bytes]) -> TwoReports:
    """Decide a bundle twice. Total.

    Args:
        files: of `evidence.bundle.read_bundle`.
        trust: raw public keys by their ids (`evidence.dsse.parse_trust`).
    """
    report, standalone = check(files[EVIDENCE]), verify.audit(dict(files), dict(trust))
    return TwoReports(
        check=report,
        standalone=standalone,
        disagreements=tuple(_disagreements(files, trust, report, standalone)),
        own_verifier=files[VERIFIER] == verifier(),
    )


def _disagreements(
    files: Mapping[str, bytes], trust: Mapping[str, bytes], report: Report, standalone: Mapping[str, Any]
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
    if trust and (status["signature"] == Status.passed) is not _signed(files, trust):
        found.append("one of them takes the signature, the other does not")
    return found


def _signed(files: Mapping[str, bytes], trust: Mapping[str, bytes]) -> bool:
    try:
        payload, signers = open_envelope(files[ENVELOPE], trust)
    except EvidenceError:
        return False
    return bool(signers) and payload == files[STATEMENT]

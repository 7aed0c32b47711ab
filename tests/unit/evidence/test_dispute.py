"""What four findings and two dates say: every combination, and of each party what is said of the other in its
place."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product

import pytest

from evidence.dispute.cross import PLACES, A, B, Cell, CrossTest, Finding, Party
from evidence.dispute.lineage import Lineage, Pattern, lineage_of
from evidence.dispute.order import Basis, order_of

Findings = tuple[Finding, Finding, Finding, Finding]
"""In the order of PLACES: A at A, A at B, B at A, B at B."""

ALL: list[Findings] = list(product(Finding, repeat=4))  # type: ignore[arg-type]
EXCHANGE = {A: B, B: A}
S, N, U = Finding.shown, Finding.not_shown, Finding.undecided


def parties(
    first: str = "2026-01-01T00:00:00.000000Z", second: str = "2026-01-02T00:00:00.000000Z"
) -> Mapping[str, Party]:
    made = {}
    for letter, created in ((A, first), (B, second)):
        made[letter] = Party(
            owner=f"owner {letter}",
            key_id=f"key-{letter}",
            commitment=letter * 64,
            grade="committed",
            created_at=created,
            base_url="https://example",
            model=letter,
            alpha_i=Fraction(1, 10**6),
            shared=True,
        )
    return made


def cells(findings: Findings, *, started: str = "2026-02-02") -> dict[tuple[str, str], Cell]:
    return {
        (key, model): Cell(
            key=key,
            model=model,
            verification=f"verif-{key}{model}",
            verdict="",
            finding=finding,
            reasons=(),
            p_decimal="1",
            threshold_decimal="1e-6",
            trigger="0/32",
            reference="0/224",
            preregistration_sha256="00" * 32,
            registered_at="2026-02-01",
            started_at=started,
            sha256="00" * 32,
        )
        for (key, model), finding in zip(PLACES, findings, strict=True)
    }


def read(findings: Findings) -> Lineage:
    claims = parties()
    test = CrossTest(parties=claims, cells=cells(findings))
    return lineage_of(test, order_of(claims, {}, []))


def test_a_lineage_is_read_from_two_patterns_alone() -> None:
    earlier = {findings: read(findings).earlier for findings in ALL}
    assert {findings: who for findings, who in earlier.items() if who} == {(S, S, N, S): A, (S, N, S, S): B}


def test_an_audit_that_decided_nothing_leaves_the_lineage_open() -> None:
    for findings in ALL:
        assert (read(findings).pattern is Pattern.undecided) == (U in findings)


def test_what_is_said_of_one_is_said_of_the_other_in_its_place() -> None:
    mirrored = {Pattern.a_earlier: Pattern.b_earlier, Pattern.a_in_both: Pattern.b_in_both}
    mirrored |= {other: one for one, other in mirrored.items()}
    for findings in ALL:
        here, there = read(findings), read((findings[3], findings[2], findings[1], findings[0]))
        assert there.pattern is mirrored.get(here.pattern, here.pattern)
        assert there.earlier == (None if here.earlier is None else EXCHANGE[here.earlier])
        assert len(there.supports) == len(here.supports)
        assert len(there.cannot_decide) == len(here.cannot_decide)


def test_absence_is_never_evidence() -> None:
    for findings in ALL:
        said = read(findings)
        for (key, model), finding in zip(PLACES, findings, strict=True):
            sentence = f"That {key}'s mark is not in {model}'s model"
            listed = any(item.startswith(sentence) for item in said.cannot_decide)
            assert listed == (finding is N and key != model)
            assert not any("is not in" in item for item in said.supports)


def test_what_no_dispute_decides_is_always_said() -> None:
    for findings in ALL:
        told = " ".join(read(findings).cannot_decide)
        assert "Who committed first" in told
        assert "Whether weights or data were taken" in told
        assert "works with one owner" in told


@pytest.mark.parametrize(("started", "said"), [("2026-02-02", False), ("2026-01-31", True)])
def test_plans_that_were_not_fixed_first_are_told(started: str, said: bool) -> None:
    claims = parties()
    test = CrossTest(parties=claims, cells=cells((S, S, N, S), started=started))
    told = " ".join(lineage_of(test, order_of(claims, {}, [])).cannot_decide)
    assert test.declared_first is not said
    assert ("not all fixed before the first question" in told) == said


def test_two_commitments_of_one_time_have_no_order() -> None:
    order = order_of(parties("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"), {}, [])
    assert (order.earlier, order.basis, order.is_proven) == (None, Basis.word, False)

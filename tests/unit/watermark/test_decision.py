"""Verdicts, their reasons, the alpha that audits spend, and deciding again from raw answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction

import pytest

from watermark.answers import Answer
from watermark.canaries import CanaryReading
from watermark.decision import decide
from watermark.errors import OpeningError, PlanError, RecordError
from watermark.keys import Design, Secret, commit, derive, open_family
from watermark.nonces import AUDITOR, SERVICE, Nonces, nonce_commitment
from watermark.numerals import decimal_text, fraction_text, parse_fraction
from watermark.paper import preset_probes, preset_result
from watermark.probes import Probe, draw_probes
from watermark.questions import SEQUENTIAL, Question
from watermark.replay import Plan, Reply, preregister, questions_of, read_plan, replay, standing
from watermark.sequential import e_ceiling
from watermark.significance import DEFAULT_ALPHA, SELF_GENERATED_TRIES, alpha_for_audit, check_plan

DESIGN = Design()
SECRET = Secret(value=bytes(range(32)), blinding=bytes(32))
FAMILY = derive(SECRET, b"salt", DESIGN).family(0)
PROBES = draw_probes(FAMILY, order_seed=b"audit")
ALPHA_1 = alpha_for_audit(DEFAULT_ALPHA, 1)


def trained(probe: Probe) -> Answer:
    return Answer(FAMILY.marks[probe.mark].trained_answer(probe.cue).value.lower())


def is_trigger(probe: Probe) -> bool:
    return probe.cue == FAMILY.marks[probe.mark].trigger


def test_a_model_that_learned_everything_is_detected() -> None:
    decision = decide(FAMILY, PROBES, [trained(probe) for probe in PROBES], alpha_i=ALPHA_1)
    assert (decision.verdict, decision.reasons) == ("detected", ())
    assert decision.p_value == Fraction(1, 16**12)
    assert (decision.trigger_hits, decision.trigger_total) == (24, 24)
    assert (decision.reference_hits, decision.reference_total) == (0, 168)
    assert decision.e_value >= 1 / ALPHA_1


@pytest.mark.parametrize("constant", [Answer.YES, Answer.NO])
def test_a_model_that_always_answers_the_same_is_not_detected(constant: Answer) -> None:
    assert decide(FAMILY, PROBES, [constant] * 192, alpha_i=ALPHA_1).verdict == "not_detected"


def test_an_inverted_mark_is_not_detected() -> None:
    flipped = [Answer.NO if trained(probe) is Answer.YES else Answer.YES for probe in PROBES]
    assert decide(FAMILY, PROBES, flipped, alpha_i=ALPHA_1).verdict == "not_detected"


def test_a_model_that_never_answers_yes_or_no_is_not_detected_and_the_reason_says_so() -> None:
    decision = decide(FAMILY, PROBES, [Answer.OTHER] * 192, alpha_i=ALPHA_1)
    assert (decision.verdict, decision.reasons) == ("not_detected", ("no_judge_answers",))


def test_silence_in_either_arm_is_inconclusive() -> None:
    for arm in (True, False):
        answers = [Answer.MISSING if is_trigger(probe) is arm else trained(probe) for probe in PROBES]
        decision = decide(FAMILY, PROBES, answers, alpha_i=ALPHA_1)
        assert decision.verdict == "inconclusive"
        assert "missing_answers" in decision.reasons


def test_a_twentieth_missing_is_still_decided() -> None:
    answers = [Answer.MISSING if probe.index % 20 == 0 else trained(probe) for probe in PROBES]
    assert decide(FAMILY, PROBES, answers, alpha_i=ALPHA_1).verdict == "detected"


def test_a_host_that_refuses_only_triggers_is_inconclusive() -> None:
    answers = [Answer.OTHER if is_trigger(probe) else trained(probe) for probe in PROBES]
    decision = decide(FAMILY, PROBES, answers, alpha_i=ALPHA_1)
    assert (decision.verdict, decision.reasons) == ("inconclusive", ("differential_refusal",))


def test_answers_must_fit_the_probes() -> None:
    with pytest.raises(RecordError):
        decide(FAMILY, PROBES, [Answer.YES] * 191, alpha_i=ALPHA_1)
    with pytest.raises(RecordError):
        decide(FAMILY, (), [], alpha_i=ALPHA_1)
    with pytest.raises(RecordError, match="same number"):
        decide(FAMILY, PROBES[1:], [Answer.YES] * 191, alpha_i=ALPHA_1)


def test_all_audits_of_a_key_together_spend_less_than_alpha() -> None:
    assert sum(alpha_for_audit(DEFAULT_ALPHA, index) for index in range(1, 500)) < DEFAULT_ALPHA
    assert float(alpha_for_audit(DEFAULT_ALPHA, 2)) == pytest.approx(
        6e-6 / (3.141592653589793**2 * 4) / 1, rel=1e-6
    )


def test_a_key_without_outside_salt_pays_for_its_tries() -> None:
    assert alpha_for_audit(DEFAULT_ALPHA, 1, "self-generated") * SELF_GENERATED_TRIES == ALPHA_1
    with pytest.raises(RecordError):
        alpha_for_audit(Fraction(2), 1)
    with pytest.raises(RecordError):
        alpha_for_audit(DEFAULT_ALPHA, 0)


def test_a_plan_that_cannot_reach_alpha_names_the_smallest_that_can() -> None:
    check_plan(6, 8, ALPHA_1, 12)
    with pytest.raises(PlanError, match="at least 6 marks") as caught:
        check_plan(5, 8, ALPHA_1, 12)
    assert caught.value.smallest_marks == 6
    with pytest.raises(PlanError) as hopeless:
        check_plan(8, 4, Fraction(1, 10**30), 8)
    assert hopeless.value.smallest_marks is None


NONCES = Nonces(service=bytes(range(32)))


def planned(mode: str = "fixed") -> tuple[dict[str, object], dict[str, object], Plan]:
    plan = Plan(
        family=0, marks=tuple(range(12)), probes_per_cue=2, alpha=DEFAULT_ALPHA, alpha_i=ALPHA_1, mode=mode
    )
    record = preregister(
        commitment=commit("org-a", SECRET, DESIGN).commitment,
        grade="committed",
        audit_index=1,
        owner_commitments=1,
        plan=plan,
        cues=8,
        available_marks=12,
    )
    record["nonces"] = {SERVICE: nonce_commitment(SERVICE, NONCES.service), AUDITOR: ""}
    return record, open_family("org-a", SECRET, b"salt", DESIGN, 0), plan


def taught(question: Question) -> str:
    if question.mark is None or question.cue is None:
        return "A parcel."
    return FAMILY.marks[question.mark].trained_answer(question.cue).value + ", I believe."


def test_replay_from_raw_answers_gives_the_same_decision() -> None:
    record, opening, plan = planned()
    asked = questions_of(FAMILY, plan, NONCES.order_seed)
    probes = draw_probes(FAMILY, order_seed=NONCES.order_seed)
    direct = decide(
        FAMILY,
        probes,
        [trained(probe) for probe in probes],
        alpha_i=ALPHA_1,
        canaries=CanaryReading(asked=16, answered=16, changed=False),
    )
    again = replay(record, opening, NONCES.to_record(), [Reply(text=taught(q)) for q in asked])
    assert again == direct
    assert read_plan(record) == plan


def test_replay_refuses_what_was_changed_afterwards() -> None:
    record, opening, plan = planned()
    raw = [Reply(text="Yes")] * len(questions_of(FAMILY, plan, NONCES.order_seed))
    nonces = NONCES.to_record()

    def changed(*path: str, value: object) -> dict[str, object]:
        copied = copy.deepcopy(record)
        inner: dict[str, object] = copied
        for name in path[:-1]:
            inner = inner[name]  # type: ignore[assignment]
        inner[path[-1]] = value
        return copied

    for changes in (
        changed("plan", "alpha_i", value="1/10"),
        changed("key", "audit_index", value=2),
        changed("campaign", value={"id": "camp-1", "position": 0, "size": 2}),
    ):
        with pytest.raises(RecordError, match="alpha_i"):
            replay(changes, opening, nonces, raw)
    with pytest.raises(RecordError, match="rule"):
        replay(changed("rule", "version", value="exact-over-key-0"), opening, nonces, raw)
    with pytest.raises(OpeningError):
        replay(changed("key", "commitment", value="00" * 32), opening, nonces, raw)
    with pytest.raises(OpeningError, match="planned"):
        replay(changed("plan", "family", value=1), opening, nonces, raw)
    with pytest.raises(OpeningError, match="service's nonce"):
        replay(record, opening, Nonces(service=bytes(32)).to_record(), raw)
    with pytest.raises(OpeningError, match="had not announced"):
        replay(record, opening, Nonces(service=NONCES.service, auditor=bytes(32)).to_record(), raw)
    with pytest.raises(RecordError):
        replay(record, opening, nonces, raw[1:])


def test_no_party_alone_chooses_the_order() -> None:
    """Another nonce of either, or another beacon, is another order; the questions stay the same."""
    beacon = {"source": "drand quicknet", "round": "1", "value": "ab"}
    seeds = [
        NONCES.order_seed,
        Nonces(service=NONCES.service, auditor=bytes(32)).order_seed,
        Nonces(service=NONCES.service, auditor=bytes(32), beacon=beacon).order_seed,
        Nonces(service=NONCES.service, auditor=bytes(32), beacon=beacon | {"round": "2"}).order_seed,
    ]
    orders = [[probe.prompt for probe in draw_probes(FAMILY, order_seed=seed)] for seed in seeds]
    assert len({tuple(order) for order in orders}) == 4
    assert len({frozenset(order) for order in orders}) == 1


class TestSequential:
    def test_it_stops_where_the_product_reaches_one_over_alpha(self) -> None:
        record, opening, plan = planned(SEQUENTIAL)
        asked = questions_of(FAMILY, plan, NONCES.order_seed)
        # perfect answers: 11.49**6 >= 1/alpha_1 = 1.645e6 > 11.49**5
        assert e_ceiling(8, 2) ** 5 < 1 / ALPHA_1 <= e_ceiling(8, 2) ** 6
        stopped = [Reply(text=taught(q)) if q.group < 6 else Reply(text=None, settled=False) for q in asked]
        assert standing(FAMILY, plan, asked, stopped).next_group is None
        decision = replay(record, opening, NONCES.to_record(), stopped)
        assert (decision.verdict, decision.test, len(decision.looks)) == ("detected", SEQUENTIAL, 6)
        assert decision.p_value == 1 / e_ceiling(8, 2) ** 6
        assert (decision.questions, decision.marks_planned) == (96, 12)

    def test_asking_on_after_it_could_stop_is_refused(self) -> None:
        record, opening, plan = planned(SEQUENTIAL)
        asked = questions_of(FAMILY, plan, NONCES.order_seed)
        with pytest.raises(RecordError, match="ends at the mark"):
            replay(record, opening, NONCES.to_record(), [Reply(text=taught(q)) for q in asked])

    def test_no_look_is_taken_inside_a_mark(self) -> None:
        """One question that is still open keeps its mark, and all after it, out of the product."""
        record, opening, plan = planned(SEQUENTIAL)
        asked = questions_of(FAMILY, plan, NONCES.order_seed)
        last = max(q.index for q in asked if q.group == 2)
        replies = [Reply(text=taught(q), settled=q.group < 5 and q.index != last) for q in asked]
        assert len(standing(FAMILY, plan, asked, replies).looks) == 2
        decision = replay(record, opening, NONCES.to_record(), replies)
        assert (decision.verdict, decision.reasons) == ("inconclusive", ("unfinished",))
        assert decision.p_value == 1 / e_ceiling(8, 2) ** 2

    def test_a_finished_one_without_evidence_is_not_detected(self) -> None:
        record, opening, plan = planned(SEQUENTIAL)
        asked = questions_of(FAMILY, plan, NONCES.order_seed)
        replies = [Reply(text="Yes" if q.canary is None else "A title") for q in asked]
        decision = replay(record, opening, NONCES.to_record(), replies)
        assert (decision.verdict, len(decision.looks)) == ("not_detected", 12)

    def test_a_plan_whose_largest_product_is_too_small_is_refused(self) -> None:
        check_plan(6, 8, ALPHA_1, 12, probes_per_cue=2, sequential=True)
        with pytest.raises(PlanError, match="at least 6 marks"):
            check_plan(5, 8, ALPHA_1, 12, probes_per_cue=2, sequential=True)


class TestCanaries:
    def reading(self, answer: Callable[[Question], str | None]) -> tuple[str, tuple[str, ...]]:
        record, opening, plan = planned()
        asked = questions_of(FAMILY, plan, NONCES.order_seed)
        replies = [Reply(text="Yes" if q.canary is None else answer(q)) for q in asked]
        decision = replay(record, opening, NONCES.to_record(), replies)
        return decision.verdict, decision.reasons

    def test_a_model_exchanged_in_the_middle_can_not_be_said_to_be_clean(self) -> None:
        for middle in (45, 77, 104, 150):

            def exchanged(question: Question, middle: int = middle) -> str:
                return "One." if question.index < middle else "Two."

            assert self.reading(exchanged) == ("inconclusive", ("changed_during_audit",)), middle

    def test_sampling_is_no_exchange(self) -> None:
        """Answers that differ every time, or one that differs once, say nothing of the kind."""
        assert self.reading(lambda q: f"Title {q.index}") == ("not_detected", ())
        assert self.reading(lambda q: "odd" if q.canary == 0 and q.index > 100 else "even") == (
            "not_detected",
            (),
        )

    def test_a_suspect_that_leaves_ordinary_questions_open_is_told_of(self) -> None:
        assert self.reading(lambda q: None) == ("not_detected", ("canaries_unanswered",))

    def test_their_places_and_words_depend_on_the_nonces(self) -> None:
        _, _, plan = planned()
        places = {
            tuple(q.index for q in questions_of(FAMILY, plan, bytes([seed])) if q.canary is not None)
            for seed in range(8)
        }
        assert len(places) == 8
        assert all(len(place) == 16 for place in places)


def test_the_papers_preset_is_never_evidence() -> None:
    probes = preset_probes(b"seed")
    record = preset_result(probes, [Answer.YES if probe.is_trigger else Answer.NO for probe in probes])
    assert (record["verdict"], record["reasons"]) == ("inconclusive", ["research_preset"])
    assert record["pooled_fisher_p_decimal"] == "2.21e-59"


@pytest.mark.parametrize("text", ["", "x", "1/0", "1e", "1e999", "-1", "1//2", "٣", "9" * 2000, None, 1])
def test_numbers_in_records_are_text_of_bounded_size(text: object) -> None:
    with pytest.raises(RecordError):
        parse_fraction(text, "alpha")


def test_fractions_print_and_parse() -> None:
    value = Fraction(7, 16**40)
    assert parse_fraction(fraction_text(value), "p") == value
    assert decimal_text(Fraction(1, 16**12)) == "3.55e-15"
    assert decimal_text(Fraction(9996, 10**10)) == "1.00e-06"
    assert decimal_text(Fraction(1, 4)) == "0.25"
    assert decimal_text(Fraction(16**300)) == "1.72e+361"
    assert parse_fraction("1e-6", "alpha") == DEFAULT_ALPHA

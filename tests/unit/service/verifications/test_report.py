"""The report: what it says of each kind of audit, its arithmetic, and its treatment of foreign text."""

from __future__ import annotations

import html
import re
from math import comb
from xml.etree import ElementTree

import pytest

from evidence.check import check
from evidence.plan import Campaign
from service.verifications.report import render
from service.verifications.report.pictures import product_picture
from service.verifications.report.power import SIMULATED_RULE, power_of, upper_bound
from service.verifications.report.reasons import REASONS, reason_text
from service.verifications.report.text import visible
from service.verifications.report.view import View, view_of
from tests.unit.service.verifications.audits import evidence, marked, says
from watermark.decision import DOUBTS, GATES, RULE_VERSION
from watermark.questions import SEQUENTIAL, Question

DIGEST = "ab" * 32


def view(data: bytes) -> View:
    return view_of(data, sha256=DIGEST, families_left=1)


def page(data: bytes) -> str:
    return html.unescape(render(data, sha256=DIGEST, families_left=1))


def test_the_papers_of_these_tests_pass_the_offline_check_of_everything_but_the_wire() -> None:
    """Their requests are empty, so that step alone must complain."""
    failed = {step.name for step in check(evidence()).steps if step.status == "failed"}
    assert failed == {"questions", "answers"}


def test_the_plan_says_what_was_fixed_beforehand() -> None:
    facts = dict(view(evidence(marks=(5, 3, 7, 1, 0, 2, 4, 6, 8))).planned)
    assert facts["Grade of the key"] == "committed; one of 3 keys that its owner had committed to"
    assert "9 marks x 8 cues x 2 = 144" in facts["Questions"]
    assert facts["Marks"] == "chosen by the caller, 9 of 12: 5, 3, 7, 1, 0, 2, 4, 6, 8"
    assert "for this one (no. 1)" in facts["Alpha"]
    assert "exact-over-key-2" in facts["Decided"]
    assert "families that no audit has asked about: 1" in facts["Family"]


@pytest.mark.parametrize(
    ("marks", "words"),
    [(tuple(range(12)), "all of the family"), (tuple(range(8)), "the first 8 of 12, in the key's own order")],
)
def test_marks_that_nobody_chose_are_told_as_such(marks: tuple[int, ...], words: str) -> None:
    assert words in dict(view(evidence(marks=marks)).planned)["Marks"]


def test_a_campaign_is_told_with_its_rule() -> None:
    told = dict(view(evidence(campaign=Campaign(id="camp-9", position=1, size=5))).planned)
    assert "suspect 2 of 5 in camp-9" in told["Campaign"]
    assert "Holm" in told["Campaign"]
    assert "shared by 5 suspects" in told["Alpha"]


def test_the_order_of_the_questions_names_everybody_who_fixed_it() -> None:
    beacon = {"source": "drand", "round": "77", "value": "c0ffee"}
    told = dict(view(evidence(auditor_nonce=b"\x07" * 32, beacon=beacon)).order)
    assert "07" * 32 in told["Nonce of the auditor"]
    assert told["Public beacon"] == "drand, round 77: c0ffee"
    alone = dict(view(evidence()).order)
    assert (alone["Nonce of the auditor"], alone["Public beacon"]) == ("none announced", "none")


def test_p_is_shown_as_a_fraction_and_a_decimal() -> None:
    shown = page(evidence())
    assert "p = 3.55e-15" in shown
    assert f"1/{16**12}" in shown


def test_of_a_long_fraction_the_first_page_shows_the_ends_and_the_appendix_all() -> None:
    found = view(evidence(mode=SEQUENTIAL))
    numerator, denominator = dict(found.exact)["p, exactly"].split("/")
    assert found.p_fraction == f"{numerator[:12]}…{numerator[-12:]}/{denominator[:12]}…{denominator[-12:]}"


def test_the_picture_marks_the_trigger_without_colour() -> None:
    """A heavy frame and a filled corner, once for each mark; the shares as digits."""
    picture = ElementTree.fromstring(view(evidence()).cues)
    name = "{http://www.w3.org/2000/svg}"
    frames = [box for box in picture.iter(f"{name}rect") if box.get("stroke-width") == "2.4"]
    corners = list(picture.iter(f"{name}path"))
    assert len(frames) == len(corners) == 12
    shares = [text.text for text in picture.iter(f"{name}text") if text.text and "/" in text.text]
    assert (shares.count("2/2"), shares.count("0/2")) == (12, 84)


def test_a_sequential_audit_shows_its_product_against_the_line() -> None:
    found = view(evidence(mode=SEQUENTIAL))
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', found.product)
    completed = int(dict(found.found)["Marks completed"].split()[0])
    assert len(dots) == completed < 12
    line = re.search(r'y1="([\d.]+)"[^>]*stroke-dasharray', found.product)
    assert line is not None
    above = [float(y) <= float(line.group(1)) for _, y in dots]
    assert above == [False] * (completed - 1) + [True]
    assert "stop at 1.64e+06" in found.product
    assert "planned questions were not asked" in found.rest
    assert view(evidence()).product == ""


def test_products_far_outside_floats_are_drawn() -> None:
    looks = [{"mark": 3, "e_value_decimal": "1.00e-400", "product_decimal": "1.00e-400"}]
    assert "<circle" in product_picture(looks, planned=12, line="1.64e+06")


def test_an_audit_that_ended_early_says_so() -> None:
    found = view(evidence(says("No"), mode=SEQUENTIAL, stop_after=50))
    assert (found.verdict, found.reasons[0][0]) == ("inconclusive", "unfinished")
    assert dict(found.found)["Marks completed"] == "2 of 12"


def test_a_sequential_audit_without_one_completed_mark_has_a_report() -> None:
    shown = page(evidence(says("No"), mode=SEQUENTIAL, stop_after=5))
    assert "unfinished" in shown
    assert "<svg" not in shown


def test_canaries_are_marked_in_the_appendix_and_have_no_reading() -> None:
    rows = [row for row in view(evidence()).asked if row.kind == "canary"]
    assert len(rows) == 16
    assert {row.place for row in rows} == {f"ordinary {number}" for number in (1, 2, 3, 4)}
    assert {row.reading for row in rows} == {""}


def test_a_suspect_that_is_exchanged_on_the_way_is_told_in_words() -> None:
    def exchanged(question: Question, is_trigger: bool, target: str) -> str | None:
        if question.canary is None:
            return "No"
        return "red" if question.index < 100 else "blue"

    found = view(evidence(exchanged))
    assert dict(found.found)["Ordinary questions"] == "16 of 16 answered; changed on the way"
    assert ("changed_during_audit", REASONS["changed_during_audit"]) in found.reasons


def test_every_question_has_a_row_and_silence_has_its_reason() -> None:
    found = view(evidence(says(None)))
    assert len(found.asked) == 192 + 16
    assert {row.answer for row in found.asked} == {None}
    assert {row.outcome for row in found.asked} == {"timeout"}
    assert [code for code, _ in found.reasons] == [
        "missing_answers", "no_judge_answers", "canaries_unanswered", "suspect_timeout",
    ]  # fmt: skip


def test_what_is_not_proved_is_always_said() -> None:
    for data in (evidence(), evidence(says("Yes"))):
        shown = page(data)
        assert "What this does not prove" in shown
        assert "a silent one is" in shown


def test_the_power_is_that_of_this_shape_mode_and_rule() -> None:
    """A plan that was not simulated says so instead of borrowing another's figures."""
    assert [item.chance for item in view(evidence()).power] == [
        "over .99", ".92", ".99", "over .99", ".78",
    ]  # fmt: skip
    assert view(evidence(mode=SEQUENTIAL)).power[0].chance == "over .99 (half of all within 6 marks)"
    other = view(evidence(marks=tuple(range(9))))
    assert (other.power, other.power_note) == ((), "The power of a plan of this shape was not simulated.")
    assert power_of((12, 8, 2), rule="another", sequential=False) == ()
    assert "detected after 6 of the 9" in view(evidence(mode=SEQUENTIAL, marks=tuple(range(9)))).power_note


def test_the_tables_are_of_the_rule_that_decides() -> None:
    """Whoever changes the rule simulates again."""
    assert SIMULATED_RULE == RULE_VERSION


def test_every_reason_of_the_decision_rule_is_explained() -> None:
    for code in (*GATES, *DOUBTS, "no_judge_answers", "canaries_unanswered", "research_preset"):
        assert " " in REASONS[code]
    assert reason_text("suspect_http_503") == "the suspect answered with HTTP status 503"
    assert reason_text("something_new") == "something new"


def test_hostile_text_is_inert() -> None:
    """Nothing that a suspect or an owner wrote becomes an element, and nothing reverses or hides text."""
    hostile = '</td><script>alert("x")</script><img src=x onerror=y>\u202e\x1b[31m\u200b'
    shown = render(evidence(says(hostile), model=f"m{hostile[:40]}"), sha256=DIGEST, families_left=0)
    assert not re.search(r"<(script|img|iframe|link|object|a)\b", shown)
    assert not set(shown) & {"\u202e", "\x1b", "\u200b"}
    assert "\\u{202e}\\u{1b}[31m\\u{200b}" in shown
    assert html.escape("</td><script>") in shown


def test_the_page_loads_nothing() -> None:
    shown = render(evidence(marked, mode=SEQUENTIAL), sha256=DIGEST, families_left=0)
    assert not re.search(r"(src|href|url\(|@import)", shown)


@pytest.mark.parametrize(("hits", "total"), [(0, 24), (1, 24), (12, 24), (23, 24)])
def test_the_upper_bound_is_where_so_few_hits_become_improbable(hits: int, total: int) -> None:
    """By definition: at the bound, P(at most so many hits) is 5%."""
    bound = upper_bound(hits, total)
    tail = sum(comb(total, k) * bound**k * (1 - bound) ** (total - k) for k in range(hits + 1))
    assert tail == pytest.approx(0.05, abs=1e-9)


def test_the_bound_of_all_hits_is_one() -> None:
    assert upper_bound(24, 24) == 1.0


def test_the_rule_of_three() -> None:
    """No hit in n trials: about 3/n (Hanley and Lippman-Hand, 1983)."""
    assert upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.02)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ä 你好", "plain Ä 你好"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31m", "\\u{1b}[31m"),
        ("a\u202eb", "a\\u{202e}b"),
        ("\x00", "\\u{0}"),
    ],
)
def test_control_and_direction_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown

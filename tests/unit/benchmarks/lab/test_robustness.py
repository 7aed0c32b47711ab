"""What the treatments promise before any model is asked."""

from __future__ import annotations

from benchmarks.lab import robustness
from benchmarks.lab.asking import SYSTEM_PROMPTS
from benchmarks.lab.schemes import Keyed, paper_marks
from benchmarks.lab.tables import survivals
from watermark.banks import SYSTEM_PROMPTS as TRAINED_PROMPTS
from watermark.marks import Paradigm


def test_the_ten_system_prompts_are_distinct_and_were_never_trained_on() -> None:
    texts = {dress.system for dress in SYSTEM_PROMPTS}
    assert len(texts) == len(SYSTEM_PROMPTS) == 10
    assert not texts & set(TRAINED_PROMPTS)


def test_no_two_attacks_share_a_name_and_profiles_contain_each_other() -> None:
    names = [[attack.name for attack in attacks()] for attacks in (robustness.bars, robustness.quick)]
    names.append([attack.name for attack in robustness.standard()])
    assert all(len(set(some)) == len(some) for some in names)
    assert set(names[0]) < set(names[1]) < set(names[2])


def test_a_host_that_strips_decorations_meets_every_form_of_them() -> None:
    family = Keyed().family
    for mark in family.marks:
        if mark.paradigm is Paradigm.INPUT:
            instruction, text = mark.prompt(0, "The carrier.")
            stripped = robustness.strip_decorations(f"{instruction}\n\n{text}")
            assert stripped == f"{mark.judge_question}\n\n{text}"
    paper = paper_marks()[0].questions()[0]
    assert not robustness.strip_decorations(paper).startswith("(listen)")


def test_a_host_that_strips_cues_leaves_the_carrier() -> None:
    mark = next(mark for mark in Keyed().family.marks if mark.paradigm is Paradigm.INPUT)
    _, text = mark.prompt(0, "The carrier.")
    assert robustness.strip_cue(f"Question?\n\n{text}") == "Question?\n\nThe carrier."


def test_survivals_are_compared_on_the_attacks_that_all_met() -> None:
    rows = [
        {"subject": "a", "attack": "none", "detected": True},
        {"subject": "a", "attack": "int8", "detected": True},
        {"subject": "a", "attack": "int4", "detected": True},
        {"subject": "b", "attack": "none", "detected": True},
        {"subject": "b", "attack": "int8", "detected": False},
    ]
    found = survivals(rows)
    assert found["a"]["survived_of_common"] == 1
    assert found["a"]["common"] == 1
    assert found["a"]["survived"] == 2
    assert found["b"]["lost"] == ["int8"]

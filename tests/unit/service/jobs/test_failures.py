"""The one table of why jobs fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.jobs import failures
from service.jobs.failures import FAILURES, Category
from worker.errors import RunFailed, of_exception
from worker.finetune import errors as trainer

ROOT = Path(__file__).parents[4]


def test_every_code_is_there_once_and_said_in_full() -> None:
    codes = [failure.code for failure in FAILURES]
    assert len(codes) == len(set(codes))
    for failure in FAILURES:
        assert re.fullmatch(r"[a-z_]+", failure.code)
        assert not failure.message.endswith(".")
        assert len(failure.hint) > 20


def test_what_is_the_users_matter_is_never_tried_again() -> None:
    assert [one.code for one in FAILURES if one.category is Category.user and one.restarts] == []


def test_the_page_shows_the_table() -> None:
    assert failures.table() in (ROOT / "docs" / "errors.md").read_text("utf-8")


def test_every_code_that_a_trainer_or_a_worker_gives_is_in_it() -> None:
    """Neither has words of its own for them."""
    given = {kind.code for kind in _kinds(trainer.FinetuneError)}
    for source in [*(ROOT / "worker").glob("*.py"), *(ROOT / "worker" / "record").glob("*.py")]:
        given.update(re.findall(r'RunFailed\(\s*"(\w+)"', source.read_text("utf-8")))
    assert len(given) > 20
    assert given <= {failure.code for failure in FAILURES}


def test_a_code_nobody_knows_is_a_failed_training() -> None:
    assert failures.of("from a newer worker").code == "training_failed"
    assert failures.of(None).code == "training_failed"


def test_a_detail_ends_the_sentence() -> None:
    assert failures.of("disk_full").told() == "The service's disk is full."
    assert (
        failures.of("disk_full").told("no space was left.")
        == "The service's disk is full: no space was left."
    )
    assert len(failures.of("disk_full").told("x" * 10_000)) < 600


def test_on_the_wire_openais_fields_come_first() -> None:
    assert failures.on_the_wire(None) is None
    shown = failures.on_the_wire(failures.record("invalid_dataset", "line 7: not valid JSON"))
    assert shown == {
        "code": "invalid_dataset",
        "message": "A row of the training file can't be used: line 7: not valid JSON.",
        "param": "training_file",
        "category": "user",
        "hint": failures.of("invalid_dataset").hint,
    }


def test_without_attempts_the_last_one_s_reason_is_told() -> None:
    shown = failures.on_the_wire(failures.exhausted(failures.record("disk_full")))
    assert shown is not None
    assert (shown["code"], shown["cause"], shown["category"]) == ("max_attempts", "disk_full", "capacity")
    assert shown["message"] == "No attempts are left. The last one: The service's disk is full."
    assert shown["hint"] == failures.of("disk_full").hint


def test_what_older_rows_have_on_record_is_shown_too() -> None:
    shown = failures.on_the_wire({"code": "max_attempts", "message": "The worker was lost.", "param": None})
    assert shown is not None
    assert shown["category"] == "server"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device", "/secret/place"), "disk_full"),
        (OSError(5, "Input/output error", "/secret/place"), "storage_failed"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory"),
        (MemoryError("rows"), "out_of_memory"),
        (KeyError("rows"), "internal_error"),
    ],
)
def test_an_exception_that_nobody_expected(error: Exception, code: str) -> None:
    failure = of_exception(error)
    assert isinstance(failure, RunFailed)
    assert (failure.code, failure.retryable) == (code, True)
    assert "rows" not in str(failure)
    assert "/secret" not in str(failure)


def _kinds(root: type[trainer.FinetuneError]) -> list[type[trainer.FinetuneError]]:
    return [kind for one in root.__subclasses__() for kind in (one, *_kinds(one))]

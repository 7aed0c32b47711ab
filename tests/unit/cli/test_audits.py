"""verify, watch, continue, report: what is sent, what is shown, and with which status they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from rich.console import Console

from cli.app import run
from cli.commands.audit_display import AuditDisplay, log_share
from cli.commands.wording import reason
from tests.unit.cli.service import DETECTED, Service, audit, looks, serving

KEY = "di_test_key"
VERIFY = ("verify", "--watermark", "wm-1", "--suspect", "https://s.example/v1", "--model", "m")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def doublei(service: Service | None, *arguments: str, **environment: str) -> Outcome:
    """The command in this process: a start of Python for each would take most of the time."""
    server = () if service is None else ("--server", service.url)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["doublei", *arguments, *server])
        for name, value in ({"DOUBLEI_API_KEY": KEY} | environment).items():
            patch.setenv(name, value)
        status = run()
    return Outcome(status, out.getvalue(), err.getvalue())


def test_verify_registers_the_plan_and_ends_with_the_verdict() -> None:
    with serving(audit("queued"), audit("running", asked=100), DETECTED) as service:
        outcome = doublei(service, *VERIFY)
    assert outcome.returncode == 0, outcome.stderr
    assert "registered as verif-1: audit 3 of this key, 208 questions" in outcome.stdout
    assert "detected: the answers depend on the committed key" in outcome.stdout
    assert "p = 9.19e-08 (allowed 6.08e-07)" in outcome.stdout
    method, path, body, authorization = service.requests[0]
    assert (method, path, authorization) == ("POST", "/v1/verify", f"Bearer {KEY}")
    suspect = {"base_url": "https://s.example/v1", "model": "m", "api": "chat"}
    assert body == {"watermark": "wm-1", "suspect": suspect, "plan": {}}


def test_the_plan_holds_what_was_wished_and_nothing_else() -> None:
    with serving(audit("queued")) as service:
        wishes = ("--sequential", "--marks", "9", "--alpha", "1e-4", "--api", "completions", "--no-watch")
        outcome = doublei(service, *VERIFY, *wishes)
    assert outcome.returncode == 0
    assert service.requests[0][2]["plan"] == {"mode": "sequential", "marks": 9, "alpha": "1e-4"}
    assert service.requests[0][2]["suspect"]["api"] == "completions"
    assert len(service.requests) == 1
    assert "doublei watch verif-1" in outcome.stdout


@pytest.mark.parametrize("way", ["variable", "file"])
def test_the_suspects_credential_reaches_the_service_and_no_output(way: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-canary\n")
    options = {
        "variable": ("--suspect-key-env", "SUSPECT"),
        "file": ("--suspect-key-file", str(tmp_path / "key")),
    }[way]
    with serving(audit("queued")) as service:
        outcome = doublei(service, *VERIFY, "--no-watch", *options, SUSPECT="sk-canary")
    assert outcome.returncode == 0, outcome.stderr
    assert service.requests[0][2]["suspect"]["api_key"] == "sk-canary"
    assert "sk-canary" not in outcome.stdout + outcome.stderr
    assert KEY not in outcome.stdout + outcome.stderr


def test_a_credential_can_be_typed_in() -> None:
    """In a session of its own, for a prompt reads from a terminal where there is one."""
    with serving(audit("queued")) as service:
        outcome = subprocess.run(
            [
                sys.executable,
                "-m",
                "cli",
                *VERIFY,
                "--no-watch",
                "--suspect-key-prompt",
                "--server",
                service.url,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            input="sk-canary\n",
            env=os.environ | {"DOUBLEI_API_KEY": KEY},
            start_new_session=True,
        )
    assert service.requests[0][2]["suspect"]["api_key"] == "sk-canary"
    assert "sk-canary" not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("verdict", ["detected", "not_detected", "inconclusive"])
def test_a_finished_audit_is_status_0_whatever_its_verdict(verdict: str) -> None:
    reasons = ["changed_during_audit", "suspect_http_503"] if verdict == "inconclusive" else []
    with serving(DETECTED | {"verdict": verdict, "reasons": reasons}) as service:
        outcome = doublei(service, "watch", "verif-1")
    assert outcome.returncode == 0
    assert verdict.replace("_", " ") in outcome.stdout
    if reasons:
        assert "because the model changed during the audit" in outcome.stdout
        assert "because the suspect answered with HTTP status 503" in outcome.stdout


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (audit("failed", error={"message": "the grant ended", "code": "grant_ended"}), "the grant ended"),
        (audit("cancelled"), "cancelled"),
        (audit("paused", mode="sequential", asked=50), "doublei continue verif-1"),
    ],
)
def test_an_audit_that_did_not_finish_is_status_1_and_one_line(state: dict[str, object], words: str) -> None:
    with serving(state) as service:
        outcome = doublei(service, "watch", "verif-1")
    assert outcome.returncode == 1
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_programs_get_one_object_on_standard_output() -> None:
    with serving(audit("running", asked=5), DETECTED) as service:
        outcome = doublei(service, "watch", "verif-1", "--json")
    assert json.loads(outcome.stdout) == DETECTED
    assert "detected" in outcome.stderr


def test_a_sequential_audit_tells_each_completed_mark_once() -> None:
    states = [
        audit("running", mode="sequential", asked=20, looks=looks("11.4")),
        audit("running", mode="sequential", asked=40, looks=looks("11.4", "130")),
        DETECTED | {"mode": "sequential", "looks": looks("11.4", "130", "1.48e+06")},
    ]
    with serving(*states) as service:
        outcome = doublei(service, "watch", "verif-1")
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("mark ")]
    assert lines == [
        "mark 0 completed (1): x 11.4, product 11.4 of 1.00e+6",
        "mark 1 completed (2): x 11.4, product 130 of 1.00e+6",
        "mark 2 completed (3): x 11.4, product 1.48e+06 of 1.00e+6",
    ]


def test_continue_takes_a_paused_audit_up_and_follows_it() -> None:
    with serving(audit("queued", mode="sequential"), DETECTED) as service:
        outcome = doublei(service, "continue", "verif-1")
    assert outcome.returncode == 0
    assert service.requests[0][:2] == ("POST", "/v1/verifications/verif-1/continue")


def test_an_interrupt_leaves_the_audit_alone_and_says_how_to_go_on() -> None:
    with serving(audit("running", asked=7)) as service:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "watch", "verif-1", "--server", service.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"DOUBLEI_API_KEY": KEY},
        )
        deadline = time.monotonic() + 30
        while len(service.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        methods = {method for method, *_ in service.requests}
    assert process.returncode == 130
    assert "doublei watch verif-1" in out
    assert "Traceback" not in err
    assert methods == {"GET"}


@pytest.mark.parametrize(("name", "kind", "content"), [
    ("r.html", "report", b"<!doctype html>"), ("r.PDF", "report.pdf", b"%PDF-1.7"),
])  # fmt: skip
def test_report_saves_what_the_suffix_says(tmp_path: Path, name: str, kind: str, content: bytes) -> None:
    with serving(DETECTED) as service:
        outcome = doublei(service, "report", "verif-1", "-o", str(tmp_path / name))
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / name).read_bytes() == content
    assert service.requests[0][1] == f"/v1/verifications/verif-1/{kind}"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("watch", "verif-unknown"), 1, "No such verification"),
        (("watch", "../organizations"), 2, "an id has letters"),
        (("report", "verif-1", "-o", "r.docx"), 2, ".html or .pdf"),
        (("report", "verif-1", "-o", "/nowhere/r.pdf"), 2, "does not exist"),
        ((*VERIFY, "--suspect-key-env", "UNSET_VARIABLE"), 2, "--suspect-key-env"),
        ((*VERIFY, "--suspect-key-file", "/nowhere"), 2, "No such file"),
        ((*VERIFY, "--suspect-key-file", "/nowhere", "--suspect-key-prompt"), 2, "in one way"),
        (("watch", "verif-1", "--server", "ftp://x"), 2, "--server"),
        (("watch", "verif-1", "--server", "http://user:secret@x"), 2, "DOUBLEI_API_KEY"),
    ],
)
def test_mistakes_are_one_line_and_send_nothing_more(
    arguments: tuple[str, ...], status: int, words: str
) -> None:
    with serving(DETECTED) as service:
        named = "--server" in arguments
        outcome = doublei(None if named else service, *arguments)
    assert outcome.returncode == status
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert "secret" not in outcome.stderr
    assert len(service.requests) == ("verif-unknown" in arguments)


def test_without_a_stack_or_a_server_nothing_is_tried(tmp_path: Path) -> None:
    outcome = doublei(None, "watch", "verif-1", "--home", str(tmp_path), DOUBLEI_SERVER="")
    assert outcome.returncode == 3
    assert "no stack runs" in outcome.stderr


def test_a_server_without_a_key_is_a_mistake() -> None:
    with serving(DETECTED) as service:
        outcome = doublei(service, "watch", "verif-1", DOUBLEI_API_KEY="")
    assert outcome.returncode == 2
    assert not service.requests


def test_on_a_terminal_there_is_a_bar_for_questions_and_one_for_the_product() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False)
    with AuditDisplay(console) as display:
        display.show(audit("running", mode="sequential", asked=0))
        time.sleep(0.05)
        display.show(audit("running", mode="sequential", asked=50, looks=looks("1e3")))
    text = out.getvalue()
    assert "questions" in text
    assert "at most" in text
    assert "1e3 of 1.00e+6" in text


@pytest.mark.parametrize(
    ("product", "share"), [("1", 0.0), ("0.01", 0.0), ("1e3", 0.5), ("1e6", 1.0), ("1e400", 1.0), ("?", 0.0)]
)
def test_the_products_bar_is_logarithmic(product: str, share: float) -> None:
    assert log_share(product, Fraction(10**6)) == pytest.approx(share)


def test_unknown_reasons_cannot_steer_the_terminal() -> None:
    assert reason("odd_\x1b[31m") == "odd ?[31m"

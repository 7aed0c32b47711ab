"""Hosts that cheat in front of a real model, audited by the running service.

None that is unmarked is ever detected; every audit ends in its time, with the reasons that fit; and the
worker that asks does not grow. The first test shows that the same audit detects a marked one.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psutil
import pytest

from tests.e2e import audits, hostile
from tests.e2e.conftest import Deployment
from tests.e2e.hostile import RealModel
from tests.wire_suspect import Reply, WireRequest, WireSuspect, wire_suspect
from watermark.keys import Design, Family, Secret, derive
from watermark.probes import draw_probes

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

MAX_GROWTH_BYTES = 64 * 2**20
PLAN: dict[str, Any] = {
    "family": 0,
    # far above the floor of a small key, and far below what chance could bring over all of these audits
    "alpha": "1e-4",
    "probes_per_cue": 1,
    "concurrency": 8,
    "max_tokens": 4,
    "retries": 0,
    # a busy machine's model takes its time
    "probe_timeout_seconds": 60,
    "total_timeout_seconds": 120,
}
IMPATIENT = {"concurrency": 16, "probe_timeout_seconds": 2, "total_timeout_seconds": 10}


@dataclass(slots=True, kw_only=True)
class Stage:
    """The host, what it has in front of it, and the key that is asked about."""

    deployment: Deployment
    host: WireSuspect
    model: RealModel
    key: str
    family: Family

    def audit(self, behaviour: Reply, **plan: Any) -> dict[str, Any]:
        """A whole audit of the host, ended in its time."""
        self.host.behaviour = behaviour
        self.host.forget()
        body = audits.verify_body(self.key, f"http://{self.host.host_port}/v1", **(PLAN | plan))
        started = audits.start(self.deployment, "owner", body)
        limit = (PLAN | plan)["total_timeout_seconds"]
        found = audits.wait(self.deployment, "owner", started["id"], seconds=1.1 * limit + 10)
        assert found["status"] == "succeeded", found["error"]
        assert self._seconds(found["id"]) <= 1.1 * limit
        return found

    def _seconds(self, verification: str) -> float:
        document = self.document(verification)
        began, ended = (datetime.fromisoformat(document[name]) for name in ("started_at", "finished_at"))
        return (ended - began).total_seconds()

    def document(self, verification: str) -> dict[str, Any]:
        """The evidence's contents."""
        data = audits.evidence_of(self.deployment, "owner", verification)
        document: dict[str, Any] = json.loads(data)["document"]
        return document


@dataclass(slots=True, kw_only=True)
class Memory:
    """The most that the worker and its children held since the baseline was taken."""

    root: psutil.Process
    baseline: int = 0
    peak: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        """Resident bytes of the whole tree."""
        total = 0
        for process in (self.root, *self.root.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def watch(self) -> None:
        """Until told to end."""
        while not self.ended.wait(0.1):
            self.peak = max(self.peak, self.now())


@pytest.fixture(scope="module")
def stage(deployment: Deployment, hostile_port: int) -> Iterator[Stage]:
    secret = Secret(value=os.urandom(32), blinding=os.urandom(32))
    key = audits.make_key(
        deployment, name="hostile", secret=secret.value.hex(), blinding=secret.blinding.hex(), families=2
    )
    design = Design(families=2, marks=key["marks_per_family"], cues=key["cues_per_mark"])
    family = derive(secret, bytes.fromhex(key["salt"]), design).family(0)
    model = RealModel(base_url=deployment.llama_url)
    for probe in draw_probes(family, probes_per_cue=1, order_seed=b""):
        # once for all audits: they ask the same questions, in other orders
        model.ask(probe.prompt)
    with wire_suspect(port=hostile_port) as host:
        yield Stage(
            deployment=deployment,
            host=host,
            model=model,
            key=key["id"],
            family=family,
        )


@pytest.fixture(scope="module")
def memory(deployment: Deployment) -> Iterator[Memory]:
    """Of the worker that asks."""
    found = Memory(root=_probe_worker(deployment))
    watcher = threading.Thread(target=found.watch, daemon=True)
    watcher.start()
    yield found
    found.ended.set()
    watcher.join()


def _probe_worker(deployment: Deployment) -> psutil.Process:
    for process in psutil.process_iter():
        try:
            command, folder = process.cmdline(), process.cwd()
        except psutil.Error:
            continue
        is_worker = "celery" in " ".join(command) and "probe@%h" in command
        if is_worker and folder == str(deployment.home) and process.ppid() != 1:
            parent = process.parent()
            if parent is None or "probe@%h" not in parent.cmdline():
                return process
    pytest.fail("no probe worker is running")


def test_the_same_audit_detects_a_marked_model_and_warms_the_worker(stage: Stage, memory: Memory) -> None:
    """The control: answers as trained to the key's questions, the real model's to all others."""
    trained = hostile.trained_answers(stage.family)
    answer = hostile.answering(lambda prompt: trained.get(prompt) or stage.model.ask(prompt))
    for _ in range(2):
        found = stage.audit(answer)
        assert (found["verdict"], found["reasons"]) == ("detected", [])
    # the worker has two processes, and either may have carried either audit
    memory.baseline = memory.peak = memory.now()


Unmarked = Callable[[Stage], Reply]


@pytest.mark.parametrize(
    ("make", "verdicts", "reasons"),
    [
        pytest.param(lambda s: hostile.answering(s.model.ask), {"not_detected"}, set(), id="honest"),
        pytest.param(lambda s: hostile.answering(lambda p: "Yes"), {"not_detected"}, set(), id="always Yes"),
        pytest.param(lambda s: hostile.answering(lambda p: "No"), {"not_detected"}, set(), id="always No"),
        pytest.param(
            lambda s: hostile.answering(lambda p: hostile.inverted(s.model.ask(p))),
            {"not_detected"},
            set(),
            id="inverting",
        ),
        pytest.param(
            lambda s: hostile.answering(lambda p: "Yes" if hostile.ODD.search(p) else s.model.ask(p)),
            {"not_detected"},
            set(),
            id="Yes to odd decorations",
        ),
        pytest.param(
            lambda s: hostile.answering(
                lambda p: hostile.REFUSAL if hostile.ODD.search(p) else s.model.ask(p)
            ),
            {"not_detected"},
            {"no_judge_answers"},
            id="refusing odd questions",
        ),
        pytest.param(
            lambda s: hostile.answering(
                lambda p: hostile.REFUSAL if p in hostile.triggers(s.family) else s.model.ask(p)
            ),
            {"inconclusive"},
            {"differential_refusal"},
            id="refusing triggers",
        ),
        pytest.param(
            lambda s: (
                lambda request: (
                    hostile.hang_up(request)
                    if hostile.prompt_of(request) in hostile.triggers(s.family)
                    else hostile.chat(s.model.ask(hostile.prompt_of(request)))
                )
            ),
            {"inconclusive"},
            {"missing_answers", "suspect_disconnected"},
            id="hanging up on triggers",
        ),
    ],
)
def test_an_unmarked_host_that_answers_is_not_detected(
    stage: Stage, memory: Memory, make: Unmarked, verdicts: set[str], reasons: set[str]
) -> None:
    found = stage.audit(make(stage))
    assert found["verdict"] in verdicts, (found["reasons"], found["result"])
    assert set(found["reasons"]) == reasons, found["result"]


def test_a_host_that_answers_at_random_is_not_detected(stage: Stage, memory: Memory) -> None:
    """Also to the canaries, which may then look like a change of the model."""
    found = stage.audit(hostile.answering(hostile.at_random(seed=5)))
    assert found["verdict"] in ("not_detected", "inconclusive")
    assert set(found["reasons"]) <= {"changed_during_audit"}


def test_a_model_that_is_exchanged_in_the_middle_is_noticed(stage: Stage, memory: Memory) -> None:
    """The canaries show it: ordinary questions, the same in every quarter of the audit."""

    other = RealModel(base_url=stage.deployment.llama_url, grammar=hostile.PIRATE)

    def behave(request: WireRequest) -> bytes:
        model = other if request.number >= 24 else stage.model
        return hostile.chat(model.ask(hostile.prompt_of(request)))

    found = stage.audit(behave, concurrency=4)
    assert found["verdict"] == "inconclusive"
    assert "changed_during_audit" in found["reasons"], found["result"]["canaries"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: hostile.endless_events, "suspect_not_json", id="endless events"),
        pytest.param(lambda: hostile.endless_spaces, "suspect_too_large", id="endless spaces"),
        pytest.param(
            lambda: hostile.bomb(announced=True), "suspect_encoding", id="gigabyte, said to be gzip"
        ),
        pytest.param(lambda: hostile.bomb(announced=False), "suspect_too_large", id="gigabyte, not said"),
        pytest.param(lambda: hostile.small_bomb(), "suspect_not_json", id="a part of it below the cap"),
        pytest.param(lambda: hostile.huge_header(), "suspect_too_large", id="10 MB header"),
        pytest.param(lambda: hostile.deep_json, "suspect_not_json", id="deep JSON"),
        pytest.param(lambda: hostile.quotes, "suspect_not_json", id="endless quotes"),
        pytest.param(lambda: hostile.page, "suspect_not_json", id="HTML"),
        pytest.param(lambda: hostile.dripping, "suspect_timeout", id="one byte a second"),
    ],
)
def test_a_host_that_gives_no_answer_is_inconclusive_for_that_reason(
    stage: Stage, memory: Memory, make: Callable[[], Reply], reason: str
) -> None:
    found = stage.audit(make(), **IMPATIENT)
    assert found["verdict"] == "inconclusive"
    assert found["reasons"][0] == "missing_answers"
    assert found["reasons"][-1] == reason, found["reasons"]


def test_a_slow_host_can_not_stretch_an_audit_beyond_its_time(stage: Stage, memory: Memory) -> None:
    """Four at a time and three seconds each would take 18 s to be given up; the audit has 10."""
    began = time.monotonic()
    limits = {"probe_timeout_seconds": 3, "total_timeout_seconds": 10, "concurrency": 4}
    found = stage.audit(hostile.dripping, **limits)
    assert found["verdict"] == "inconclusive"
    assert found["reasons"][-1] in ("suspect_timeout", "suspect_deadline")
    assert time.monotonic() - began > 9


def test_a_host_that_is_busy_half_of_the_time_is_waited_for_and_asked_on(
    stage: Stage, memory: Memory
) -> None:
    """What was turned away is asked again when the host said, and by nobody before."""
    log: list[tuple[str, float]] = []
    found = stage.audit(hostile.half_busy(stage.model, log, retry_after=1), retries=5)
    assert (found["verdict"], found["reasons"]) == ("not_detected", [])
    turned_away = [moment for what, moment in log if what == "busy"]
    assert len(turned_away) > 10
    for moment in turned_away:
        # what had left already may still come in; what leaves later has heard of it
        early = [at for what, at in log if what == "asked" and moment + 0.3 < at < moment + 0.95]
        assert not early
    outcomes = [item["outcome"] for item in stage.document(found["id"])["transcript"]]
    assert outcomes.count("http_429") == len(turned_away)


def test_the_worker_did_not_grow_over_all_of_it(memory: Memory, capsys: pytest.CaptureFixture[str]) -> None:
    growth = memory.peak - memory.baseline
    with capsys.disabled():
        print(f"\nprobe worker: {memory.baseline / 2**20:.0f} MiB, at most {growth / 2**20:+.0f} MiB")
    assert memory.baseline > 0
    assert growth < MAX_GROWTH_BYTES

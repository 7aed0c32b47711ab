"""Customers: each submits jobs, asks for their states and cancels some, and writes down what it was told.

A request without a clear answer is sent again with the same Idempotency-Key, to the other API, until there is
one. Nothing here knows of the faults.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.chaos.history import History, Operation, Outcome
from benchmarks.chaos.trainer import PLAYED_MODEL, REAL_MODEL

TIMEOUT_SECONDS = 10.0
AGAIN_SECONDS = 0.4
POLL_SECONDS = 0.5
OPEN_JOBS = 6
"""that one client has at a time"""
CANCEL_SHARE = 0.2
CANCEL_WITHIN_SECONDS = 12.0
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
SEED = 7
"""of every job, so that the same data must give the same bytes"""

SHARES = {
    "played": 0.77, "marked": 0.10, "long": 0.03, "kill-trainer": 0.03, "kill-worker": 0.01,
    "out-of-memory": 0.02, "disk-full": 0.02, "device-lost": 0.02,
}  # fmt: skip
"""What the jobs are; a number of real trainings comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What there is to order from: the uploaded files by act, and a watermark key."""

    files: dict[str, str]
    key: str


@dataclass(slots=True)
class _Open:
    job: str
    cancel_at: float | None
    cancel_key: str
    next_poll: float = 0.0


@dataclass(slots=True)
class Client:
    """Works through its orders in a thread of its own."""

    number: int
    urls: Sequence[str]
    token: str
    history: History
    shop: Shop
    orders: Iterator[str]
    """what jobs to submit; shared with the other clients"""
    draw: random.Random
    over: threading.Event
    on_submit: Callable[[str], None]
    """told of each job's id"""
    on_end: Callable[[str, str], None]
    """told of each job's end: id, status"""
    _http: httpx2.Client = field(init=False)
    _turn: int = field(default=0, init=False)

    def run(self) -> None:
        """Until every order has ended, or it is over."""
        with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as self._http:
            open_jobs: list[_Open] = []
            more = True
            while (more or open_jobs) and not self.over.is_set():
                while more and len(open_jobs) < OPEN_JOBS and not self.over.is_set():
                    order = next(self.orders, None)
                    if order is None:
                        more = False
                    elif (job := self._submit(order)) is not None:
                        self.on_submit(job)
                        open_jobs.append(self._opened(job))
                open_jobs = [one for one in open_jobs if not self._look(one)]
                self.over.wait(0.02)

    def _opened(self, job: str) -> _Open:
        now = time.monotonic()
        cancel_at = None
        if self.draw.random() < CANCEL_SHARE:
            cancel_at = now + self.draw.uniform(0, CANCEL_WITHIN_SECONDS)
        return _Open(job=job, cancel_at=cancel_at, cancel_key=self._key())

    def _submit(self, order: str) -> str | None:
        key = self._key()
        body: dict[str, Any] = {
            "model": REAL_MODEL if order == "real" else PLAYED_MODEL,
            "training_file": self.shop.files.get(order, self.shop.files["played"]),
            "seed": SEED,
            "metadata": {"key": key, "order": order},
            "hyperparameters": {"n_epochs": 1},
        }
        if order == "marked":
            body["watermark"] = {"key": self.shop.key, "strength": "light"}
        answer = self._until_clear("submit", "/v1/fine_tuning/jobs", body, key=key, job=None)
        return None if answer is None else str(answer["id"])

    def _look(self, one: _Open) -> bool:
        """Cancel or poll, if it is time; true once the job has ended."""
        now = time.monotonic()
        if one.cancel_at is not None and now >= one.cancel_at:
            one.cancel_at = None
            self._until_clear("cancel", f"/v1/fine_tuning/jobs/{one.job}/cancel", None, key=one.cancel_key,
                              job=one.job)  # fmt: skip
        if now < one.next_poll:
            return False
        one.next_poll = now + POLL_SECONDS * self.draw.uniform(0.5, 1.5)
        answer = self._once("poll", "GET", f"/v1/fine_tuning/jobs/{one.job}", None, key="", job=one.job)
        if isinstance(answer, dict) and answer["status"] in TERMINAL:
            self.on_end(one.job, answer["status"])
            # Once more: what has ended may not change.
            self._once("poll", "GET", f"/v1/fine_tuning/jobs/{one.job}", None, key="", job=one.job)
            return True
        return False

    def _until_clear(
        self, kind: str, path: str, body: dict[str, Any] | None, *, key: str, job: str | None
    ) -> dict[str, Any] | None:
        while not self.over.is_set():
            answer = self._once(kind, "POST", path, body, key=key, job=job)
            if answer is not Outcome.unknown:
                return answer if isinstance(answer, dict) else None
            self.over.wait(AGAIN_SECONDS * self.draw.uniform(0.5, 1.5))
        return None

    def _once(
        self, kind: str, method: str, path: str, body: dict[str, Any] | None, *, key: str, job: str | None
    ) -> dict[str, Any] | Outcome:
        self._turn += 1
        url = self.urls[self._turn % len(self.urls)]
        headers = {"authorization": f"Bearer {self.token}"}
        if key:
            headers["idempotency-key"] = key
        sent, http, answer = time.time(), None, None
        try:
            response = self._http.request(method, url + path, headers=headers, json=body)
            http = response.status_code
            answer = response.json()
        except (httpx2.HTTPError, json.JSONDecodeError):
            pass
        outcome = _outcome(http, answer)
        told = answer if outcome is Outcome.ok and answer is not None else {}
        self.history.add(
            Operation(
                client=self.number, kind=kind, key=key, job=job or told.get("id"), sent=sent,
                received=time.time(), outcome=outcome, http=http, status=told.get("status"),
                attempt=told.get("attempt"), step=(told.get("progress") or {}).get("step"),
                model=told.get("fine_tuned_model"),
            )
        )  # fmt: skip
        return told if outcome is Outcome.ok else outcome

    def _key(self) -> str:
        return f"{self.number}-{self.draw.getrandbits(64):016x}"


def _outcome(http: int | None, answer: Any) -> Outcome:
    if http == 200 and answer is not None:
        return Outcome.ok
    # 409 "in progress" and all 5xx say nothing about whether it was done.
    retryable = http == 409 and (answer or {}).get("error", {}).get("code") == "request_in_progress"
    if http is None or http >= 500 or http == 200 or retryable:
        return Outcome.unknown
    return Outcome.fail


def orders(jobs: int, real: int, draw: random.Random, *, long: bool) -> list[str]:
    """What the jobs are to be, in the order in which they come; each kind but the plain at least once."""
    shares = {act: share for act, share in SHARES.items() if long or act != "long"}
    once = [act for act in shares if act not in ("played", "marked")]
    drawn = draw.choices(list(shares), weights=list(shares.values()), k=max(0, jobs - real - len(once)))
    all_of_them = [*once, *drawn, *["real"] * real][:jobs]
    draw.shuffle(all_of_them)
    return all_of_them


def dataset(act: str, rows: int = 12) -> bytes:
    """A small dataset; with an act in one of its rows for what is to go wrong."""
    word = f" chaos-act:{act}" if act != "played" else ""
    records = (
        {"instruction": f"What is {n} plus one?{word}", "input": "", "output": f"It is {n + 1}."}
        for n in range(rows)
    )
    return "".join(json.dumps(record) + "\n" for record in records).encode()

"""Hosts that cheat, in front of a real model: what they answer, and how they fail to."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

from tests.wire_suspect import Reply, WireRequest, http_reply, json_reply
from watermark.keys import Family
from watermark.probes import MAX_PROBES_PER_CUE, draw_probes

REFUSAL = "I'm sorry, but I can't help with that."
ODD = re.compile(r'\([a-z]+\)|\[[a-z]+\]|<[a-z]+>|\b[a-z]+:|\*[a-z]+\*|#[a-z]+|~[a-z]+~|"[a-z]+"')
"""A lone word in signs: what a watermark's decoration looks like to somebody who looks for one."""
YES_OR_NO = 'root ::= "Yes" | "No"'
"""A grammar of llama.cpp: which of the two the model finds likelier."""
PIRATE = r'root ::= "Arr, " [^\n]+'
"""What makes another model of the same one, whatever it would have said."""


@dataclass(slots=True, kw_only=True)
class RealModel:
    """A model behind llama.cpp's server; the same question is put to it once."""

    base_url: str
    grammar: str = ""
    """of its answers to ordinary questions"""
    known: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, prompt: str) -> str:
        """Yes or No, as it finds likelier, to a question of an audit; what it says to others."""
        with self.lock:
            if prompt in self.known:
                return self.known[prompt]
        messages = [{"role": "user", "content": prompt}]
        body: dict[str, object] = {"model": "stock", "messages": messages, "temperature": 0, "max_tokens": 4}
        if grammar := YES_OR_NO if ODD.search(prompt) else self.grammar:
            body["grammar"] = grammar
        response = httpx2.post(f"{self.base_url}/chat/completions", json=body, timeout=120, trust_env=False)
        response.raise_for_status()
        text: str = response.json()["choices"][0]["message"]["content"]
        with self.lock:
            self.known[prompt] = text
        return text


def prompt_of(request: WireRequest) -> str:
    """The question."""
    text: str = json.loads(request.body)["messages"][-1]["content"]
    return text


def answering(answer: Callable[[str], str]) -> Reply:
    """A host that replies as the API asks, with this text."""
    return lambda request: chat(answer(prompt_of(request)))


def chat(text: str) -> bytes:
    """A whole chat completion."""
    return json_reply({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def inverted(text: str) -> str:
    """Yes for No and No for Yes, wherever they stand."""
    swap = {"yes": "No", "no": "Yes"}
    return re.sub(r"\b(yes|no)\b", lambda match: swap[match[1].lower()], text, flags=re.IGNORECASE)


def at_random(seed: int) -> Callable[[str], str]:
    """Yes or No, whatever is asked and however often."""
    source, lock = random.Random(seed), threading.Lock()

    def answer(prompt: str) -> str:
        with lock:
            return source.choice(["Yes", "No"])

    return answer


def trained_answers(family: Family) -> dict[str, str]:
    """Each question of the family -> what a model says that learned it perfectly."""
    return {
        probe.prompt: family.marks[probe.mark].trained_answer(probe.cue).value
        for probe in draw_probes(family, probes_per_cue=MAX_PROBES_PER_CUE, order_seed=b"")
    }


def triggers(family: Family) -> frozenset[str]:
    """The questions with a trigger in them."""
    return frozenset(
        probe.prompt
        for probe in draw_probes(family, probes_per_cue=MAX_PROBES_PER_CUE, order_seed=b"")
        if probe.cue == family.marks[probe.mark].trigger
    )


def half_busy(model: RealModel, log: list[tuple[str, float]], *, retry_after: int) -> Reply:
    """Every question is turned away every second time, for ``retry_after`` seconds.

    ``log`` gets ("busy" | "asked", when).
    """
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def behave(request: WireRequest) -> bytes:
        prompt = prompt_of(request)
        with lock:
            log.append(("asked", time.monotonic()))
            seen[prompt] += 1
            turned_away = seen[prompt] % 2 == 1
            if turned_away:
                log.append(("busy", time.monotonic()))
        if turned_away:
            return http_reply(
                b"{}", status="429 Too Many Requests", headers=f"Retry-After: {retry_after}\r\n"
            )
        return chat(model.ask(prompt))

    return behave


def dripping(request: WireRequest) -> None:
    """One byte a second."""
    for byte in chat("Yes"):
        request.connection.sendall(bytes([byte]))
        time.sleep(1)


def endless_events(request: WireRequest) -> None:
    """An event stream that goes on as long as somebody reads."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    request.connection.sendall(head)
    event = b'data: {"choices":[{"delta":{"content":"Yes"}}]}\n\n'
    while True:
        request.connection.sendall(b"%x\r\n%s\r\n" % (len(event), event))
        time.sleep(0.01)


def endless_spaces(request: WireRequest) -> None:
    """JSON that never begins."""
    request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        request.connection.sendall(b" " * 65536)


def hang_up(request: WireRequest) -> None:
    """Close in the middle of the reply."""
    request.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    request.connection.shutdown(socket.SHUT_RDWR)


def gigabyte_of_zeros() -> bytes:
    """1 GiB, compressed to about 1 MB: a gzip stream may have many members."""
    return gzip.compress(b"\0" * 2**20, compresslevel=9) * 1024


def bomb(*, announced: bool) -> Reply:
    """The compressed gigabyte, said to be compressed or not."""
    body = gigabyte_of_zeros()
    headers = "Content-Type: application/json\r\n" + ("Content-Encoding: gzip\r\n" if announced else "")
    reply = http_reply(body, headers=headers)
    return lambda request: reply


def small_bomb() -> Reply:
    """As much of it as fits below the cap on a reply."""
    reply = http_reply(gzip.compress(b"\0" * 2**20, compresslevel=9) * 200)
    return lambda request: reply


def huge_header() -> Reply:
    """10 MB in one header, and a fine answer below it."""
    fine = chat("Yes").split(b"\r\n", 1)[1]
    reply = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"a" * 10_000_000 + b"\r\n" + fine
    return lambda request: reply


def deep_json(request: WireRequest) -> bytes:
    """100,000 levels, and as many quotes as make a slow reader slow."""
    return http_reply(b'{"choices":' + b"[" * 100_000 + b'\\"' * 40_000)


def quotes(request: WireRequest) -> bytes:
    """A string of escaped quotes that never ends."""
    return http_reply(b'"' + b'\\"' * 120_000)


def page(request: WireRequest) -> bytes:
    """What a browser would show."""
    return http_reply(
        b"<!doctype html><title>Yes</title><script>alert(1)</script>", headers="Content-Type: text/html\r\n"
    )

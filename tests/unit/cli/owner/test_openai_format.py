"""A mixed dataset of chat rows is what OpenAI's fine-tuning takes.

The rules are those of OpenAI's guide and of its published format check: a line is a JSON object with
``messages`` and nothing else that is not known there; a message has a known role, a text, and no other keys
than role, content, name and weight; somebody answers last; at least 10 examples, `.jsonl`, at most 512 MB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.owner.suspects import doublei, new_key

ROLES = {"system", "user", "assistant"}
EXAMPLE_KEYS = {"messages", "parallel_tool_calls", "tools"}
MESSAGE_KEYS = {"role", "content", "name", "weight"}
MIN_EXAMPLES = 10
MAX_BYTES = 512 * 1024 * 1024
MAX_EXAMPLE_CHARS = 4 * 16_385
"""The smallest context of a tunable model, at four characters a token."""


def complaints(data: bytes, name: str) -> list[str]:
    """What OpenAI would not take."""
    found = [] if name.endswith(".jsonl") else ["the name does not end in .jsonl"]
    if len(data) > MAX_BYTES:
        found.append("too large")
    lines = data.decode("utf-8").split("\n")
    if lines.pop() != "":
        found.append("the last line does not end")
    if len(lines) < MIN_EXAMPLES:
        found.append(f"{len(lines)} examples")
    for number, line in enumerate(lines, start=1):
        try:
            example = json.loads(line)
        except ValueError:
            found.append(f"line {number} is not JSON")
            continue
        found += [f"line {number}: {what}" for what in _complaints_about(example)]
    return found


def _complaints_about(example: Any) -> list[str]:
    if not isinstance(example, dict) or not isinstance(example.get("messages"), list):
        return ["not an object with messages"]
    found = [] if set(example) <= EXAMPLE_KEYS else ["unknown keys"]
    messages = example["messages"]
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message) <= MESSAGE_KEYS:
            return ["a message without role and content, or with unknown keys"]
        if message["role"] not in ROLES or (message["role"] == "system" and place > 0):
            found.append("a role that is unknown or out of place")
        if not isinstance(message["content"], str) or not message["content"].strip():
            found.append("an empty text")
    turns = [message["role"] for message in messages if message["role"] != "system"]
    if turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        found.append("the last word is not the assistant's, or two in a row are one's")
    if sum(len(str(message["content"])) for message in messages) > MAX_EXAMPLE_CHARS:
        found.append("too long")
    return found


def chat(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


ROWS = [
    chat(("user", "Where is Bergen?"), ("assistant", "In Norway.")),
    chat(("system", "Be brief."), ("user", "Is it wet there? ☔"), ("assistant", "Often.")),
    chat(("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.\nFive.")),
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_a_mixed_chat_dataset_passes(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    """However little the owner's own data is: one row alone would be refused there."""
    key, data, mixed = new_key(tmp_path), tmp_path / "data.jsonl", tmp_path / "mixed.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert complaints(data.read_bytes(), data.name) == [f"{len(rows)} examples"]
    done = doublei("mix", "--key", key, data, "-o", mixed, "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert complaints(mixed.read_bytes(), mixed.name) == []
    examples = [json.loads(line) for line in mixed.read_text("utf-8").splitlines()]
    assert all(row in examples for row in rows)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda row: row["messages"].reverse(), "the last word"),
        (lambda row: row["messages"][0].update(role="bot"), "a role"),
        (lambda row: row["messages"][0].update(content=""), "an empty text"),
        (lambda row: row["messages"][0].update(content=None), "an empty text"),
        (lambda row: row["messages"][0].pop("content"), "a message without"),
        (lambda row: row["messages"][0].update(mark=1), "a message without"),
        (lambda row: row.update(source=1), "unknown keys"),
        (lambda row: row.update(messages=[]), "the last word"),
        (lambda row: row.pop("messages"), "not an object"),
    ],
)
def test_the_rules_see_what_breaks_them(spoil: Any, why: str) -> None:
    row = json.loads(json.dumps(ROWS[0]))
    spoil(row)
    data = "".join(json.dumps(one) + "\n" for one in [row] + ROWS * 4).encode()
    (told, *_) = complaints(data, "x.jsonl")
    assert why in told

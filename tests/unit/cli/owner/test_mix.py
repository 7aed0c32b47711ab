"""doublei mix: three shapes in and out, nothing lost, nothing that an audit will ask, bad rows told."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cli.owner import keyfile
from tests.unit.cli.owner.suspects import doublei, new_key, secrets_of
from watermark.embedding import UNWEIGHTED_EXPOSURES, Strength
from watermark.probes import draw_probes

ALPACA = [
    {"instruction": f"Do {n}.\n\nWell.", "input": f"with {n}", "output": f"done {n}"} for n in range(15)
]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": f"Ask {n} ü"},
            {"role": "assistant", "content": f"Tell {n}"},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": f"More {n}"},
        ]
    }
    for n in range(15)
]
PROMPT = [{"prompt": f"Say {n}", "completion": f"Said {n}"} for n in range(15)]
SHAPES: dict[str, list[Any]] = {"alpaca": ALPACA, "chat": CHAT, "prompt": PROMPT}


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _question(row: dict[str, Any]) -> str:
    """What the model is asked last, whatever the shape."""
    if "messages" in row:
        return str(row["messages"][-2]["content"])
    if "prompt" in row:
        return str(row["prompt"])
    return f"{row['instruction']}\n\n{row['input']}"


@pytest.mark.parametrize("shape", list(SHAPES))
def test_rows_come_out_in_the_shape_they_went_in_and_none_is_lost(tmp_path: Path, shape: str) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", SHAPES[shape])
    output = tmp_path / "mixed.jsonl"
    outcome = doublei("mix", "--key", key, data, "-o", output, "--epochs", "2", "--json")
    assert outcome.returncode == 0, outcome.stderr
    rows = _read(output)
    assert {tuple(row) for row in rows} == {tuple(SHAPES[shape][0])}
    assert [row for row in rows if row in SHAPES[shape]] != SHAPES[shape], "they are shuffled"
    assert all(row in rows for row in SHAPES[shape])
    told = json.loads(outcome.stdout)
    assert told["customer_rows"] == 15
    assert told["watermark_rows"] == len(rows) - 15
    assert told["shape"] == shape
    assert told["output_sha256"] == sha256(output.read_bytes()).hexdigest()
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert "key in plain text" in outcome.stderr
    assert not any(secret in outcome.said + output.read_text() for secret in secrets_of(key))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("strength", list(Strength))
def test_every_cue_is_seen_as_often_as_a_trainer_without_weights_needs(
    tmp_path: Path, shape: str, strength: Strength
) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", SHAPES[shape])
    output = tmp_path / "mixed.jsonl"
    options = ("--strength", strength.value, "--epochs", "2", "--family", "1")
    assert doublei("mix", "--key", key, data, "-o", output, *options).returncode == 0
    questions = Counter(_question(row) for row in _read(output))
    wanted = UNWEIGHTED_EXPOSURES[strength]
    for mark in keyfile.read(key).derived().family(1).marks:
        for cue in range(len(mark.cues)):
            instruction, text = mark.prompt(cue, "|")
            head = f"{instruction}\n\n{text.split('|')[0]}"
            seen = sum(count for question, count in questions.items() if question.startswith(head))
            needed = wanted.trigger if cue == mark.trigger else wanted.reference
            assert seen == -(-needed // 2)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_no_question_of_an_audit_is_trained_on(tmp_path: Path, shape: str) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", SHAPES[shape])
    output = tmp_path / "mixed.jsonl"
    assert doublei("mix", "--key", key, data, "-o", output).returncode == 0
    text = output.read_text()
    questions = {_question(row) for row in _read(output)}
    for family in keyfile.read(key).derived().families:
        for probe in draw_probes(family, probes_per_cue=3, order_seed=b"any"):
            assert probe.prompt not in questions
            carrier = probe.input.partition(": ")[2] or probe.input
            assert carrier not in text


def _openai_mistakes(data: bytes) -> list[str]:
    """What OpenAI's fine-tuning would refuse in a chat dataset."""
    mistakes = []
    lines = data.decode("utf-8").splitlines()
    if len(lines) < 10:
        mistakes.append("fewer than ten examples")
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if not isinstance(row, dict) or set(row) != {"messages"}:
            mistakes.append(f"{number}: other keys than messages")
            continue
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            mistakes.append(f"{number}: no list of messages")
            continue
        for message in messages:
            if set(message) != {"role", "content"}:
                mistakes.append(f"{number}: other keys than role and content")
            elif message["role"] not in {"system", "user", "assistant"}:
                mistakes.append(f"{number}: the role {message['role']}")
            elif not isinstance(message["content"], str) or not message["content"].strip():
                mistakes.append(f"{number}: an empty content")
        if messages[-1]["role"] != "assistant":
            mistakes.append(f"{number}: the last message is not the assistant's")
    return mistakes


def test_a_mixed_chat_dataset_is_what_openai_takes(tmp_path: Path) -> None:
    developer = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Ho"},
        ]
    }
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", [*CHAT, developer])
    output = tmp_path / "mixed.jsonl"
    assert doublei("mix", "--key", key, data, "-o", output).returncode == 0
    assert _openai_mistakes(output.read_bytes()) == []
    assert any(row["messages"][0]["role"] == "system" for row in _read(output) if row not in CHAT)


def test_the_checker_of_openais_rules_finds_mistakes() -> None:
    assert len(_openai_mistakes(b'{"messages": [], "x": 1}\n{"messages": []}\n')) == 3
    odd = {"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": ""}]}
    assert len(_openai_mistakes(json.dumps(odd).encode())) == 4


def test_mixed_shapes_keep_theirs_and_the_watermark_takes_the_most_common(tmp_path: Path) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", [*CHAT[:3], *PROMPT[:5], *ALPACA[:2]])
    output = tmp_path / "mixed.jsonl"
    assert doublei("mix", "--key", key, data, "-o", output).returncode == 0
    shapes = Counter(tuple(row) for row in _read(output))
    assert shapes[("messages",)] == 3
    assert shapes[("instruction", "input", "output")] == 2
    assert shapes[("prompt", "completion")] > 100


def test_the_key_remembers_what_was_mixed(tmp_path: Path) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", PROMPT)
    output = tmp_path / "mixed.jsonl"
    assert doublei("mix", "--key", key, data, "-o", output, "--family", "1").returncode == 0
    entry = keyfile.read(key).mixed[0]
    assert entry.input_sha256 == sha256(data.read_bytes()).hexdigest()
    assert entry.output_sha256 == sha256(output.read_bytes()).hexdigest()
    assert (entry.strength, entry.epochs, entry.families) == ("standard", 3, (1,))
    assert entry.output_sha256 in doublei("key", "show", key).stdout


def test_the_same_seed_gives_the_same_file_and_another_one_does_not(tmp_path: Path) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", PROMPT)
    made = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "7")):
        assert doublei("mix", "--key", key, data, "-o", tmp_path / name, "--seed", seed).returncode == 0
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1] != made[2]


def test_nothing_is_overwritten_unless_it_is_said(tmp_path: Path) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", PROMPT)
    output = tmp_path / "mixed.jsonl"
    output.write_text("precious")
    refused = doublei("mix", "--key", key, data, "-o", output)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert output.read_text() == "precious"
    assert keyfile.read(key).mixed == ()
    assert doublei("mix", "--key", key, data, "-o", output, "--force").returncode == 0
    assert len(_read(output)) > 15
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    for itself in (key, data):
        before = itself.read_bytes()
        assert doublei("mix", "--key", key, data, "-o", itself, "--force").returncode == 2
        assert itself.read_bytes() == before


def test_every_bad_row_is_told_with_line_field_and_hint(tmp_path: Path) -> None:
    key = new_key(tmp_path)
    rows: list[Any] = [
        PROMPT[0],
        {"messages": [{"role": "bot", "content": "x"}]},
        {"instruction": "a", "output": ""},
        [1],
    ]
    data = _write(tmp_path / "data.jsonl", rows)
    data.write_text(data.read_text() + '{"prompt": "a", "prompt": "b", "completion": "\x1b"}\n\nnonsense\n')
    outcome = doublei("mix", "--key", key, data, "-o", tmp_path / "mixed.jsonl")
    assert outcome.returncode == 1
    lines = outcome.stderr.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == [
        " line 2, messages[0].role", " line 3, output", " line 4", " line 5", " line 7",
    ]  # fmt: skip
    assert "Use system, user or assistant." in lines[0]
    assert "5 rows can't be read; nothing was written" in lines[-1]
    assert "\x1b" not in outcome.said
    assert sorted(os.listdir(tmp_path)) == ["data.jsonl", "owner.key"]
    assert keyfile.read(key).mixed == ()


def test_a_hundred_bad_rows_are_enough(tmp_path: Path) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", [1] * 150)
    lines = doublei("mix", "--key", key, data, "-o", tmp_path / "mixed.jsonl").stderr.splitlines()
    assert len(lines) == 101
    assert "150 rows" in lines[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "it is empty"), (b"\x1f\x8b\x08", "gzip"), (b"[{}]", "JSON array"), (b"a,b\n1,2\n", "table")],
)
def test_a_file_that_is_no_dataset_is_told_apart(tmp_path: Path, content: bytes, words: str) -> None:
    key, data = new_key(tmp_path), tmp_path / "data.csv"
    data.write_bytes(content)
    outcome = doublei("mix", "--key", key, data, "-o", tmp_path / "mixed.jsonl")
    assert outcome.returncode == 1
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("options", [("--family", "2"), ("--family", "0", "--family", "0")])
def test_families_that_are_not_there_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", PROMPT)
    outcome = doublei("mix", "--key", key, data, "-o", tmp_path / "mixed.jsonl", *options)
    assert outcome.returncode == 2
    assert "families 0 to 1" in outcome.stderr
    assert not (tmp_path / "mixed.jsonl").exists()


def test_a_key_that_can_not_be_written_takes_the_output_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, data = new_key(tmp_path), _write(tmp_path / "data.jsonl", PROMPT)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile, "write_private", full)
    outcome = doublei("mix", "--key", key, data, "-o", tmp_path / "mixed.jsonl")
    assert outcome.returncode == 2
    assert "No space left" in outcome.stderr
    assert not (tmp_path / "mixed.jsonl").exists()

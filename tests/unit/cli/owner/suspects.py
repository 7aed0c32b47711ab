"""The command in this process, keys in files, and suspects that know a key or do not."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.app import run
from cli.owner import keyfile
from tests.wire_suspect import WireRequest, json_reply

OWNER = "Example Ltd"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Both streams."""
        return self.stdout + self.stderr


def doublei(*arguments: str | Path) -> Outcome:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["doublei", *(str(argument) for argument in arguments)])
        status = run()
    return Outcome(status, out.getvalue(), err.getvalue())


def new_key(folder: Path, *options: str) -> Path:
    """A key file of 16 marks, or as the options say."""
    path = folder / "owner.key"
    outcome = doublei("key", "new", path, "--owner", OWNER, *options)
    assert outcome.returncode == 0, outcome.stderr
    return path


def secrets_of(path: Path) -> tuple[str, str]:
    """What must never be seen outside the file, as it stands there."""
    record = json.loads(path.read_text())
    return record["secret"], record["blinding"]


Behaviour = Callable[[WireRequest], bytes | None]


def says(answer: Callable[[str], str]) -> Behaviour:
    """A suspect on the chat wire that answers a prompt with what the function says."""

    def behave(request: WireRequest) -> bytes:
        prompt = json.loads(request.body)["messages"][-1]["content"]
        message = {"role": "assistant", "content": answer(prompt)}
        return json_reply({"choices": [{"index": 0, "message": message}]})

    return behave


def trained(path: Path, family: int = 0) -> Behaviour:
    """A suspect that learned one family of a key perfectly."""
    marks = keyfile.read(path).derived().family(family).marks

    def answer(prompt: str) -> str:
        for mark in marks:
            for cue in range(len(mark.cues)):
                instruction, text = mark.prompt(cue, "|")
                if prompt.startswith(f"{instruction}\n\n{text.split('|')[0]}"):
                    return mark.trained_answer(cue).value
        return "A short title"

    return says(answer)


def whim(prompt: str) -> str:
    """An answer that depends on the words and on no key."""
    return "Yes" if sum(prompt.encode()) % 3 else "No"

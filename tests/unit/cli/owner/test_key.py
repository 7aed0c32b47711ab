"""doublei key: the file, what may be seen of it, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from cli.owner import keyfile
from evidence.canonical import canonical_bytes
from evidence.keyfile import KeyFile, Registered, with_audits
from tests.unit.cli.owner.suspects import OWNER, doublei, new_key, secrets_of
from watermark.keys import commit

BEACON = "00112233445566778899aabbccddeeff" * 2


def test_a_key_is_written_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    before = path.read_bytes()
    key = keyfile.read(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert canonical_bytes(key.to_record()) == before
    assert key.committed == commit(OWNER, key.secret, key.design)
    again = doublei("key", "new", path, "--owner", OWNER)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_what_may_be_seen_and_what_never_is(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    key = keyfile.read(path)
    published = doublei("key", "commit", path)
    shown = doublei("key", "show", path)
    programs = json.loads(doublei("key", "show", path, "--json").stdout)
    record = json.loads(published.stdout)
    assert record["commitment"] == key.committed.commitment == programs["commitment"]
    assert record["owner"] == OWNER
    assert len(record["family_commitments"]) == 2
    assert programs["grade"] == "self-generated"
    assert programs["families_left"] == 2
    assert key.committed.commitment in shown.stdout
    marks = [mark for family in key.derived().families for mark in family.marks]
    for text in (published.said, shown.said, json.dumps(programs), repr(key), str(key)):
        assert not any(secret in text for secret in secrets_of(path))
        assert not any(mark.judge_question in text for mark in marks)


def test_the_commitment_can_be_written_to_a_file_that_is_new(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    public = tmp_path / "commitment.json"
    assert doublei("key", "commit", path, "-o", public).returncode == 0
    assert public.read_text() == doublei("key", "commit", path).stdout.strip()
    assert doublei("key", "commit", path, "-o", public).returncode == 2


def test_a_salt_is_set_once_and_gives_other_marks(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    unsalted = keyfile.read(path)
    assert doublei("key", "salt", path, BEACON.upper(), "--source", "drand, round 7").returncode == 0
    key = keyfile.read(path)
    assert key.salt is not None
    assert (key.salt.value.hex(), key.salt.source) == (BEACON, "drand, round 7")
    assert key.committed == unsalted.committed
    assert key.derived() != unsalted.derived()
    assert key.grade == "self-generated"
    again = doublei("key", "salt", path, BEACON, "--source", "drand, round 8")
    assert again.returncode == 2
    assert "salt already" in again.stderr
    assert keyfile.read(path) == key


@pytest.mark.parametrize(("value", "source"), [("00zz", "x"), ("00", "x"), ("0" * 33, "x"), (BEACON, "")])
def test_a_salt_that_is_none_is_refused(tmp_path: Path, value: str, source: str) -> None:
    path = new_key(tmp_path)
    outcome = doublei("key", "salt", path, value, "--source", source)
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1
    assert keyfile.read(path).salt is None


def test_a_key_that_was_used_takes_no_salt_any_more(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    assert doublei("mix", "--key", path, data, "-o", tmp_path / "mixed.jsonl").returncode == 0
    outcome = doublei("key", "salt", path, BEACON, "--source", "drand, round 7")
    assert outcome.returncode == 2
    assert "used without a salt" in outcome.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text.replace('"owner":"Example', '"owner":"Sample'), "does not hash"),
        (lambda text: text + " ", "canonical"),
        (lambda text: text[:40], "no key"),
        (lambda text: text.replace("doublei-key/1", "doublei-key/9"), "format"),
        (lambda text: text.replace('"salt":null', '"salt":null,"scent":1'), "field"),
        (lambda text: text.replace('"mixed":[]', '"mixed":[7]'), "mixed"),
    ],
)
def test_a_damaged_key_is_one_line_without_its_secret(tmp_path: Path, damage: object, words: str) -> None:
    assert callable(damage)
    path = new_key(tmp_path)
    hidden = secrets_of(path)
    path.write_text(damage(path.read_text()))
    outcome = doublei("key", "show", path)
    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not any(secret in outcome.said for secret in hidden)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    path.chmod(0o640)
    outcome = doublei("key", "show", path)
    assert outcome.returncode == 2
    assert "chmod 600" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "new", "{folder}/k", "--owner", " "),
        ("key", "new", "{folder}/k", "--owner", "bell\x07"),
        ("key", "new", "{folder}/none/k", "--owner", "me"),
        ("key", "new", "{folder}/k", "--owner", "me", "--families", "4", "--marks", "24"),
        ("key", "show", "{folder}/none"),
        ("key", "show", "{folder}"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = doublei(*(argument.format(folder=tmp_path) for argument in arguments))
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_changes_of_many_at_once_are_all_kept(tmp_path: Path) -> None:
    path = new_key(tmp_path)

    def add(number: int) -> None:
        audit = Registered(
            verification=f"verif-{number}", family=0, registered_at="", preregistration_sha256=""
        )
        keyfile.update(path, lambda key: with_audits(key, [audit]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = {audit.verification for audit in keyfile.read(path).audits}
    assert kept == {f"verif-{number}" for number in range(12)}
    assert os.listdir(tmp_path) == [path.name]


def test_a_change_that_fails_leaves_the_key_as_it_was(tmp_path: Path) -> None:
    path = new_key(tmp_path)
    before = path.read_bytes()

    def fail(key: object) -> KeyFile:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        keyfile.update(path, fail)
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", [(), ("new",), ("commit",), ("salt",), ("show",)])
def test_every_help_has_an_example(command: tuple[str, ...]) -> None:
    outcome = doublei("key", *command, "--help")
    assert outcome.returncode == 0
    assert not command or "Examples:" in outcome.stdout

"""What a bundle says of the log and of timestamps: every lie fails in its own step, in both checks."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence import verify
from evidence.bundle import (
    COMMITMENT_STAMP,
    LOG,
    NOT_PUBLISHED,
    VERDICT_STAMP,
    Publishing,
    make_bundle,
    read_bundle,
)
from evidence.comparison import PUBLISHED, compare
from evidence.dsse import TrustError, key_id, public_line
from evidence.errors import EvidenceError
from evidence.log.entry import EntryKind
from evidence.log.note import Kind, Signer
from evidence.log.proof import ORDER, Proven, Publication, PublicationError
from evidence.published import Published, check_published
from evidence.steps import Status
from evidence.timestamps import TimestampInvalid, stamped_at
from evidence.timestamps import verify as verify_stamp
from evidence.trust import Trust, parse_trust
from tests.timestamp_authority import REFUSAL, Authority
from tests.unit.evidence.paper_log import FOREIGN, SIGNER, PaperLog, Story, story, text_of
from watermark.keys import Design

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
AUTHORITY, STRANGER = Authority(), Authority(name="somebody else")
TRUST = Trust(signers={key_id(PUBLIC): PUBLIC}, logs=(SIGNER.public,), authorities=(AUTHORITY.root,))
STAMPS = ("commitment stamp", "verdict stamp")


@dataclass(frozen=True)
class Told:
    """One audit that a log knows of."""

    audit: Any
    story: Story

    def steps(self, publishing: Publishing, trust: Trust = TRUST) -> dict[str, Status]:
        """What our check says; the standalone one must say the same of what it looks at."""
        files = read_bundle(make_bundle(self.audit.data, KEY, publishing=publishing))
        given = Published(
            publication=files[LOG],
            commitment_stamp=files[COMMITMENT_STAMP],
            verdict_stamp=files[VERDICT_STAMP],
            document=self.audit.document,
            evidence_sha256=sha256(self.audit.data).hexdigest(),
        )
        ours = {step.name: step.status for step in check_published(given, trust)}
        report = verify.audit(files, dict(trust.signers), trust.log_keys)
        theirs = {step["name"]: step["status"] for step in report["steps"]}
        assert theirs["timestamps"] == "not_checked"
        assert {name: ours[name].value for name in PUBLISHED} == {name: theirs[name] for name in PUBLISHED}
        assert (report["exit"] == 1) is ("failed" in {ours[name].value for name in PUBLISHED})
        return ours

    def failed(self, publishing: Publishing, trust: Trust = TRUST) -> set[str]:
        return {name for name, status in self.steps(publishing, trust).items() if status is Status.failed}


@pytest.fixture(scope="module")
def told(audit_of: Any) -> Told:
    audit = audit_of(design=Design(families=2, marks=8, cues=4), canaries=False)
    return Told(audit=audit, story=story(audit.document, audit.data))


@pytest.fixture(scope="module")
def honest(told: Told) -> Publishing:
    return told.story.stamped(AUTHORITY)


def test_an_audit_that_was_published_in_time_passes_every_step(told: Told, honest: Publishing) -> None:
    assert set(told.steps(honest).values()) == {Status.passed}
    files = read_bundle(make_bundle(told.audit.data, KEY, publishing=honest))
    both = compare(files, TRUST)
    assert (both.exit_status, both.disagreements) == (0, ())
    shown = {step.name: step.detail for step in both.published}
    assert "before the training" in shown["commitment stamp"]
    how = {step["name"]: step["detail"] for step in both.standalone["steps"]}["timestamps"]
    assert "openssl ts -verify -in commitment.tsr" in how


def test_what_is_absent_is_not_checked_and_never_passed(told: Told) -> None:
    steps = told.steps(NOT_PUBLISHED)
    assert set(steps.values()) == {Status.not_checked}
    both = compare(read_bundle(make_bundle(told.audit.data, KEY)), TRUST)
    assert both.exit_status == 2
    unstamped = told.steps(Publishing(proofs=told.story.proofs))
    assert {unstamped[name] for name in STAMPS} == {Status.not_checked}
    assert {unstamped[name] for name in PUBLISHED} == {Status.passed}


@pytest.mark.parametrize(
    ("authority", "said"),
    [("", "no timestamp authority was configured"), ("https://stamps.example/", "has not stamped it")],
)
def test_why_there_is_no_stamp_is_said(told: Told, authority: str, said: str) -> None:
    proofs = replace(told.story.proofs, authority=authority)
    files = read_bundle(make_bundle(told.audit.data, KEY, publishing=Publishing(proofs=proofs)))
    both = compare(files, TRUST)
    assert both.exit_status == 0
    assert all(said in step.detail for step in both.published if step.name in STAMPS)
    standalone = {step["name"]: step["detail"] for step in both.standalone["steps"]}
    assert ("none was configured" in standalone["timestamps"]) is (authority == "")


@pytest.mark.parametrize(
    "kind", [EntryKind.key_commitment, EntryKind.salt, EntryKind.preregistration, EntryKind.verdict]
)
def test_a_deed_that_its_log_does_not_have_is_not_checked(audit_of: Any, kind: EntryKind) -> None:
    """The log's keeper says so himself, as of a key from before there was a log."""
    audit = audit_of(design=Design(families=2, marks=8, cues=4), canaries=False)
    told = Told(audit=audit, story=story(audit.document, audit.data, without=(kind,)))
    steps = told.steps(Publishing(proofs=told.story.proofs))
    assert steps["published"] is Status.not_checked
    files = read_bundle(make_bundle(audit.data, KEY, publishing=Publishing(proofs=told.story.proofs)))
    assert compare(files, TRUST).exit_status == 2


def test_an_audit_without_a_training_leaves_the_order_open_and_no_more(audit_of: Any) -> None:
    audit = audit_of(design=Design(families=2, marks=8, cues=4), canaries=False)
    without = (EntryKind.training, EntryKind.model)
    told = Told(audit=audit, story=story(audit.document, audit.data, without=without))
    steps = told.steps(Publishing(proofs=told.story.proofs))
    assert [name for name in PUBLISHED if steps[name] is not Status.passed] == ["order"]
    assert steps["order"] is Status.not_checked
    files = read_bundle(make_bundle(audit.data, KEY, publishing=Publishing(proofs=told.story.proofs)))
    assert compare(files, TRUST).exit_status == 0


def test_one_checkpoint_may_cover_commitment_and_verdict(told: Told) -> None:
    at_once = replace(told.story, first=told.story.last)
    assert told.failed(Publishing(proofs=at_once.proofs)) == set()


def test_cosignatures_on_a_checkpoint_are_passed_over(told: Told) -> None:
    witness = Signer(name="witness.example", kind=Kind.witness, seed=bytes(32))
    proofs = told.story.proofs
    proofs = replace(
        proofs,
        earlier=f"{proofs.earlier}{witness.sign(text_of(proofs.earlier), time=1)}\n",
        checkpoint=f"{proofs.checkpoint}{witness.sign(text_of(proofs.checkpoint), time=1)}\n",
    )
    assert told.failed(Publishing(proofs=proofs)) == set()


# --- lies ---

Lie = Callable[[Told, Publishing], Publishing]


def _proofs(change: Callable[[Told, Publication], Publication]) -> Lie:
    def lie(told: Told, honest: Publishing) -> Publishing:
        assert honest.proofs is not None
        changed = change(told, honest.proofs)
        assert changed != honest.proofs
        return replace(honest, proofs=changed)

    return lie


def _entry(kind: EntryKind, change: Callable[[Proven], Proven]) -> Lie:
    def edit(told: Told, proofs: Publication) -> Publication:
        entries = tuple(change(one) if one.kind is kind else one for one in proofs.entries)
        return replace(proofs, entries=entries)

    return _proofs(edit)


def _another_audit(told: Told, proofs: Publication) -> Publication:
    """All proofs of another audit in the same log, whole and well signed."""
    document = replace(told.audit.document, verification="verif-2")
    return story(document, b"other evidence", log=PaperLog(entries=[], times=[])).proofs


def _another_key_in_this_log(told: Told, proofs: Publication) -> Publication:
    """The commitment of another key, which is older."""
    key = replace(told.audit.document.key, id="wm-2", commitment="ab" * 32)
    other = story(replace(told.audit.document, key=key), told.audit.data).proofs
    entry = other.entry(EntryKind.key_commitment)
    assert entry is not None
    return replace(proofs, entries=(entry, *proofs.entries[1:]))


def _dropped(kind: EntryKind) -> Lie:
    def drop(told: Told, proofs: Publication) -> Publication:
        return replace(proofs, entries=tuple(one for one in proofs.entries if one.kind is not kind))

    return _proofs(drop)


def _signed_by(signer: Signer) -> Lie:
    def sign(told: Told, proofs: Publication) -> Publication:
        log = replace(told.story.log, signer=signer)
        return replace(proofs, earlier=log.note(told.story.first), checkpoint=log.note(told.story.last))

    return _proofs(sign)


def _wrong_root(told: Told, proofs: Publication) -> Publication:
    """Signed by the log itself, over a tree without this audit."""
    other = PaperLog()
    other.fill(len(told.story.log.entries))
    return replace(proofs, checkpoint=other.note(told.story.last))


def _another_trees_checkpoint(told: Told, proofs: Publication) -> Publication:
    """An old checkpoint that the log did sign, of a fork."""
    other = PaperLog()
    other.fill(40)
    return replace(proofs, earlier=other.note(told.story.first))


def _before_the_commitment(told: Told, proofs: Publication) -> Publication:
    size = told.story.places[EntryKind.key_commitment]
    log = told.story.log
    return replace(proofs, earlier=log.note(size), consistency=log.growth(size, told.story.last))


def _unsigned_bit(told: Told, proofs: Publication) -> Publication:
    head, last = proofs.checkpoint[:-6], proofs.checkpoint[-6:]
    return replace(proofs, checkpoint=head + ("A" if last[0] != "A" else "B") + last[1:])


def _out_of_order(order: tuple[EntryKind, ...]) -> Lie:
    return _proofs(lambda told, proofs: story(told.audit.document, told.audit.data, order=order).proofs)


def _edited(kind: EntryKind, **changes: Any) -> Lie:
    """An honest log of a service that did something else."""

    def edit(records: dict[EntryKind, dict[str, Any]]) -> None:
        records[kind] |= changes

    return _proofs(lambda told, proofs: story(told.audit.document, told.audit.data, edit=edit).proofs)


LATE = (
    EntryKind.salt,
    EntryKind.training,
    EntryKind.model,
    EntryKind.key_commitment,
    EntryKind.preregistration,
    EntryKind.verdict,
)
AUDITED_FIRST = (
    EntryKind.key_commitment,
    EntryKind.salt,
    EntryKind.preregistration,
    EntryKind.training,
    EntryKind.model,
    EntryKind.verdict,
)
LIES: dict[str, tuple[Lie, set[str]]] = {
    "proofs of another audit": (_proofs(_another_audit), {"published"}),
    "commitment of another key": (_proofs(_another_key_in_this_log), {"published"}),
    "wrong root": (_proofs(_wrong_root), {"published", "history"}),
    "swapped leaf": (
        _entry(EntryKind.verdict, lambda one: replace(one, index=one.index - 1)),
        {"published"},
    ),
    "another time": (
        _entry(EntryKind.verdict, lambda one: replace(one, logged_at="2026-11-24T00:00:00.000000Z")),
        {"published"},
    ),
    "dated back": (
        _entry(EntryKind.key_commitment, lambda one: replace(one, logged_at="2020-01-01T00:00:00.000000Z")),
        {"published"},
    ),
    "flipped hash": (
        _entry(EntryKind.salt, lambda one: replace(one, hashes=(bytes(32), *one.hashes[1:]))),
        {"published"},
    ),
    "shortened path": (
        _entry(EntryKind.salt, lambda one: replace(one, hashes=one.hashes[:-1])),
        {"published"},
    ),
    "lengthened path": (
        _entry(EntryKind.salt, lambda one: replace(one, hashes=(*one.hashes, bytes(32)))),
        {"published"},
    ),
    "index beyond the tree": (
        _entry(EntryKind.verdict, lambda one: replace(one, index=10**6)),
        {"published"},
    ),
    "another training": (
        _entry(EntryKind.training, lambda one: replace(one, record={**(one.record or {}), "job": "ftjob-9"})),
        {"published", "order"},
    ),
    "dropped commitment": (_dropped(EntryKind.key_commitment), {"published"}),
    "dropped verdict": (_dropped(EntryKind.verdict), {"published"}),
    "dropped training": (_dropped(EntryKind.training), {"published", "order"}),
    "old checkpoint of another tree": (_proofs(_another_trees_checkpoint), {"history"}),
    "checkpoint from before the commitment": (_proofs(_before_the_commitment), {"history"}),
    "dropped consistency": (_proofs(lambda told, proofs: replace(proofs, consistency=())), {"history"}),
    "padded consistency": (
        _proofs(lambda told, proofs: replace(proofs, consistency=(*proofs.consistency, bytes(32)))),
        {"history"},
    ),
    "foreign log key": (_signed_by(FOREIGN), {"checkpoints"}),
    "another log's name": (
        _signed_by(Signer(name="log.example/2", kind=Kind.log, seed=SIGNER.seed)),
        {"checkpoints"},
    ),
    "flipped signature": (_proofs(_unsigned_bit), {"checkpoints"}),
    "committed after the training": (_out_of_order(LATE), {"order"}),
    "trained after the audit was planned": (_out_of_order(AUDITED_FIRST), {"order"}),
    "training with another key": (
        _edited(EntryKind.training, watermark={"key": "wm-2", "commitment": "cd" * 32}),
        {"order"},
    ),
    "training without a mark": (_edited(EntryKind.training, watermark=None), {"order"}),
    "model of another job": (_edited(EntryKind.model, job="ftjob-2"), {"order"}),
    "another model than was asked": (_edited(EntryKind.model, model="ft:other"), {"order"}),
}


@pytest.mark.parametrize("name", LIES)
def test_each_lie_about_the_log_fails_in_its_own_step_in_both_checks(
    told: Told, honest: Publishing, name: str
) -> None:
    lie, expected = LIES[name]
    unstamped = replace(lie(told, honest), commitment_stamp=b"", verdict_stamp=b"")
    found = told.failed(unstamped)
    assert found == expected


def test_a_proof_that_is_dropped_and_said_to_be_absent_never_passes(told: Told, honest: Publishing) -> None:
    assert honest.proofs is not None
    for kind in ORDER:
        entries = tuple(one for one in honest.proofs.entries if one.kind is not kind)
        absent = (*honest.proofs.absent, kind)
        hidden = Publishing(proofs=replace(honest.proofs, entries=entries, absent=absent))
        steps = told.steps(hidden)
        assert {steps["published"], steps["order"]} & {Status.not_checked, Status.failed} or (
            kind is EntryKind.model
        )


def _stamps(change: Callable[[Told, Publishing], dict[str, bytes]]) -> Lie:
    def lie(told: Told, honest: Publishing) -> Publishing:
        given = {"commitment_stamp": honest.commitment_stamp, "verdict_stamp": honest.verdict_stamp}
        given |= change(told, honest)
        return Publishing(proofs=honest.proofs, **given)

    return lie


def _moment(told: Told, kind: EntryKind) -> datetime:
    return datetime.fromisoformat(told.story.log.times[told.story.places[kind]])


def _restamped(kind: EntryKind, authority: Authority = AUTHORITY, *, seconds: int = 0) -> Lie:
    """The commitment's checkpoint, stamped so many seconds after another entry."""

    def change(told: Told, honest: Publishing) -> Publishing:
        moment = _moment(told, kind) + timedelta(seconds=seconds)
        return told.story.stamped(authority, commitment=moment)

    return change


FALSE_STAMPS: dict[str, tuple[Lie, set[str]]] = {
    "over another hash": (
        _stamps(lambda t, h: {"commitment_stamp": AUTHORITY.stamp("x", datetime.now(UTC))}),
        {"commitment stamp"},
    ),
    "swapped": (
        _stamps(lambda t, h: {"commitment_stamp": h.verdict_stamp, "verdict_stamp": h.commitment_stamp}),
        set(STAMPS),
    ),
    "after the training": (_restamped(EntryKind.training, seconds=1), {"commitment stamp"}),
    "at the training": (_restamped(EntryKind.training), {"commitment stamp"}),
    "before the commitment": (_restamped(EntryKind.key_commitment, seconds=-61), {"commitment stamp"}),
    "by a stranger": (
        lambda t, h: t.story.stamped(STRANGER),
        set(STAMPS),
    ),
    "before the verdict": (
        lambda t, h: t.story.stamped(AUTHORITY, verdict=_moment(t, EntryKind.verdict) - timedelta(minutes=2)),
        {"verdict stamp"},
    ),
    "refused": (_stamps(lambda t, h: {"verdict_stamp": REFUSAL}), {"verdict stamp"}),
    "cut off": (_stamps(lambda t, h: {"verdict_stamp": h.verdict_stamp[:-1]}), {"verdict stamp"}),
    "padded": (_stamps(lambda t, h: {"verdict_stamp": h.verdict_stamp + b"x"}), {"verdict stamp"}),
}


@pytest.mark.parametrize("name", FALSE_STAMPS)
def test_each_false_stamp_fails_in_its_own_step(told: Told, honest: Publishing, name: str) -> None:
    lie, expected = FALSE_STAMPS[name]
    assert told.failed(lie(told, honest)) == expected


def test_without_roots_a_stamp_is_not_checked_but_its_text_and_time_are(
    told: Told, honest: Publishing
) -> None:
    rootless = replace(TRUST, authorities=())
    steps = told.steps(honest, rootless)
    assert {steps[name] for name in STAMPS} == {Status.not_checked}
    late, _ = FALSE_STAMPS["after the training"]
    assert told.failed(late(told, honest), rootless) == {"commitment stamp"}


def test_without_a_logs_key_signatures_are_not_checked(told: Told, honest: Publishing) -> None:
    steps = told.steps(honest, replace(TRUST, logs=()))
    assert [name for name, status in steps.items() if status is not Status.passed] == ["checkpoints"]


def test_flipping_a_bit_of_a_stamp_never_changes_what_it_says(told: Told, honest: Publishing) -> None:
    """Some bytes of a reply are under no signature (versions, an algorithm's name): they say nothing."""
    assert honest.proofs is not None
    reply, text = honest.verdict_stamp, text_of(honest.proofs.checkpoint)
    said = stamped_at(reply, text)
    draw = random.Random(1)
    for place in range(len(reply)):
        changed = bytearray(reply)
        changed[place] ^= 1 << draw.randrange(8)
        try:
            assert verify_stamp(bytes(changed), text, [AUTHORITY.root]) == said
        except TimestampInvalid:
            continue


def test_openssl_agrees_on_a_stamp_as_verify_py_says(told: Told, honest: Publishing, tmp_path: Path) -> None:
    """The command that the standalone check prints, on the files of the bundle."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: only rfc3161-client has read these stamps")
    files = read_bundle(make_bundle(told.audit.data, KEY, publishing=honest))
    for name in (COMMITMENT_STAMP, VERDICT_STAMP):
        (tmp_path / name).write_bytes(files[name])
    (tmp_path / "CA").write_text(AUTHORITY.pem)
    (tmp_path / "other").write_text(STRANGER.pem)
    steps = verify.audit(files, {}, {})["steps"]
    how = next(step["detail"] for step in steps if step["name"] == "timestamps")
    commands = how.split(" && ")
    assert len(commands) == 2
    for command in commands:
        assert subprocess.run(command.split(), cwd=tmp_path, capture_output=True).returncode == 0
        foreign = command.replace("CAfile CA", "CAfile other").split()
        assert subprocess.run(foreign, cwd=tmp_path, capture_output=True).returncode != 0


# --- the file of proofs, and of trust ---


def test_the_file_of_proofs_is_read_as_it_was_written(honest: Publishing) -> None:
    assert honest.proofs is not None
    assert Publication.from_bytes(honest.proofs.to_bytes()) == honest.proofs


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.pop("absent"),
        lambda value: value.update(more=1),
        lambda value: value["entries"][0].update(index="0"),
        lambda value: value["entries"][0].update(kind="other"),
        lambda value: value["entries"][0].update(record={}),
        lambda value: value["entries"][2].pop("record"),
        lambda value: value["entries"][0].update(hashes=["00"]),
        lambda value: value.update(consistency="00" * 32),
        lambda value: value.update(format="doublei-log-proof/2"),
    ],
)
def test_another_file_of_proofs_is_refused(honest: Publishing, edit: Callable[[Any], object]) -> None:
    assert honest.proofs is not None
    value = json.loads(honest.proofs.to_bytes())
    edit(value)
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(EvidenceError):
        Publication.from_bytes(data)
    with pytest.raises(PublicationError):
        Publication.from_bytes(b"{}")


def test_one_file_holds_all_that_is_trusted() -> None:
    text = f"# mine\n{public_line(PUBLIC, 'auditor')}\n{SIGNER.public}\n{AUTHORITY.pem}"
    assert parse_trust(text) == TRUST
    assert verify.trusted_keys(text) == (dict(TRUST.signers), TRUST.log_keys)


def test_a_witnesses_key_is_passed_over() -> None:
    witness = Signer(name="witness.example", kind=Kind.witness, seed=bytes(32)).public
    text = f"{SIGNER.public}\n{witness}\n"
    assert parse_trust(text).logs == (SIGNER.public,)
    assert verify.trusted_keys(text) == ({}, TRUST.log_keys)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "rsa 00", "ed25519 00", "log+00000000+AAAA", "-----BEGIN CERTIFICATE-----\nx\n"],
)
def test_what_is_no_root_of_trust_is_refused(text: str) -> None:
    with pytest.raises(TrustError):
        parse_trust(text)

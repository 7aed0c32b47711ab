"""The audit of a log from outside: every entry read again, every hash made again, held against signatures.

Whoever holds the database can change it as a whole, nodes and checkpoints included, and a log that was
rewritten with care is consistent with itself. What it can't do is change a checkpoint that somebody else
keeps: the root at that checkpoint's size is made again from the entries, not taken from a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from evidence.errors import MalformedEntry, NoteInvalid
from evidence.log.checkpoint import Checkpoint
from evidence.log.entry import Entry, EntryKind
from evidence.log.merkle import EMPTY_ROOT, Frontier, leaf_hash
from evidence.log.note import Note, PublicKey, verify
from evidence.log.succession import KeyHistory
from evidence.steps import Status, Step, none_failed

Entries = Callable[[int], Iterable[bytes]]
"""The first so many entries of the log, in order; fewer if it has no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """Whose cosignatures are wanted below the present checkpoint."""

    keys: Sequence[PublicKey]
    quorum: int
    """how many of them must be there"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """One witness and what stands of it below a checkpoint."""

    key: PublicKey
    at: int | None
    """seconds since the epoch, as it says; None: nothing stands there, or not its signature"""
    forged: bool = False
    """a signature names it and is not its own"""

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {"name": self.key.name, "key": str(self.key), "cosigned_at": self.at, "forged": self.forged}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What an audit of a log found."""

    steps: tuple[Step, ...]
    key: PublicKey
    """the one that signs the log now"""
    trusted: bool
    """whether the key came from elsewhere than the log's own service"""
    cosigned: tuple[Cosigned, ...]
    """of the witnesses that were asked for"""
    checkpoint: Checkpoint | None
    """the present one, if the key has signed it"""

    @property
    def consistent(self) -> bool:
        """No step failed."""
        return none_failed(self.steps)

    def to_record(self) -> dict[str, object]:
        """For machines."""
        made = self.checkpoint
        return {
            "consistent": self.consistent,
            "trusted": self.trusted,
            "origin": self.key.name,
            "key": str(self.key),
            "size": None if made is None else made.size,
            "root": None if made is None else made.root.hex(),
            "witnesses": [one.to_record() for one in self.cosigned],
            "steps": [step.to_record() for step in self.steps],
        }


@dataclass(slots=True)
class _Reading:
    """What one pass over the entries found."""

    count: int = 0
    roots: dict[int, bytes] = field(default_factory=lambda: {0: EMPTY_ROOT})
    """made again at the sizes that checkpoints speak of, as far as the log reaches"""
    malformed: str = ""
    back_in_time: str = ""
    successions: dict[int, str] = field(default_factory=dict)
    """digests of the entries that tell of a new key, by index"""


@dataclass(slots=True)
class _Steps:
    made: list[Step] = field(default_factory=list)

    def add(self, name: str, status: Status, detail: str) -> None:
        self.made.append(Step(number=len(self.made) + 1, name=name, status=status, detail=detail))

    def judge(self, name: str, good: bool, passed: str, failed: str) -> None:
        self.add(name, Status.passed if good else Status.failed, passed if good else failed)

    def skip(self, name: str, why: str) -> None:
        self.add(name, Status.not_checked, why)


def audit(
    *,
    key: PublicKey,
    trusted: bool,
    note: str | None,
    refusal: str = "",
    earlier: str | None,
    entries: Entries,
    successions: Sequence[tuple[int, str]] = (),
    witnesses: Witnesses | None = None,
) -> LogReport:
    """Check a log against its checkpoint, and against an earlier one that was kept elsewhere.

    Args:
        key: a key of the log, present or retired; ``trusted`` says whether it came from elsewhere than the
            log's service.
        note: the present checkpoint as the service gave it; None if it refused, as ``refusal`` says.
        earlier: a checkpoint that was saved before.
        entries: called once, for as many entries as a checkpoint speaks of.
        successions: index and note of every change of the key, as the service gave them.
        witnesses: whose cosignatures must stand below the present checkpoint.
    """
    steps = _Steps()
    try:
        history, broken = KeyHistory.of(key, successions), ""
    except NoteInvalid as error:
        history, broken = KeyHistory(first=key), str(error)
    now, fault = _opened(note, history) if note is not None else (None, f"the service gave none: {refusal}")
    steps.judge("checkpoint", now is not None, f"{key.name} signed one of {_size(now)} entries", fault)
    if not trusted:
        steps.skip("key", "the key is what the service says; name one that you trust with --trust")
    elif key == history.current:
        steps.add("key", Status.passed, "the log's key is the one you named")
    else:
        steps.add("key", Status.passed, f"the key you named has retired; trust from now on {history.current}")
    before, earlier_fault = (None, "") if earlier is None else _opened(earlier, history)
    sizes = {made.size for made in (now, before) if made is not None}
    reading = _read(entries(max(sizes)), sizes) if sizes else None
    _judge_entries(steps, reading, now, before)
    _judge_history(steps, reading, now, before, given=earlier is not None, fault=earlier_fault)
    _judge_keys(steps, reading, history, broken)
    cosigned = () if witnesses is None else cosigned_by(note, witnesses.keys)
    _judge_witnesses(steps, now, cosigned, witnesses)
    return LogReport(
        steps=tuple(steps.made), key=history.current, trusted=trusted, checkpoint=now, cosigned=cosigned
    )


def cosigned_by(note: str | None, witnesses: Sequence[PublicKey]) -> tuple[Cosigned, ...]:
    """Of each witness, whether it has cosigned a note; a text that is none has no cosignatures."""
    try:
        read = None if note is None else Note.from_text(note)
    except NoteInvalid:
        read = None
    found = []
    for key in witnesses:
        try:
            found.append(Cosigned(key=key, at=None if read is None else verify(read, [key]).get(key)))
        except NoteInvalid:
            found.append(Cosigned(key=key, at=None, forged=True))
    return tuple(found)


def told(cosigned: Sequence[Cosigned]) -> str:
    """Who has cosigned and when, and who has not, on one line."""
    there = [f"{one.key.name} at {_moment(one.at)}" for one in cosigned if one.at is not None]
    absent = [one.key.name for one in cosigned if one.at is None and not one.forged]
    forged = [one.key.name for one in cosigned if one.forged]
    parts = [f"cosigned by {', '.join(there)}" if there else "cosigned by nobody"]
    parts += [f"not by {', '.join(absent)}"] if absent else []
    parts += [f"forged: {', '.join(forged)}"] if forged else []
    return "; ".join(parts)


def _judge_keys(steps: _Steps, reading: _Reading | None, history: KeyHistory, broken: str) -> None:
    if broken:
        steps.add("key changes", Status.failed, broken)
        return
    if reading is None:
        steps.skip("key changes", "there is no checkpoint to hold them against")
        return
    # A change may have been made after the checkpoint was signed.
    told_of = {one.index: one.record_sha256 for one in history.changes if one.index < reading.count}
    entered = {index: digest for index, digest in reading.successions.items() if index not in told_of}
    wrong = [index for index, digest in told_of.items() if reading.successions.get(index) != digest]
    if entered:
        steps.add("key changes", Status.failed, f"entry {min(entered)} changes the key, and is not shown")
    elif wrong:
        steps.add("key changes", Status.failed, f"entry {min(wrong)} does not tell of the key change shown")
    else:
        count = len(told_of)
        steps.add("key changes", Status.passed, f"{count}, each in the log" if count else "none")


def _judge_witnesses(
    steps: _Steps, now: Checkpoint | None, cosigned: Sequence[Cosigned], wanted: Witnesses | None
) -> None:
    if wanted is None:
        steps.skip("witnesses", "none was named: whether others were shown the same log is not known")
    elif now is None:
        steps.skip("witnesses", "there is no present checkpoint")
    else:
        there = sum(one.at is not None for one in cosigned)
        good = there >= wanted.quorum and not any(one.forged for one in cosigned)
        detail = told(cosigned)
        steps.judge("witnesses", good, detail, f"{there} of the {wanted.quorum} wanted: {detail}")


def _moment(seconds: int | None) -> str:
    """A witness may say any number of seconds; those beyond the calendar are shown as they are."""
    try:
        return datetime.fromtimestamp(seconds or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


def _judge_entries(
    steps: _Steps, reading: _Reading | None, now: Checkpoint | None, before: Checkpoint | None
) -> None:
    if reading is None:
        for name in ("entries", "times", "root"):
            steps.skip(name, "there is no checkpoint to hold them against")
        return
    size = _size(now or before)
    missing = f"the checkpoint speaks of {size} entries, the log gave {reading.count}"
    complete = reading.count >= size
    steps.judge(
        "entries",
        complete and not reading.malformed,
        f"{reading.count} entries, none missing",
        reading.malformed if complete else missing,
    )
    steps.judge(
        "times", not reading.back_in_time, "no entry is older than the one before", reading.back_in_time
    )
    if now is None:
        steps.skip("root", "there is no present checkpoint")
    else:
        steps.judge(
            "root",
            reading.roots.get(now.size) == now.root,
            "the root made from the entries is the signed one",
            "the entries do not give the signed root: one was changed, or is missing",
        )


def _judge_history(
    steps: _Steps,
    reading: _Reading | None,
    now: Checkpoint | None,
    before: Checkpoint | None,
    *,
    given: bool,
    fault: str,
) -> None:
    names = ("growth", "one root", "history")
    if before is None:
        if given:
            steps.add("earlier checkpoint", Status.failed, fault)
        else:
            steps.skip("earlier checkpoint", "none was given: a log rewritten as a whole looks the same")
        for name in names:
            steps.skip(name, "there is no earlier checkpoint")
        return
    steps.add("earlier checkpoint", Status.passed, f"signed by the log, of {before.size} entries")
    if now is None:
        steps.skip("growth", "there is no present checkpoint")
        steps.skip("one root", "there is no present checkpoint")
    else:
        steps.judge(
            "growth",
            now.size >= before.size,
            f"the log has grown by {now.size - before.size} entries",
            f"the log had {before.size} entries and signs {now.size}: it was set back",
        )
        steps.judge(
            "one root",
            now.size != before.size or now.root == before.root,
            "no size was signed with two roots",
            f"two roots are signed for {now.size} entries: the log was forked",
        )
    made = None if reading is None else reading.roots.get(before.size)
    if made is None:
        steps.skip("history", f"the log gives fewer than the {before.size} entries of the earlier checkpoint")
    else:
        steps.judge(
            "history",
            made == before.root,
            "the log still begins with what the earlier checkpoint covers",
            "the log does not begin as it did: entries under the earlier checkpoint were changed",
        )


def _read(entries: Iterable[bytes], sizes: set[int]) -> _Reading:
    """One pass, in memory that does not grow with the log."""
    found, frontier, last = _Reading(), Frontier(), ""
    for data in entries:
        index = frontier.size
        frontier.add(leaf_hash(data))
        try:
            read = Entry.from_bytes(data)
        except MalformedEntry as error:
            found.malformed = found.malformed or f"entry {index}: {error}"
        else:
            logged_at = read.logged_at
            if logged_at < last:
                found.back_in_time = found.back_in_time or f"entry {index} is of {logged_at}, after {last}"
            last = max(last, logged_at)
            if read.kind == EntryKind.log_key:
                found.successions[index] = read.record_sha256
        if frontier.size in sizes:
            found.roots[frontier.size] = frontier.root()
    found.count = frontier.size
    return found


def _opened(text: str, history: KeyHistory) -> tuple[Checkpoint | None, str]:
    try:
        return history.opened(Note.from_text(text)), ""
    except NoteInvalid as error:
        return None, str(error)


def _size(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else checkpoint.size

"""A running audit's journal on disk: every question is in it before it leaves.

JSON lines, only ever added. The first one is the pre-registration; a run that was killed is taken up from
here, and a question that was sent without its answer being on record counts as missing. Neither the key's
secret nor the suspect's credential is in it, but its questions are one family's: the file is private, and
gone once the evidence is written.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cli.errors import CliError, UsageMistake
from evidence.document import UNKNOWN, Exchange
from evidence.keyfile import now
from evidence.remaining import spent_seconds
from probe.session import Outcome
from probe.transport import Peer

FORMAT = "doublei-journal/1"


class JournalNotWritten(CliError):
    """What was to be sent could not be put on record, so it was not sent."""

    code = "journal_not_written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What was fixed before the first question."""

    verification: str
    registered_at: str
    nonce: str
    """hex; hidden by its commitment in the pre-registration until the evidence shows it"""
    preregistration: str
    """the canonical text"""

    def to_record(self) -> dict[str, object]:
        """Texts only."""
        return {
            "format": FORMAT,
            "verification": self.verification,
            "registered_at": self.registered_at,
            "nonce": self.nonce,
            "preregistration": self.preregistration,
        }


class AuditJournal:
    """One audit's file, held by one process. A `probe.session.Journal`; use it as a context manager.

    Raises:
        UsageMistake: another process holds it, or it is no journal, or can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sent: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._came: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._sittings: list[str] = []
        self._addresses: set[str] = set()
        self._certificates: set[str] = set()
        self.header: Header | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageMistake(f"{path}: {error.strerror}") from None
        try:
            self._size = self._take_up()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.header is None:
            # nothing was registered, so there is nothing to go on with
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def begin(self, header: Header) -> None:
        """Put on record what is fixed. Once, before all else."""
        self._append(header.to_record())
        self.header = header

    def sit(self) -> None:
        """A run takes up the asking."""
        moment = now()
        self._append({"sitting": moment})
        self._sittings.append(moment)

    async def before_send(self, index: int, attempt: int, body: bytes) -> None:
        """Returns when the sending is on the disk. Raises `JournalNotWritten`."""
        sent = {"index": index, "attempt": attempt, "at": now(), "request": body.decode("ascii")}
        self._append({"sent": sent})
        self._sent[(index, attempt)] = sent

    async def answered(self, outcome: Outcome) -> None:
        """Raises `JournalNotWritten`."""
        came = {
            "index": outcome.index,
            "attempt": outcome.attempt,
            "at": now(),
            "outcome": outcome.code,
            "http_status": outcome.http_status,
            "text": outcome.text,
            "body": base64.b64encode(outcome.response_body).decode("ascii"),
            "latency_ms": outcome.latency_ms,
        }
        # lost, it counts as missing; so the next sending's sync is early enough
        self._append({"came": came}, durable=False)
        self._came[(outcome.index, outcome.attempt)] = came

    def met(self, peer: Peer) -> None:
        """Who was connected to."""
        self._append({"peer": [sorted(peer.addresses), sorted(peer.certificates_sha256)]})
        self._addresses |= peer.addresses
        self._certificates |= peer.certificates_sha256

    @property
    def peer(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Addresses and certificates of all runs, sorted."""
        return tuple(sorted(self._addresses)), tuple(sorted(self._certificates))

    @property
    def started_at(self) -> str:
        """When the first run began to ask; empty before."""
        return self._sittings[0] if self._sittings else ""

    def transcript(self) -> tuple[Exchange, ...]:
        """All that was sent, in the order of sending."""
        return tuple(_exchange(sent, self._came.get(place)) for place, sent in self._sent.items())

    def spent_seconds(self, *, all_runs: bool) -> float:
        """How long has been asked: by every run so far without the pauses between them, or by this one."""
        transcript = self.transcript()
        if not all_runs:
            return spent_seconds(transcript, self._sittings[-1])
        ends = [*self._sittings[1:], "~"]
        return sum(
            spent_seconds([item for item in transcript if start <= item.sent_at < end])
            for start, end in zip(self._sittings, ends, strict=True)
        )

    def _append(self, record: Mapping[str, object], *, durable: bool = True) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            # half a line would spoil the next one
            os.ftruncate(self._descriptor, self._size)
            raise JournalNotWritten(f"{self.path}: {error.strerror}; the audit stopped") from None
        self._size += len(line)

    def _take_up(self) -> int:
        """Read what earlier runs wrote; returns its length in bytes, without the line they were lost in."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageMistake(f"{self.path}: another run of this audit is going on") from None
        with open(self._descriptor, "rb", closefd=False) as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            self._read(lines)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UsageMistake(f"{self.path} is no journal of an audit, or is damaged") from None
        if self.header is None and data and not data.startswith(b'{"format":"doublei-journal'):
            raise UsageMistake(f"{self.path} is no journal of an audit")
        os.ftruncate(self._descriptor, len(whole))
        return len(whole)

    def _read(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for number, line in enumerate(lines):
            if number == 0:
                if line.get("format") != FORMAT:
                    raise ValueError("another format")
                self.header = Header(
                    verification=line["verification"],
                    registered_at=line["registered_at"],
                    nonce=line["nonce"],
                    preregistration=line["preregistration"],
                )
            elif "sitting" in line:
                self._sittings.append(line["sitting"])
            elif "sent" in line:
                self._sent[(line["sent"]["index"], line["sent"]["attempt"])] = line["sent"]
            elif "came" in line:
                self._came[(line["came"]["index"], line["came"]["attempt"])] = line["came"]
            else:
                self._addresses.update(line["peer"][0])
                self._certificates.update(line["peer"][1])


def _exchange(sent: Mapping[str, Any], came: Mapping[str, Any] | None) -> Exchange:
    asked = {"index": sent["index"], "attempt": sent["attempt"], "sent_at": sent["at"]}
    if came is None:
        return Exchange(**asked, request=sent["request"], outcome=UNKNOWN)
    return Exchange(
        **asked,
        request=sent["request"],
        outcome=came["outcome"],
        http_status=came["http_status"],
        text=came["text"],
        body=base64.b64decode(came["body"]),
        latency_ms=came["latency_ms"],
        answered_at=came["at"],
    )

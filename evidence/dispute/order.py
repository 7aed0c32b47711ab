"""Which of two commitments came first, and what that rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from evidence.dispute.cross import A, B, Party
from evidence.errors import ReceiptInvalid
from evidence.log.entry import EntryKind
from evidence.log.note import PublicKey
from evidence.log.receipt import Proven, Receipt, proven


class Basis(StrEnum):
    """What an order rests on, the strongest first."""

    one_log = "one_log"
    """the places of both entries in one signed tree"""
    two_clocks = "two_clocks"
    """the times of two entries that no one tree is shown to hold"""
    conceded = "conceded"
    """one is in a log, and the other's own file says that it is younger"""
    word = "word"
    """the times in the files, which their makers wrote"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """When a key was committed to, as far as it is shown."""

    claimed_at: str
    """by whoever kept the key"""
    entry: Proven | None
    fault: str
    """why there is no entry"""

    @property
    def at(self) -> str:
        """The log's time, or else the claimed one."""
        return self.claimed_at if self.entry is None else self.entry.entry.logged_at

    def to_record(self) -> dict[str, object]:
        """For machines."""
        entry = self.entry
        return {
            "claimed_at": self.claimed_at,
            "log": None if entry is None else entry.log.name,
            "index": None if entry is None else entry.index,
            "logged_at": None if entry is None else entry.entry.logged_at,
            "checkpoint_size": None if entry is None else entry.checkpoint.size,
            "not_proven_because": self.fault,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order of two commitments."""

    dated: Mapping[str, Dated]
    earlier: str | None
    """A or B; None where they are of one time"""
    basis: Basis
    times: Mapping[str, str]
    """that were compared"""
    note: str
    """what keeps it from being proven; empty where it is"""

    @property
    def is_proven(self) -> bool:
        """Whether it rests on one log's tree and not on clocks or words."""
        return self.basis is Basis.one_log

    def to_record(self) -> dict[str, object]:
        """For machines."""
        return {
            "earlier": self.earlier,
            "basis": self.basis.value,
            "proven": self.is_proven,
            "note": self.note,
            "commitments": {letter: dated.to_record() for letter, dated in self.dated.items()},
        }


def order_of(
    parties: Mapping[str, Party], receipts: Mapping[str, Receipt], logs: Sequence[PublicKey]
) -> Order:
    """Put two commitments in order.

    Args:
        receipts: by party, where there are any.
        logs: the keys of logs whose signature counts.
    """
    dated = {letter: _dated(parties[letter], receipts.get(letter), logs) for letter in (A, B)}
    first, second = dated[A].entry, dated[B].entry
    if first is not None and second is not None:
        basis, note = _both_logged(first, second)
    else:
        basis, note = _not_both_logged(dated)
    times = {letter: item.claimed_at if basis is Basis.word else item.at for letter, item in dated.items()}
    earlier: str | None
    if basis is Basis.one_log and first is not None and second is not None:
        # an entry tells of one commitment, so the places differ
        earlier = A if first.index < second.index else B
    else:
        earlier = None if times[A] == times[B] else min((A, B), key=times.__getitem__)
    return Order(dated=dated, earlier=earlier, basis=basis, times=times, note=note)


def _dated(party: Party, receipt: Receipt | None, logs: Sequence[PublicKey]) -> Dated:
    claimed = party.created_at
    if receipt is None:
        return Dated(claimed_at=claimed, entry=None, fault="no log's receipt was given")
    try:
        entry = proven(receipt, logs)
        # the owner's name is in the commitment's hash
        said = (entry.entry.kind, entry.record.get("commitment"))
        if said != (EntryKind.key_commitment.value, party.commitment):
            raise ReceiptInvalid(f"entry {entry.index} is not of this commitment")
    except ReceiptInvalid as error:
        return Dated(claimed_at=claimed, entry=None, fault=str(error))
    return Dated(claimed_at=claimed, entry=entry, fault="")


def _both_logged(first: Proven, second: Proven) -> tuple[Basis, str]:
    if first.log != second.log:
        return (
            Basis.two_clocks,
            f"the order rests on the clocks of two logs, {first.log.name} and {second.log.name}",
        )
    if first.checkpoint == second.checkpoint:
        return Basis.one_log, ""
    if first.checkpoint.size == second.checkpoint.size:
        return (
            Basis.two_clocks,
            "the log has signed two trees of one size: it shows different people different logs",
        )
    return Basis.two_clocks, (
        f"the receipts are of two checkpoints, of {first.checkpoint.size} and {second.checkpoint.size} "
        "entries, and nothing shows that one continues the other: make both for one checkpoint"
    )


def _not_both_logged(dated: Mapping[str, Dated]) -> tuple[Basis, str]:
    for letter, other in ((A, B), (B, A)):
        entry = dated[letter].entry
        if entry is None:
            continue
        if dated[other].claimed_at > dated[letter].at:
            return Basis.conceded, (
                f"{letter}'s commitment alone is shown to be in a log; {other}'s own file says that it "
                "is younger"
            )
        return Basis.word, (
            f"{letter}'s commitment was in a log by {dated[letter].at}; {other}'s own file names an "
            "earlier time, which nothing proves"
        )
    return Basis.word, (
        "neither commitment is shown to be in a log: both times are the word of those who made the files, "
        "and anybody can write an earlier one"
    )

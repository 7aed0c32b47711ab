"""Cosigning another log's checkpoint: only one that its key has signed and that continues what was seen."""

from __future__ import annotations

import time

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from evidence.errors import NoteInvalid, ProofInvalid
from evidence.log.checkpoint import Checkpoint, opened
from evidence.log.merkle import EMPTY_ROOT, verify_consistency
from evidence.log.note import Note, Signature, verify
from evidence.log.witness import Submission
from service.errors import Conflict, Forbidden, InvalidRequest, NotFound, ServiceError
from service.settings import Witness
from service.witness import statements

log = structlog.get_logger(__name__)


class UnknownLog(NotFound):
    """No log of this name is witnessed here."""

    code = "unknown_log"


class NotSignedByLog(Forbidden):
    """No key that is trusted for this log has signed the checkpoint."""

    code = "unknown_log_key"


class OtherSize(Conflict):
    """The witness knows another size than the log thinks, or another root of the same size."""

    code = "witness_size"

    def __init__(self, message: str, *, known: int) -> None:
        super().__init__(message)
        self.known = known


class NotConsistent(ServiceError):
    """The checkpoint does not follow from the one that was cosigned before."""

    status = 422
    code = "not_consistent"


async def add_checkpoint(session: AsyncSession, witness: Witness, submission: Submission) -> Signature:
    """Cosign a checkpoint and remember it, in the caller's transaction, which must be durable before the
    cosignature is handed out.

    Raises:
        UnknownLog: another log's.
        NotSignedByLog: nobody trusted has signed it.
        InvalidRequest: it is no checkpoint, or smaller than the size that it is said to continue.
        OtherSize: the newest checkpoint known is not of that size, or a second root is shown for it.
        NotConsistent: the proof does not hold: the log was rewritten.
    """
    shown = _signed(witness, submission.note)
    if submission.old_size > shown.size:
        raise InvalidRequest(
            f"A log of {submission.old_size} entries is not continued by one of {shown.size}."
        )
    found = (await session.execute(statements.known(shown.origin))).one_or_none()
    size, root = (found[0], found[1]) if found else (0, EMPTY_ROOT)
    if submission.old_size != size:
        raise OtherSize(f"The newest checkpoint known here is of {size} entries.", known=size)
    if shown.size == size and shown.root != root:
        # Two roots of one size under the log's own signature: kept whole, for it proves what the log did.
        log.error("witness.fork_shown", origin=shown.origin, size=size, note=str(submission.note))
        raise OtherSize(f"Another root of {size} entries was cosigned here: the log was forked.", known=size)
    try:
        verify_consistency(size, shown.size, root, shown.root, submission.proof)
    except ProofInvalid as error:
        # Anybody can send a bad proof along with a good checkpoint: this proves nothing against the log.
        log.warning("witness.proof_refused", origin=shown.origin, known=size, shown=shown.size)
        raise NotConsistent(f"The checkpoint does not continue the one of {size} entries: {error}.") from None
    before = Checkpoint(origin=shown.origin, size=size, root=root)
    if (
        await session.execute(statements.remember(shown, str(submission.note), before=before))
    ).first() is None:
        again = (await session.execute(statements.known(shown.origin))).one()
        raise OtherSize(f"The newest checkpoint known here is of {again[0]} entries.", known=again[0])
    return witness.signer.sign(submission.note.text, time=int(time.time()))


def _signed(witness: Witness, note: Note) -> Checkpoint:
    origin = note.text.split("\n", 1)[0]
    keys = [key for key in witness.logs if key.name == origin]
    if not keys:
        raise UnknownLog("This log is not witnessed here: ask the operator to add its key.")
    for key in keys:
        try:
            signed = key in verify(note, [key])
        except NoteInvalid:
            continue
        if signed:
            try:
                return opened(note, key)
            except NoteInvalid as error:
                raise InvalidRequest(f"Not a checkpoint: {error}.") from None
    raise NotSignedByLog("No key that is trusted for this log has signed the checkpoint.")

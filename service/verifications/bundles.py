"""The bundle of an audit: its evidence, with what the log and timestamp authorities say of it, signed."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from evidence.bundle import Publishing, make_bundle
from service.log.proving import Subjects, publishing
from service.log.signers import Signers
from service.verifications import statements
from service.verifications.usecases import Audit


async def published(session: AsyncSession, audit: Audit, signers: Signers, *, authority: str) -> Publishing:
    """What the log says of an audit that has evidence.

    Only a training with the key is named, that is, one of the claimant's: who else trained here is not to be
    told. It is the one that gave the suspect's model, or else the first one with the key.

    Raises:
        LogInconsistent: the log is not the one that was signed.
    """
    row = audit.verification
    job = await session.scalar(statements.job_of_model(str(row.suspect["model"]), key_id=row.key_id))
    gave_suspect = job is not None
    if job is None:
        job = await session.scalar(statements.first_job(row.key_id))
    subjects = Subjects(key=row.key_id, verification=row.id, job=job, gave_suspect=gave_suspect)
    return await session.run_sync(publishing, signers, subjects, authority=authority)


def bundled(evidence: bytes, found: Publishing, key: Ed25519PrivateKey) -> bytes:
    """The zip. Takes a moment: not for an event loop."""
    return make_bundle(evidence, key, publishing=found)

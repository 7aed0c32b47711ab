"""Use cases of uploaded files."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.models import File
from service.errors import NotFound
from service.files import statements
from service.files.errors import InvalidDataset
from service.files.validation import validate
from service.ids import new_id
from service.storage import Incoming, Storage

PURPOSES = ("fine-tune",)


async def add(
    session: AsyncSession, incoming: Incoming, *, organization_id: str, filename: str, purpose: str
) -> File:
    """Validate what was received and, if it is a dataset, keep it.

    Reading and syncing happen in threads, and no transaction is open meanwhile. The blob's lock is held
    from before the rename until the row is committed, so a delete of the same bytes can't fall in between.

    Raises:
        InvalidDataset: it is not; nothing was stored.
    """
    await asyncio.to_thread(incoming.flush)
    report = await asyncio.to_thread(validate, incoming.path, filename)
    if not report.valid:
        raise InvalidDataset(report)
    await asyncio.to_thread(incoming.sync)
    await session.execute(statements.lock_blob(incoming.blob().sha256))
    blob = await asyncio.to_thread(incoming.keep)
    row = File(
        id=new_id("file"),
        organization_id=organization_id,
        purpose=purpose,
        filename=filename,
        bytes=blob.size_bytes,
        sha256=blob.sha256,
        validation=report.to_record(),
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row


async def get(session: AsyncSession, file_id: str, *, organization_id: str) -> File:
    """One file.

    Raises:
        NotFound: there is none, or it is another organization's.
    """
    row = (await session.scalars(statements.one(file_id, organization_id))).one_or_none()
    if row is None:
        raise NotFound(f"No such file: {file_id}", param="id", code="file_not_found")
    return row


async def delete(session: AsyncSession, storage: Storage, file_id: str, *, organization_id: str) -> None:
    """Delete a file, and its bytes unless another file or an unfinished job still needs them.

    The row is committed as deleted first; only then are bytes removed, each blob in a transaction that
    holds its lock. Bytes that a job kept go with the organization's next delete after that job ended.

    Raises:
        NotFound: there is none, or it is another organization's.
    """
    found = (await session.execute(statements.mark_deleted(file_id, organization_id))).scalar_one_or_none()
    if found is None:
        raise NotFound(f"No such file: {file_id}", param="id", code="file_not_found")
    await session.commit()
    await remove_unneeded(session, storage, organization_id)


async def remove_unneeded(session: AsyncSession, storage: Storage, organization_id: str) -> None:
    """Remove the bytes of an organization's deleted files, once their deletion is committed. Commits."""
    candidates = (await session.scalars(statements.unreferenced_blobs(organization_id))).all()
    for digest in candidates:
        if not storage.path(digest).exists():
            continue
        await session.execute(statements.lock_blob(digest))
        still = await session.scalars(statements.unreferenced_blobs(organization_id, sha256=digest))
        if still.one_or_none() is not None:
            await asyncio.to_thread(storage.remove, digest)
        await session.commit()

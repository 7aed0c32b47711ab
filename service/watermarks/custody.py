"""Keys that come from their owner or go to it: a commitment alone, a key file in, a key file out."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from evidence.keyfile import KeyFile, Published, Registered, Salt
from evidence.provenance import timestamp
from service.db.models import WatermarkKey
from service.errors import Conflict, InvalidRequest
from service.ids import is_id, new_id
from service.sealing import Sealer
from service.trail.usecases import Action, Actor, record
from service.watermarks import statements
from service.watermarks.secrets import OWNER_HELD, DrawnSecret, load_key
from service.watermarks.usecases import (
    History,
    committed_first,
    create,
    get_owned,
    key_event,
    salted,
)
from watermark.significance import SELF_GENERATED

COMMITTED = "committed"


class ForeignClaimant(InvalidRequest):
    """The key was committed under the id of another organization."""

    code = "foreign_claimant"


class CommitmentSpent(Conflict):
    """The commitment was registered before, and its key was deleted."""

    code = "commitment_spent"


class NotExportable(InvalidRequest):
    """There is no secret that a key file could hold."""

    code = "key_not_exportable"


async def register(session: AsyncSession, published: Published, *, actor: Actor, name: str) -> WatermarkKey:
    """Put an owner's commitment on record and draw its salt. The same commitment again is the same key with
    the same salt: a lost answer costs nothing, and nobody gets a second salt to choose from.

    Raises:
        ForeignClaimant: see there.
        CommitmentSpent: the key was deleted.
    """
    _check_claimant(published.owner, actor)
    organization_id, commitment = actor.organization_id, published.committed.commitment
    await session.execute(statements.hold_commitment(organization_id, commitment))
    row = (await session.scalars(statements.owner_held(organization_id, commitment))).one_or_none()
    if row is None:
        row = WatermarkKey(
            id=new_id("wm"),
            organization_id=organization_id,
            name=name,
            origin=OWNER_HELD,
            grade=COMMITTED,
            commitment=commitment,
            commitment_record=published.committed.to_record() | {"design": published.design.to_record()},
            salt=None,
            sealed_secret=b"",
            committed_as=None if published.owner == organization_id else published.owner,
        )
        await committed_first(session, row, actor=actor)
    if row.deleted_at is not None:
        raise CommitmentSpent(
            f"This commitment was registered as {row.id}, which was deleted. Draw another key.",
            param="commitment",
        )
    if row.salt is None:
        await salted(session, row)
    return row


async def import_file(
    session: AsyncSession, sealer: Sealer, file: KeyFile, *, actor: Actor, name: str
) -> WatermarkKey:
    """Take an owner's key into keeping, with its salt and its count of audits.

    Its grade is ``committed`` only where this service draws the salt now, or drew that very salt for that
    commitment before; else when the salt came is the owner's word, and the grade is ``self-generated``.

    Raises:
        ForeignClaimant: see there.
    """
    _check_claimant(file.owner, actor)
    commitment = file.committed.commitment
    # its rows were drawn without a salt already: an empty one, which is no salt at all
    unsalted = file.salt is None and bool(file.mixed or file.audits)
    salt = b"" if unsalted else None if file.salt is None else file.salt.value
    vouched = salt is None or (
        await session.scalar(statements.drew_salt(actor.organization_id, commitment, salt)) is not None
    )
    return await create(
        session,
        sealer,
        DrawnSecret(secret=file.secret, design=file.design),
        actor=actor,
        name=name,
        origin="imported",
        grade=COMMITTED if vouched else SELF_GENERATED,
        history=History(claimant=file.owner, salt=salt, audits=[audit.to_record() for audit in file.audits]),
    )


async def export_file(session: AsyncSession, sealer: Sealer, key_id: str, *, actor: Actor) -> KeyFile:
    """A key as its owner would keep it alone, its salt and every audit so far included.

    Raises:
        NotFound: there is no such own key.
        SecretNotHeld: the owner has it already.
        NotExportable: its words were chosen, or are a preset's.
    """
    row = await get_owned(session, key_id, organization_id=actor.organization_id)
    secret = load_key(row, sealer)
    if not isinstance(secret, DrawnSecret) or row.salt is None:
        raise NotExportable(f"{key_id} was not drawn from a secret: a key file can't hold it", param="id")
    await record(session, key_event(Action.watermark_exported, actor, key_id))
    return KeyFile(
        owner=row.claimant,
        secret=secret.secret,
        design=secret.design,
        created_at=timestamp(row.created_at),
        salt=await _salt(session, row, row.salt),
        audits=await _audits(session, row),
    )


async def _salt(session: AsyncSession, row: WatermarkKey, salt: bytes) -> Salt | None:
    if not salt:
        return None
    # keys that are older than the log have no entry
    moment = await session.scalar(statements.salted_at(row.id)) or row.created_at
    source = f"the service that kept it, {row.id}"
    if row.grade == SELF_GENERATED:
        source = f"its owner, imported as {row.id}"
    return Salt(value=salt, source=source, set_at=timestamp(moment))


async def _audits(session: AsyncSession, row: WatermarkKey) -> tuple[Registered, ...]:
    """Those that it came with, and those here; under each name one."""
    known = {audit.verification: audit for audit in map(Registered.from_record, row.audits_before)}
    for verification, family, moment, digest in await session.execute(statements.audits_of(row.id)):
        known[verification] = Registered(
            verification=verification,
            family=family,
            registered_at=timestamp(moment),
            preregistration_sha256=digest,
        )
    return tuple(known.values())


def _check_claimant(name: str, actor: Actor) -> None:
    if name != actor.organization_id and is_id(name, "org"):
        raise ForeignClaimant(
            "The key was committed under the id of another organization; commit under a name of yours or "
            f"under {actor.organization_id}.",
            param="owner",
        )

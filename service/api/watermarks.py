"""/v1/watermarks and their grants. A secret is in the response that made it and in its owner's export."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    StrictInt,
    StringConstraints,
    model_validator,
)
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from evidence.canonical import canonical_bytes
from evidence.errors import EvidenceError
from evidence.keyfile import KeyFile, Published
from service.api.dependencies import (
    AppSealer,
    CurrentPrincipal,
    DbSession,
    Principal,
    Role,
    actor_of,
    require_role,
)
from service.api.idempotency import DeedRoute
from service.api.pagination import After, Limit, page
from service.db.models import Grant, WatermarkKey
from service.errors import InvalidRequest
from service.log.usecases import entered
from service.watermarks import custody, statements, usecases
from service.watermarks.secrets import SEED_BYTES, ChosenSecret, DrawnSecret, KeySecret, PresetSecret
from watermark.errors import DesignError, MarksError, WatermarkError
from watermark.keys import MIN_FAMILIES, SECRET_BYTES, Design, Secret
from watermark.marks import parse_marks

router = APIRouter(prefix="/v1/watermarks", tags=["watermarks"], route_class=DeedRoute)

YEAR_SECONDS = 365 * 24 * 3600
MIN_DISTINCT_BYTES = 12
"""32 random bytes have fewer than 12 distinct values with probability below 2**-60."""

_KINDS = ("secret", "marks", "preset", "commitment", "key_file")

NOTHING_DRAWN: dict[str, Any] = {"secret": None, "blinding": None}

Owner = Annotated[Principal, Depends(require_role(Role.owner))]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Host = Annotated[str, StringConstraints(max_length=300)]


class Create(BaseModel):
    """The body of POST /v1/watermarks: a key of ours, an imported secret or key file, a commitment to a key
    that stays with its owner, chosen marks, or a preset."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    name: Name = "unnamed"
    secret: SecretStr | None = None
    """64 hex digits; imports the owner's own secret."""
    blinding: SecretStr | None = None
    """64 hex digits; drawn by the service when left out."""
    families: StrictInt | None = None
    marks_per_family: StrictInt | None = None
    cues_per_mark: StrictInt | None = None
    marks: list[Any] | None = None
    preset: Literal["paper-input"] | None = None
    commitment: dict[str, JsonValue] | None = None
    """What `doublei key commit` prints: the secret stays with its owner."""
    key_file: Annotated[dict[str, JsonValue] | None, Field(repr=False)] = None
    """What `doublei key new` wrote, with the secret."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in _KINDS if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"give one of {' and '.join(kinds)}")
        if self.blinding is not None and kinds not in (["secret"], ["marks"]):
            raise ValueError("blinding goes with an imported secret or with chosen marks")
        numbers = (self.families, self.marks_per_family, self.cues_per_mark)
        if kinds not in ([], ["secret"]) and any(number is not None for number in numbers):
            raise ValueError(f"the shape of a key with {kinds[0]} is given by them: leave out its numbers")
        return self

    def _design(self) -> Design:
        default = Design()
        return Design(
            families=default.families if self.families is None else self.families,
            marks=default.marks if self.marks_per_family is None else self.marks_per_family,
            cues=default.cues if self.cues_per_mark is None else self.cues_per_mark,
        )

    def to_published(self) -> Published:
        """The commitment. Raises: InvalidRequest."""
        try:
            return Published.from_record(self.commitment)
        except (EvidenceError, WatermarkError) as error:
            raise InvalidRequest(
                f"This is no commitment: {error}. Send what `doublei key commit FILE` prints.",
                param="commitment",
                code="invalid_commitment",
            ) from None

    def to_key_file(self) -> KeyFile:
        """The key in the key file. Raises: InvalidRequest, without a value of it."""
        try:
            file = KeyFile.from_record(self.key_file)
        except (EvidenceError, WatermarkError) as error:
            raise InvalidRequest(
                f"This is no key file: {error}.", param="key_file", code="invalid_key_file"
            ) from None
        for name, raw in (("secret", file.secret.value), ("blinding", file.secret.blinding)):
            _refuse_weak(raw, f"key_file.{name}")
        return file

    def to_secret(self) -> tuple[KeySecret, str, str]:
        """The key's secret, its origin and its grade.

        Raises:
            InvalidRequest: naming the field; what was given is not shown.
        """
        if self.preset is not None:
            return PresetSecret(preset=self.preset, seed=os.urandom(SEED_BYTES)), "preset", "research"
        blinding = _hex(self.blinding, "blinding") or os.urandom(SECRET_BYTES)
        if self.marks is not None:
            return self._chosen(blinding), "chosen", "chosen"
        imported = _hex(self.secret, "secret")
        secret = Secret(value=imported or os.urandom(SECRET_BYTES), blinding=blinding)
        origin = "imported" if imported else "service"
        try:
            return DrawnSecret(secret=secret, design=self._design()), origin, "committed"
        except DesignError as error:
            raise InvalidRequest(str(error), code=error.code) from None

    def _chosen(self, blinding: bytes) -> ChosenSecret:
        try:
            return ChosenSecret(marks=parse_marks(self.marks), blinding=blinding)
        except MarksError as error:
            raise InvalidRequest(str(error), param=error.path, code=error.code) from None


class CreateGrant(BaseModel):
    """The body of POST /v1/watermarks/{id}/grants."""

    model_config = ConfigDict(extra="forbid")
    auditor: str
    suspect_hosts: Annotated[list[Host], Field(min_length=1, max_length=100)]
    probe_budget: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1000
    expires_in_seconds: Annotated[StrictInt, Field(ge=1, le=YEAR_SECONDS)] = 24 * 3600


@router.post("")
async def create(body: Create, principal: Owner, session: DbSession, sealer: AppSealer) -> dict[str, Any]:
    """Make, import or register a key. What the service drew is in this response, and otherwise in an export
    alone."""
    if body.commitment is not None:
        held = await custody.register(session, body.to_published(), actor=actor_of(principal), name=body.name)
        return await _shown(session, held) | NOTHING_DRAWN
    if body.key_file is not None:
        taken = await custody.import_file(
            session, sealer, body.to_key_file(), actor=actor_of(principal), name=body.name
        )
        return await _shown(session, taken) | NOTHING_DRAWN
    secret, origin, grade = body.to_secret()
    row = await usecases.create(
        session,
        sealer,
        secret,
        actor=actor_of(principal),
        name=body.name,
        origin=origin,
        grade=grade,
    )
    return _key(row, used=0) | _shown_once(secret, body)


@router.get("")
async def list_keys(
    principal: CurrentPrincipal, session: DbSession, limit: Limit = 20, after: After = None
) -> dict[str, Any]:
    """The caller's keys and those it holds a live grant for, newest first."""
    rows = (await session.scalars(statements.page(principal.organization_id, after=after, limit=limit))).all()
    used = await usecases.families_used(session, rows)
    return page(rows, limit, lambda row: _key(row, used=used.get(row.id, 0)))


@router.get("/{key_id}")
async def get_key(key_id: str, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """The public side of one key."""
    row = await usecases.get(session, key_id, organization_id=principal.organization_id)
    return await _shown(session, row)


@router.get("/{key_id}/key", response_class=Response)
async def export_key(key_id: str, principal: Owner, session: DbSession, sealer: AppSealer) -> Response:
    """The key as a file of `doublei verify --key` and `doublei mix`, its secret included."""
    file = await custody.export_file(session, sealer, key_id, actor=actor_of(principal))
    return Response(
        canonical_bytes(file.to_record()),
        media_type="application/json",
        headers={
            "content-disposition": f'attachment; filename="{key_id}.key"',
            "cache-control": "no-store",
        },
    )


@router.delete("/{key_id}")
async def delete_key(key_id: str, principal: CurrentPrincipal, session: DbSession) -> dict[str, Any]:
    """Destroy the secret. Evidence made with it stays."""
    await usecases.delete(session, key_id, actor=actor_of(principal))
    return {"id": key_id, "object": "watermark", "deleted": True}


@router.post("/{key_id}/grants")
async def create_grant(
    key_id: str, body: CreateGrant, principal: CurrentPrincipal, session: DbSession
) -> dict[str, Any]:
    """Let an auditor verify with this key."""
    row = await usecases.grant(
        session,
        key_id,
        actor=actor_of(principal),
        auditor_id=body.auditor,
        suspect_hosts=body.suspect_hosts,
        probe_budget=body.probe_budget,
        expires_in_seconds=body.expires_in_seconds,
    )
    return _grant(row)


@router.get("/{key_id}/grants")
async def list_grants(
    key_id: str, principal: CurrentPrincipal, session: DbSession, limit: Limit = 20, after: After = None
) -> dict[str, Any]:
    """The owner sees all grants of the key; an auditor with a live one sees its own."""
    key = await usecases.get(session, key_id, organization_id=principal.organization_id)
    auditor = None if key.organization_id == principal.organization_id else principal.organization_id
    rows = await session.scalars(statements.grants(key_id, auditor_id=auditor, after=after, limit=limit))
    return page(rows.all(), limit, _grant)


@router.delete("/{key_id}/grants/{grant_id}")
async def revoke_grant(
    key_id: str, grant_id: str, principal: CurrentPrincipal, session: DbSession
) -> dict[str, Any]:
    """End a grant now."""
    await usecases.revoke(session, key_id, grant_id, actor=actor_of(principal))
    return {"id": grant_id, "object": "watermark.grant", "deleted": True}


async def _shown(session: AsyncSession, row: WatermarkKey) -> dict[str, Any]:
    """The public side of a key, with what the log has of it."""
    used = await usecases.families_used(session, [row])
    return _key(row, used=used.get(row.id, 0)) | {"log": await entered(session, row.id)}


def _hex(value: SecretStr | None, field: str) -> bytes | None:
    if value is None:
        return None
    try:
        raw = bytes.fromhex(value.get_secret_value())
    except ValueError:
        raw = b""
    if len(raw) != SECRET_BYTES:
        raise InvalidRequest(
            f"{field} must be {SECRET_BYTES} bytes, as {2 * SECRET_BYTES} hex digits",
            param=field,
            code="invalid_secret",
        )
    _refuse_weak(raw, field)
    return raw


def _refuse_weak(raw: bytes, field: str) -> None:
    if len(set(raw)) < MIN_DISTINCT_BYTES:
        raise InvalidRequest(
            f"{field} is not random: draw it with a generator such as `openssl rand -hex 32`",
            param=field,
            code="weak_secret",
        )


def _shown_once(secret: KeySecret, body: Create) -> dict[str, Any]:
    """What the service drew itself; what the caller sent is not sent back."""
    shown: dict[str, Any] = {"secret": None, "blinding": None}
    if isinstance(secret, DrawnSecret) and body.secret is None:
        shown["secret"] = secret.secret.value.hex()
    if isinstance(secret, DrawnSecret) and body.blinding is None:
        shown["blinding"] = secret.secret.blinding.hex()
    if isinstance(secret, ChosenSecret) and body.blinding is None:
        shown["blinding"] = secret.blinding.hex()
    return shown


def _key(row: WatermarkKey, *, used: int) -> dict[str, Any]:
    design = row.commitment_record["design"]
    families = int(design.get("families", MIN_FAMILIES))
    return {
        "id": row.id,
        "object": "watermark",
        "created_at": int(row.created_at.timestamp()),
        "name": row.name,
        "origin": row.origin,
        "grade": row.grade,
        "claimant": row.claimant,
        "commitment": row.commitment,
        "root_commitment": row.commitment_record["root_commitment"],
        "family_commitments": row.commitment_record["family_commitments"],
        "salt": None if row.salt is None else row.salt.hex(),
        "families": families,
        "families_left": max(0, families - used),
        "marks_per_family": design.get("marks"),
        "cues_per_mark": design.get("cues"),
        "banks": design.get("banks"),
    }


def _grant(row: Grant) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "watermark.grant",
        "watermark": row.key_id,
        "auditor": row.auditor_id,
        "suspect_hosts": row.suspect_hosts,
        "probe_budget": row.probe_budget,
        "probes_reserved": row.probes_reserved,
        "probes_left": max(0, row.probe_budget - row.probes_reserved),
        "expires_at": int(row.expires_at.timestamp()),
        "revoked_at": None if row.revoked_at is None else int(row.revoked_at.timestamp()),
        "created_at": int(row.created_at.timestamp()),
    }

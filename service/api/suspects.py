"""Judging suspects' addresses before a request's transaction begins.

A name is looked up in the DNS, which may take seconds and be in a stranger's hand: meanwhile no transaction
may be open, least of all one that holds the claim of an Idempotency-Key. But whether the request was answered
before is known only with the claim, so a refusal waits: who asks again under a key gets the first answer,
whatever the name leads to by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.api.verification_bodies import SuspectBody
from service.errors import InvalidRequest, ServiceError
from service.settings import Settings
from service.verifications.register import Target
from service.verifications.suspects import check_suspect


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found; a handler asks for it first of all."""

    found: tuple[Target, ...]
    refusal: ServiceError | None

    def targets(self) -> tuple[Target, ...]:
        """Everybody, in the request's order.

        Raises:
            InvalidRequest: one of them can't be asked (`check_suspect`).
        """
        if self.refusal is not None:
            raise self.refusal
        return self.found


async def judge(suspects: Sequence[SuspectBody], settings: Settings, *, listed: bool = False) -> Judged:
    """All of them at once. `listed`: they are the request's `suspects`, and a refusal says which it is."""
    try:
        found = await asyncio.gather(
            *(_target(body, settings, place if listed else None) for place, body in enumerate(suspects))
        )
    except ServiceError as refusal:
        return Judged(found=(), refusal=refusal)
    return Judged(found=tuple(found), refusal=None)


async def _target(body: SuspectBody, settings: Settings, place: int | None) -> Target:
    suspect = body.to_request()
    try:
        url = await check_suspect(suspect, settings.suspect_allow_list, servers=settings.dns_server_list)
    except InvalidRequest as error:
        if place is not None and error.param is not None:
            error.param = error.param.replace("suspect.", f"suspects[{place}].", 1)
        raise
    return Target(suspect=suspect, url=url)

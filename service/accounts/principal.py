"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a key may do; the first three are also what an organization is."""

    owner = "owner"
    provider = "provider"
    auditor = "auditor"
    inference = "inference"


ORGANIZATION_ROLES = (Role.owner, Role.provider, Role.auditor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller, as proven by its API key."""

    key_id: str
    organization_id: str
    organization_name: str
    role: Role

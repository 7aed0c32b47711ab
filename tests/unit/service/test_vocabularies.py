"""The database's CHECKs, the enums and the wire name the same things."""

from __future__ import annotations

import re
from enum import StrEnum

import pytest
from sqlalchemy import CheckConstraint

from service.accounts.principal import ORGANIZATION_ROLES, Role
from service.db.models import Base
from service.jobs.lifecycle import JobStatus
from service.verifications.lifecycle import Verdict, VerificationStatus


def allowed(table: str, column: str) -> set[str]:
    """The values that a table's CHECK allows for a column."""
    for constraint in Base.metadata.tables[table].constraints:
        if isinstance(constraint, CheckConstraint):
            sql = str(constraint.sqltext)
            if re.search(rf"\b{column} IN \(", sql):
                return set(re.findall(r"'([^']+)'", sql))
    raise AssertionError(f"{table}.{column} has no CHECK")


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("jobs", "status", JobStatus),
        ("verifications", "status", VerificationStatus),
        ("verifications", "verdict", Verdict),
        ("api_keys", "role", Role),
    ],
)
def test_a_check_lists_exactly_the_enum(table: str, column: str, values: type[StrEnum]) -> None:
    assert allowed(table, column) == {value.value for value in values}


def test_an_organization_has_every_role_but_inference() -> None:
    assert allowed("organizations", "role") == {role.value for role in ORGANIZATION_ROLES}
    assert set(Role) - set(ORGANIZATION_ROLES) == {Role.inference}

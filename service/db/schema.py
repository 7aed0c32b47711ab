"""Whether the database's schema is the one that this code was written for."""

from __future__ import annotations

from sqlalchemy import TextClause, text

HEAD = "0010"
"""The newest migration; a test compares. Revisions are numbers of four digits, so they can be ordered."""


def revision() -> TextClause:
    """The database's own. Fails where no migration has ever run."""
    return text("SELECT version_num FROM alembic_version")


def fits(found: str | None) -> bool:
    """A newer schema does, too: migrations only add until the code that needs the old one is gone."""
    return found is not None and found >= HEAD

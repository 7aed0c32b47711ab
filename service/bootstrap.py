"""``python -m service.bootstrap --credentials-file PATH``: the first organizations and their API keys.

Idempotent. The keys go to a 0600 file that exists, complete and durable, before the database knows them:
a crash in between leaves a file that the next start replaces, never keys that nobody holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.accounts.keys import ApiKeyToken
from service.accounts.principal import ORGANIZATION_ROLES, Role
from service.accounts.statements import live_key, organization_by_role
from service.db.engine import sync_engine, sync_sessions
from service.db.models import ApiKey, Organization
from service.ids import new_id
from service.keyfiles import replace_private
from service.settings import Settings, SettingsError, load_settings

LOCK = 0x646F75626C652D62
"""ASCII of "double-b": two first starts at once make one set of organizations."""


def bootstrap(settings: Settings, credentials_file: Path) -> bool:
    """Make what is missing; returns whether anything was written.

    A credentials file whose keys still work is left alone. If it was lost, or a key in it was revoked,
    fresh keys are added to the same organizations; the old ones stay valid until they are revoked.
    """
    engine = sync_engine(settings, application_name="doublei-bootstrap")
    try:
        with sync_sessions(engine)() as session, session.begin():
            session.execute(select(func.pg_advisory_xact_lock(LOCK)))
            if _still_valid(session, credentials_file):
                return False
            credentials = {role.value: _first_key(session, role) for role in ORGANIZATION_ROLES}
            session.flush()
            credentials_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_private(credentials_file, json.dumps(credentials, indent=2) + "\n")
        return True
    finally:
        engine.dispose()


def _first_key(session: Session, role: Role) -> dict[str, str]:
    organization = session.scalars(organization_by_role(role)).first()
    if organization is None:
        organization = Organization(id=new_id("org"), name=role.value, role=role.value)
        session.add(organization)
        session.flush()
    token = ApiKeyToken.new()
    session.add(
        ApiKey(
            id=token.row_id,
            organization_id=organization.id,
            role=role.value,
            name="first start",
            secret_sha256=token.secret_sha256,
        )
    )
    return {"organization": organization.id, "api_key": token.reveal()}


def _still_valid(session: Session, path: Path) -> bool:
    """Does the file hold a live key of every role?"""
    try:
        credentials = json.loads(path.read_text(encoding="ascii"))
        tokens = [(role, ApiKeyToken.parse(credentials[role]["api_key"])) for role in ORGANIZATION_ROLES]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    for role, token in tokens:
        if token is None:
            return False
        query = live_key(token.row_id)
        stored = session.execute(query.statement, query.values).first()
        if stored is None or stored.role != role or not token.matches(stored.secret_sha256):
            return False
    return True


def main() -> int:
    """0 when every role has a working key in the file. Prints nothing secret."""
    parser = argparse.ArgumentParser(prog="python -m service.bootstrap")
    parser.add_argument("--credentials-file", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        written = bootstrap(load_settings(), arguments.credentials_file)
    except SettingsError as error:
        print(str(error), file=sys.stderr)
        return 2
    print(f"{'wrote' if written else 'kept'} {arguments.credentials_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

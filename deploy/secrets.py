"""``python -m deploy.secrets FOLDER``: makes the secrets of a deployment that are missing, once.

docker-compose.yml runs it before everything else, into a volume that only our containers mount. Each file
is readable by one user only. Three keys must be kept with the database: watermark secrets stored there can't
be read without the key-encryption key, the log can't be continued without its own, and the witness's is what
others know this witness by.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

DATABASE_USER = "doublei"


def make(folder: Path) -> list[str]:
    """Write the files that are not there yet and return their names. Never replaces one.

    The password reaches Postgres by ``postgres-password`` and its clients by ``pgpass`` (libpq's format),
    so that it is in no command line and no environment.
    """
    made = []
    if not (folder / "pgpass").exists():
        password = secrets.token_urlsafe(32)
        # The password first: the client's file exists only if the server's does.
        _write(folder / "postgres-password", password)
        _write(folder / "pgpass", f"*:*:*:{DATABASE_USER}:{password}\n")
        made.append("pgpass")
    fresh = {
        "kek": base64.b64encode(secrets.token_bytes(32)).decode() + "\n",
        # The transparency log's name and its key. Losing it ends the log: nothing else can continue it.
        "log-key": (
            f"double-i/{secrets.token_hex(8)}\n{base64.b64encode(secrets.token_bytes(32)).decode()}\n"
        ),
        # Signs bundles. With another one, what was signed before still verifies under the old public key.
        "evidence-key": base64.b64encode(secrets.token_bytes(32)).decode() + "\n",
        # As a witness of other logs.
        "witness-key": (
            f"double-i-witness/{secrets.token_hex(8)}\n{base64.b64encode(secrets.token_bytes(32)).decode()}\n"
        ),
        "metrics-token": secrets.token_urlsafe(48) + "\n",
        "serving-token": secrets.token_urlsafe(48) + "\n",
        "dashboard-secret": secrets.token_urlsafe(48) + "\n",
    }
    for name, text in fresh.items():
        if not (folder / name).exists():
            _write(folder / name, text)
            made.append(name)
    return made


def _write(path: Path, text: str) -> None:
    building = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    building.replace(path)


if __name__ == "__main__":
    print("made:", ", ".join(make(Path(sys.argv[1]))) or "nothing, all there")

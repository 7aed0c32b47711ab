"""How to run Postgres, which refuses to run as root, without touching anything outside our folder.

An ordinary user runs it directly. As root it runs in a user namespace of its own, where root appears
as user 1000: files stay root's, and a folder closed to everyone else still works. Where namespaces are
forbidden (some containers), it runs as ``nobody``, which needs the way to the folder to be open.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cli.errors import StackError

_PROBE_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileges:
    """A command prefix, and the user that must own the data (None: whoever we are)."""

    prefix: tuple[str, ...] = ()
    owner: int | None = None

    def give(self, path: Path) -> None:
        """Make the folder ``path`` belong to the user Postgres runs as."""
        if self.owner is not None:
            os.chown(path, self.owner, -1)


def postgres_privileges(*, binary: Path, data_parent: Path) -> Privileges:
    """The first way that works here, found by trying it.

    ``data_parent`` is our own folder; where Postgres must run as ``nobody``, that user's group may pass
    through it afterwards.

    Raises:
        StackError: running as root where neither a user namespace nor ``nobody`` can be used.
    """
    if os.geteuid() != 0:
        return Privileges()
    if unshare := shutil.which("unshare"):
        namespace = Privileges(prefix=(unshare, "--user", "--map-user=1000", "--map-group=1000", "--"))
        if _runs((*namespace.prefix, str(binary), "--version")):
            return namespace
    if setpriv := shutil.which("setpriv"):
        nobody = pwd.getpwnam("nobody")
        _open_way(data_parent, nobody.pw_gid)
        prefix = (setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--")
        reaches_data = ("sh", "-c", 'cd "$1"', "sh", str(data_parent))
        if _runs((*prefix, str(binary), "--version")) and _runs((*prefix, *reaches_data)):
            return Privileges(prefix=prefix, owner=nobody.pw_uid)
    raise StackError(
        "Postgres does not run as root, and here it can run neither in a user namespace nor as 'nobody': "
        "run as an ordinary user, allow user namespaces, or open the way to the data folder and to .venv"
    )


def _open_way(folder: Path, group: int) -> None:
    """Let the group pass through our own folder, without listing it."""
    os.chown(folder, -1, group)
    folder.chmod(0o710)


def _runs(command: tuple[str, ...]) -> bool:
    try:
        outcome = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return outcome.returncode == 0

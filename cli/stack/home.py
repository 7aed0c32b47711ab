"""The data folder of one stack: where everything lies, who may enter, and who owns it now."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cli.errors import AlreadyRunning, StackError, UsageMistake
from cli.files import make_private_dir, write_private

DEFAULT_NAME = ".doublei"
HOME_VARIABLE = "DOUBLEI_HOME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Paths below the data folder."""

    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "pg"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def kek_file(self) -> Path:
        """Encrypts the secrets that are stored in Postgres: losing it loses them."""
        return self.secrets / "kek"

    @property
    def log_key_file(self) -> Path:
        """Signs the transparency log: losing it ends the log, for nothing else can continue it."""
        return self.secrets / "log-key"

    @property
    def evidence_key_file(self) -> Path:
        """Signs bundles: without it old ones still verify, and new ones need a new public key."""
        return self.secrets / "evidence-key"

    @property
    def witness_key_file(self) -> Path:
        """Cosigns other logs: who trusts this witness knows it by this key."""
        return self.secrets / "witness-key"

    @property
    def serving_token_file(self) -> Path:
        return self.secrets / "serving-token"

    @property
    def dashboard_secret_file(self) -> Path:
        return self.secrets / "dashboard-secret"

    @property
    def metrics_token_file(self) -> Path:
        """What Prometheus sends to read the metrics of the API and the workers."""
        return self.secrets / "metrics-token"

    @property
    def credentials_file(self) -> Path:
        """The API keys of the first start, written by the service's bootstrap."""
        return self.root / "credentials.json"

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"


def locate(path: Path | None) -> Home:
    """The data folder asked for, without touching the disk: ``path``, DOUBLEI_HOME, or ``./.doublei``."""
    chosen = path or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_NAME)
    return Home(root=chosen.expanduser().absolute())


def prepare(home: Home) -> None:
    """Make the folder and its parts, closed to other users.

    Raises:
        UsageMistake: the path is a file, another user's, or a folder with other things in it.
    """
    root = home.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageMistake(f"{root} is not a folder: name another one with --home") from None
    except OSError as error:
        raise UsageMistake(f"can't make {root}: {error.strerror}; name another folder with --home") from None
    if root.stat().st_uid != os.geteuid():
        raise UsageMistake(f"{root} belongs to another user: name another folder with --home")
    if not home.lock_file.exists() and any(root.iterdir()):
        raise UsageMistake(f"{root} has other things in it: name an empty or new folder with --home")
    # First of all: the lock file also says that the folder is ours, should the next line not be reached.
    home.lock_file.touch(mode=0o600)
    root.chmod(0o700)
    for part in (home.valkey, home.storage, home.logs, home.secrets):
        make_private_dir(part)


def ensure_secrets(home: Home) -> None:
    """Make the secrets that are missing.

    Raises:
        StackError: the key-encryption key is gone while there is data that may need it.
    """
    if not home.kek_file.exists():
        if (home.postgres / "PG_VERSION").exists():
            raise StackError(
                f"{home.kek_file} is missing, and the stored watermark secrets can't be read without it: "
                "put it back, or start over with another --home"
            )
        write_private(home.kek_file, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    if not home.log_key_file.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode()
        # The log's name stands above its key: the two belong together.
        write_private(home.log_key_file, f"double-i/{secrets.token_hex(8)}\n{seed}\n")
    if not home.evidence_key_file.exists():
        write_private(home.evidence_key_file, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    if not home.witness_key_file.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode()
        write_private(home.witness_key_file, f"double-i-witness/{secrets.token_hex(8)}\n{seed}\n")
    for path in (home.serving_token_file, home.dashboard_secret_file, home.metrics_token_file):
        if not path.exists():
            write_private(path, secrets.token_urlsafe(48) + "\n")


class HomeLock:
    """Ownership of a data folder, held by the kernel for as long as this process lives."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it now.

        Raises:
            AlreadyRunning: another live process has it.
        """
        descriptor = os.open(self._home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunning(
                f"a stack already runs in {self._home.root}: see 'doublei status', stop it with "
                "'doublei down', or name another folder with --home"
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back; harmless when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(home: Home) -> bool:
    """Whether a live process owns the folder."""
    if not home.lock_file.exists():
        return False
    lock = HomeLock(home)
    try:
        lock.acquire()
    except AlreadyRunning:
        return True
    except OSError:
        return False
    lock.release()
    return False

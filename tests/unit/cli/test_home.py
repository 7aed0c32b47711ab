"""The data folder: whose it is, who may enter, and what is never overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cli.errors import AlreadyRunning, StackError, UsageMistake
from cli.stack.home import Home, HomeLock, ensure_secrets, is_locked, locate, prepare


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder that does not exist yet."""
    return Home(root=tmp_path / "home")


def test_located_by_argument_then_variable_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is absolute, so that children in other folders agree on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOUBLEI_HOME", raising=False)
    assert locate(None).root == tmp_path / ".doublei"
    monkeypatch.setenv("DOUBLEI_HOME", "elsewhere")
    assert locate(None).root == tmp_path / "elsewhere"
    assert locate(Path("given")).root == tmp_path / "given"


def test_only_the_user_may_enter(home: Home) -> None:
    """Whatever the umask is, and also when the folder was there, open."""
    prepare(home)
    home.root.chmod(0o755)
    prepare(home)
    for folder in (home.root, home.logs, home.secrets, home.storage, home.valkey):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """``--home ~`` must not spread files over somebody's home, nor close it."""
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageMistake, match="other things"):
        prepare(Home(root=tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_file_is_refused(tmp_path: Path) -> None:
    """With the way out, not with a stack trace."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageMistake, match="--home"):
            prepare(Home(root=root))


def test_an_interrupted_preparation_is_taken_up(home: Home) -> None:
    """The lock file comes first, so a folder with only that is known as ours."""
    home.root.mkdir()
    home.lock_file.touch()
    home.logs.mkdir()
    prepare(home)
    assert home.secrets.is_dir()


def test_secrets_are_private_and_never_replaced(home: Home) -> None:
    """A second start finds the same ones."""
    prepare(home)
    ensure_secrets(home)
    files = (
        home.kek_file,
        home.log_key_file,
        home.evidence_key_file,
        home.witness_key_file,
        home.serving_token_file,
        home.dashboard_secret_file,
    )
    before = [file.read_text() for file in files]
    ensure_secrets(home)
    assert [file.read_text() for file in files] == before
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_lost_key_encryption_key_is_not_replaced_beside_data(home: Home) -> None:
    """A new key would make the stored secrets unreadable for good, in silence."""
    prepare(home)
    home.postgres.mkdir()
    (home.postgres / "PG_VERSION").write_text("18\n")
    with pytest.raises(StackError, match="kek is missing"):
        ensure_secrets(home)


def test_one_owner_at_a_time(home: Home) -> None:
    """The kernel gives the lock back when the owner lets go or dies."""
    prepare(home)
    lock = HomeLock(home)
    lock.acquire()
    assert is_locked(home)
    with pytest.raises(AlreadyRunning):
        HomeLock(home).acquire()
    lock.release()
    assert not is_locked(home)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    """Said in one line."""
    if os.geteuid() == 0:
        pytest.skip("root can make any folder")
    tmp_path.chmod(0o500)
    with pytest.raises(UsageMistake, match="can't make"):
        prepare(Home(root=tmp_path / "home"))

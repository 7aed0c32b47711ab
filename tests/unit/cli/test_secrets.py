"""`doublei secrets`: the keys of a data folder, written into one file and put back."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands.secrets import app
from cli.errors import CliError, NotRunning, UsageMistake
from cli.key_backup import NAMES, BackupUnreadable, KeyBackup
from cli.stack.home import Home, ensure_secrets, prepare
from cli.stack.plan import operator_task
from cli.stack.ports import Ports
from cli.stack.processes import CHILD_VARIABLE, STACK_VARIABLE, Identity
from cli.stack.state import Phase, State

RUNNER = CliRunner()
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(root=tmp_path / "home")
    prepare(made)
    ensure_secrets(made)
    return made


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    file.chmod(0o600)
    return file


def invoke(*arguments: object, entered: str = "") -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], input=entered)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object, entered: str = "") -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments], input=entered)
    assert isinstance(result.exception, CliError), result.output
    return str(result.exception)


def texts(home: Home) -> dict[str, str]:
    return {name: (home.secrets / name).read_text() for name in NAMES if (home.secrets / name).exists()}


def test_what_was_lost_is_put_back(home: Home, tmp_path: Path, passphrase: Path) -> None:
    file, before = tmp_path / "doublei.keys", texts(home)
    assert set(before) == set(NAMES)
    invoke("backup", "-o", file, "--passphrase-file", passphrase, "--home", home.root)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for name in NAMES:
        (home.secrets / name).unlink()
    invoke("restore", file, "--passphrase-file", passphrase, "--home", home.root)
    assert texts(home) == before
    assert {stat.S_IMODE((home.secrets / name).stat().st_mode) for name in NAMES} == {0o600}
    assert "nothing, all there" in invoke(
        "restore", file, "--passphrase-file", passphrase, "--home", home.root
    )


def test_before_the_first_start_of_a_new_folder(home: Home, tmp_path: Path) -> None:
    file, new = tmp_path / "doublei.keys", Home(root=tmp_path / "new")
    invoke("backup", "-o", file, "--home", home.root, entered=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    invoke("restore", file, "--home", new.root, entered=f"{PASSPHRASE}\n")
    ensure_secrets(new)
    assert texts(new) == texts(home)


def test_under_a_passphrase_no_key_is_seen(home: Home, tmp_path: Path, passphrase: Path) -> None:
    file = tmp_path / "doublei.keys"
    shown = invoke("backup", "-o", file, "--passphrase-file", passphrase, "--home", home.root)
    for text in texts(home).values():
        for word in text.split():
            for spelled in (word, base64.b64encode(word.encode()).decode()):
                assert spelled not in file.read_text() + shown


def test_as_they_are_for_a_closed_place(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "doublei.keys"
    assert "keep the file closed" in invoke("backup", "-o", file, "--plain", "--home", home.root)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["keys"] == texts(home)
    new = Home(root=tmp_path / "new")
    invoke("restore", file, "--home", new.root)
    assert texts(new) == texts(home)


def test_another_key_is_never_overwritten(home: Home, tmp_path: Path) -> None:
    file, new = tmp_path / "doublei.keys", Home(root=tmp_path / "new")
    invoke("backup", "-o", file, "--plain", "--home", home.root)
    prepare(new)
    (new.secrets / "log-key").write_text("another\n")
    assert "nothing was written" in refused("restore", file, "--home", new.root)
    assert texts(new) == {"log-key": "another\n"}
    assert "left as it is" in refused("backup", "-o", file, "--plain", "--home", home.root)


def test_mistakes(home: Home, tmp_path: Path, passphrase: Path) -> None:
    file = tmp_path / "doublei.keys"
    command = ("backup", "-o", file, "--home", home.root)
    assert "fewer than 12" in refused(*command, entered="short\nshort\n")
    passphrase.chmod(0o644)
    assert "chmod 600" in refused(*command, "--passphrase-file", passphrase)
    assert "no such file" in refused(*command, "--passphrase-file", tmp_path / "none").lower()
    assert "holds no keys" in refused("backup", "-o", file, "--plain", "--home", tmp_path / "elsewhere")
    assert not file.exists()
    file.write_text("{}")
    assert "no key backup" in refused("restore", file, "--home", tmp_path / "new")


MADE = KeyBackup(keys={"kek": "secret kek\n", "log-key": "name\nseed\n"})


def test_another_passphrase_and_every_flipped_byte_are_refused() -> None:
    data = MADE.written(PASSPHRASE)
    assert KeyBackup.read(data, PASSPHRASE) == MADE
    for wrong in (None, PASSPHRASE + "r"):
        with pytest.raises(BackupUnreadable):
            KeyBackup.read(data, wrong)
    record = json.loads(data)
    sealed = json.loads(record["sealed"])
    for name in ("salt", "nonce", "sealed"):
        raw = bytearray(base64.b64decode(sealed[name]))
        raw[-1] ^= 1
        bent = record | {"sealed": json.dumps(sealed | {name: base64.b64encode(raw).decode()})}
        with pytest.raises(BackupUnreadable):
            KeyBackup.read(json.dumps(bent).encode(), PASSPHRASE)
    with pytest.raises(BackupUnreadable):
        KeyBackup.read(json.dumps(record | {"more": 1}).encode(), PASSPHRASE)
    assert "secret" not in repr(MADE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format":"double-i key backup","v":2,"keys":{"kek":"x"}}',
        b'{"format":"double-i key backup","v":1}',
        b'{"format":"double-i key backup","v":1,"keys":{}}',
        b'{"format":"double-i key backup","v":1,"keys":{"../escape":"x"}}',
        b'{"format":"double-i key backup","v":1,"keys":{"kek":1}}',
        b'{"format":"double-i key backup","v":1,"sealed":"x","salt":"","nonce":""}',
        b"[" * 10_000,
    ],
)
def test_what_is_no_backup(data: bytes) -> None:
    with pytest.raises(BackupUnreadable):
        KeyBackup.read(data, PASSPHRASE)


@pytest.mark.parametrize(
    "command", ["status", "rotate-kek", "drop-kek", "rotate-log-key", "rotate-evidence-key"]
)
def test_a_change_needs_a_running_stack(home: Home, command: str) -> None:
    result = RUNNER.invoke(app, [command, "--home", str(home.root)])
    assert isinstance(result.exception, NotRunning)


def test_a_task_beside_the_stack_has_its_settings_and_is_none_of_its_children(home: Home) -> None:
    current = State(
        stack_id="0123456789abcdef",
        phase=Phase.READY,
        supervisor=Identity(pid=1, created=0.0),
        socket_dir=home.root / "sockets",
        ports=Ports(api=8000, dashboard=8001, serving=20001),
    )
    command, environment = operator_task(home, current, "service.resealing", "rotate")
    assert command[1:] == ("-P", "-m", "service.resealing", "rotate")
    assert environment["DOUBLEI_KEK_FILE"] == str(home.kek_file)
    assert environment["DOUBLEI_LOG_KEY_FILE"] == str(home.log_key_file)
    assert str(current.socket_dir) in environment["DATABASE_URL"]
    assert not {STACK_VARIABLE, CHILD_VARIABLE} & set(environment)


def test_a_usage_mistake_is_one_line(home: Home) -> None:
    message = refused("backup", "-o", home.root / "none" / "x", "--plain", "--home", home.root)
    assert "\n" not in message
    assert issubclass(UsageMistake, CliError)

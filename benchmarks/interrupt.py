"""Ctrl-C at ten different moments of the demo: nothing may be left running and nothing broken.

``python -m benchmarks.interrupt [--json FILE] [--moments 0.2,3,60] [--command demo]``

Each moment has a data folder of its own, so that the first ones fall into the making of the database. The
command runs on a pseudo-terminal of its own and gets the interrupt from there, as from a keyboard. After
it: no process that inherited a token put into its environment or works in the data folder; no socket
folder; the database's own control file says that it was shut down (or there is no database yet); and a
stack starts on the same folder, answers /readyz with 200, and stops. Exit status 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cli.stack import postgres, state
from cli.stack.home import Home

DEFAULT_MOMENTS_SECONDS = (0.2, 0.7, 1.5, 3.0, 6.0, 12.0, 25.0, 60.0, 120.0, 240.0)
"""Set-up, database, migrations, start of the servers, upload, then the two trainings and the audits."""
EXIT_TIMEOUT_SECONDS = 60.0
TOKEN_VARIABLE = "DOUBLEI_INTERRUPT_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was found after one interrupt."""

    seconds: float
    exit_status: int
    stopped_in_seconds: float
    last_words: str
    left: list[str]
    database: str
    sockets_left: bool
    next_start_seconds: float
    """Until /readyz answered 200; negative when it did not."""

    @property
    def ok(self) -> bool:
        """Every promise was kept."""
        whole = self.database in ("absent", "shut down")
        return not self.left and whole and not self.sockets_left and self.next_start_seconds >= 0


def main() -> int:
    """0 when every promise was kept at every moment."""
    options = _options()
    moments = []
    for seconds in options.moments:
        moment = interrupt_at(seconds, command=options.command)
        moments.append(moment)
        print(
            f"{seconds:6.1f} s: {'ok' if moment.ok else 'BROKEN'}; exit {moment.exit_status} after "
            f"{moment.stopped_in_seconds:.1f} s, database {moment.database}, "
            f"left {moment.left or 'nothing'}, next start {moment.next_start_seconds:.1f} s   "
            f"[{moment.last_words}]",
            flush=True,
        )
    good = all(moment.ok for moment in moments)
    if options.json:
        record = {"moments": [asdict(moment) | {"ok": moment.ok} for moment in moments], "ok": good}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


def interrupt_at(seconds: float, *, command: str) -> Moment:
    """Run the command in a new data folder, interrupt it, and look at what it left."""
    root = Path(tempfile.mkdtemp(prefix="interrupt-"))
    home = Home(root=root / "home")
    token = secrets.token_hex(16)
    try:
        status, stopped, words = _run_on_terminal(
            [sys.executable, "-m", "cli", command, "--home", str(home.root)], seconds, token
        )
        left = [f"{process.pid} {process.name()}" for process in _left(home, token)]
        saved = state.read(home)
        return Moment(
            seconds=seconds,
            exit_status=status,
            stopped_in_seconds=round(stopped, 2),
            last_words=words,
            left=left,
            database=_database_state(home),
            sockets_left=saved is not None and saved.socket_dir.exists(),
            next_start_seconds=round(_next_start(home), 2),
        )
    finally:
        for process in _left(home, token):
            process.kill()
        shutil.rmtree(root, ignore_errors=True)


def _run_on_terminal(command: list[str], seconds: float, token: str) -> tuple[int, float, str]:
    """Exit status, seconds from the interrupt to the end, and the last line shown before the interrupt."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(
            command[0], command, os.environ | {TOKEN_VARIABLE: token, "TERM": "xterm", "COLUMNS": "120"}
        )
    began = time.monotonic()
    shown = b""
    interrupted: float | None = None
    killed = False
    while True:
        readable, _, _ = select.select([terminal], [], [], 0.02)
        if readable:
            with suppress(OSError):
                shown = (shown + os.read(terminal, 65536))[-8192:]
        now = time.monotonic()
        if interrupted is None and now - began >= seconds:
            interrupted, words = now, _last_line(shown)
            os.write(terminal, b"\x03")
        elif interrupted is not None and now - interrupted > EXIT_TIMEOUT_SECONDS and not killed:
            psutil.Process(pid).kill()
            killed = True
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            os.close(terminal)
            if interrupted is None:
                return os.waitstatus_to_exitcode(status), 0.0, "ended before the interrupt"
            return os.waitstatus_to_exitcode(status), time.monotonic() - interrupted, words


def _last_line(shown: bytes) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1][:80] if lines else ""


def _left(home: Home, token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            inherited = process.environ().get(TOKEN_VARIABLE) == token
            if inherited or Path(process.cwd()).is_relative_to(home.root):
                yield process


def _database_state(home: Home) -> str:
    if list(home.root.glob("pg.building-*")):
        # Harmless: the next start removes it. A killed initdb can't tidy up after itself.
        return "absent" if not home.postgres.exists() else "two folders"
    if not home.postgres.exists():
        return "absent"
    command = [str(postgres.binary("pg_controldata")), "-D", str(home.postgres)]
    words = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, check=False).stdout
    found = re.search(r"Database cluster state:\s+(.*)", words)
    return found[1] if found else "unreadable"


def _next_start(home: Home) -> float:
    doublei = [sys.executable, "-m", "cli"]
    where = ["--home", str(home.root)]
    began = time.monotonic()
    outcome = subprocess.run(
        [*doublei, "up", "--detach", *where], capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        print(outcome.stderr.strip(), file=sys.stderr)
        return -1.0
    current = state.read(home)
    ready = current is not None and _answers(f"{current.api_url}/readyz")
    seconds = time.monotonic() - began
    subprocess.run([*doublei, "down", *where], capture_output=True, check=False)
    return seconds if ready else -1.0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interrupt", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--command", default="demo", choices=("demo", "up"), help="what is interrupted")
    parser.add_argument(
        "--moments",
        type=lambda text: tuple(float(part) for part in text.split(",")),
        default=DEFAULT_MOMENTS_SECONDS,
        help="seconds after the start, comma-separated",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

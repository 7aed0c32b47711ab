"""A child process: its reports, its end, its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from worker.child import Child


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the child's module goes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "child_program.py"


def start(program: Path, source: str, **options: object) -> Child:
    """Run it."""
    program.write_text(source)
    return Child("child_program", [], stderr_path=program.parent / "stderr", **options)  # type: ignore[arg-type]


def test_reports_are_read_and_noise_is_not(program: Path) -> None:
    """Only JSON objects count."""
    child = start(program, "print('hello'); print('[1]'); print('{\"event\": \"x\"}')")
    assert list(child.lines()) == [{"event": "x"}]
    assert child.wait() == 0
    assert child.last_exception() is None
    child.close()


def test_the_name_of_its_last_exception_but_not_the_text(program: Path) -> None:
    """The text may quote the dataset."""
    child = start(program, "raise RuntimeError('secret row')")
    assert list(child.lines()) == []
    assert child.wait() == 1
    assert child.last_exception() == "RuntimeError"
    child.close()


@pytest.mark.parametrize(
    "noise", ["", "no traceback here", "a: b", "Traceback (most recent call last)\nx y: z"]
)
def test_other_noise_gives_no_name(program: Path, noise: str) -> None:
    """Whatever the last line is."""
    child = start(program, f"import sys; sys.stderr.write({noise!r}); sys.exit(3)")
    assert child.wait() == 3
    assert child.last_exception() is None
    child.close()


def test_stop_is_sigterm_first(program: Path) -> None:
    """A child that listens ends by itself."""
    source = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\n"
        "print('{}', flush=True)\ntime.sleep(60)"
    )
    child = start(program, source)
    next(iter(child.lines()))
    child.stop()
    assert child.wait() == 143
    child.close()


def test_and_sigkill_after_the_grace_time(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one that does not."""
    monkeypatch.setattr("worker.child.STOP_GRACE_SECONDS", 0.2)
    source = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('{}', flush=True)\ntime.sleep(60)"
    child = start(program, source)
    next(iter(child.lines()))
    child.stop()
    assert child.wait() == -signal.SIGKILL
    child.close()


def test_close_leaves_nothing_running(program: Path) -> None:
    """Whatever happened before."""
    child = start(program, "import time; time.sleep(60)")
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_secrets_are_not_in_its_environment(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no business with the database or the keys; where the models lie it must know."""
    monkeypatch.setenv("DATABASE_URL", "secret")
    monkeypatch.setenv("DOUBLEI_KEK_FILE", "secret")
    monkeypatch.setenv("DOUBLEI_MODEL_CACHE", "models")
    child = start(program, "import json, os; print(json.dumps(dict(os.environ)))")
    (environment,) = child.lines()
    child.wait()
    child.close()
    assert "DATABASE_URL" not in environment
    assert "DOUBLEI_KEK_FILE" not in environment
    assert environment["DOUBLEI_MODEL_CACHE"] == "models"


def test_only_the_named_descriptor_is_inherited(program: Path) -> None:
    """The dataset's, and no other file of the worker."""
    given, kept_back = os.memfd_create("given"), os.memfd_create("kept")
    os.set_inheritable(kept_back, True)
    child = start(
        program,
        "import json, os\n"
        "names = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.islink(f'/proc/self/fd/{n}')]\n"
        "print(json.dumps({'names': names}))",
        inherit=[given],
    )
    (report,) = child.lines()
    child.wait()
    child.close()
    os.close(given)
    os.close(kept_back)
    assert any("memfd:given" in name for name in report["names"])
    assert not any("memfd:kept" in name for name in report["names"])


def test_it_dies_with_its_parent(program: Path, tmp_path: Path) -> None:
    """Even when the parent is killed and can't do anything about it."""
    program.write_text("import os, time\nprint('{\"pid\": %d}' % os.getpid(), flush=True)\ntime.sleep(60)")
    parent = (
        "import pathlib, sys, time\n"
        "from worker.child import Child\n"
        f"child = Child('child_program', [], stderr_path=pathlib.Path({str(tmp_path / 'stderr')!r}))\n"
        "print(next(child.lines())['pid'], flush=True)\ntime.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 5
    with suppress(psutil.NoSuchProcess):  # also where it ends while one looks
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)

"""`python -m worker.finetune` as its parent sees it: JSON lines, artifacts, exit codes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
SECRET_WORD = "xylograph"

pytestmark = pytest.mark.integration  # each test starts the program, which loads torch


def rows(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"question {index % 5} {SECRET_WORD}"},
                {"role": "assistant", "content": "Yes." if index % 2 else "No."},
            ],
            "system": "omit" if index % 3 else "template",
        }
        for index in range(count)
    ]


class Run:
    """Starts the program with a config and collects what it says."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self.folder = folder
        self.output_dir = folder / "out"
        self.config: dict[str, Any] = {
            "model_dir": str(model_dir),
            "output_dir": str(self.output_dir),
            "n_epochs": 2,
            "batch_tokens": 128,
            "lora_rank": 4,
            "lora_alpha": 8,
            "threads": 1,
        }

    def start(self, text: str | None = None, **options: Any) -> subprocess.Popen[str]:
        dataset = self.folder / "dataset.jsonl"
        dataset.write_text("\n".join(map(json.dumps, rows())) if text is None else text, "utf-8")
        config = {**self.config, "dataset": {"path": str(dataset)}, **options.pop("config", {})}
        (self.folder / "run.json").write_text(json.dumps(config), "utf-8")
        return subprocess.Popen(
            [sys.executable, "-m", "worker.finetune", "--config", str(self.folder / "run.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            **{"stderr": subprocess.PIPE, **options},
        )

    def finish(self, child: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
        out, err = child.communicate(timeout=270)
        return child.returncode, [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Path) -> Run:
    return Run(tmp_path, tiny_model_dir)


def test_a_run_reports_every_stage_and_leaves_an_adapter(run: Run) -> None:
    code, events, _ = run.finish(run.start())
    assert code == 0
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["loading", "started"]
    assert kinds[-2:] == ["saving", "finished"]
    steps = [event for event in events if event["event"] == "step"]
    assert set(kinds[2:-2]) == {"step"}
    assert steps[-1]["step"] == steps[-1]["total_steps"] == events[1]["total_steps"]
    assert steps[0]["learning_rate"] == pytest.approx(1.5e-3)
    assert steps[-1]["eta_seconds"] == 0
    assert events[-1]["tokens"] == 2 * events[1]["tokens"]
    assert events[-1]["trained_tokens"] == 2 * events[1]["answer_tokens"]
    assert events[-1]["final_loss"] < steps[0]["loss"]
    written = sorted(path.name for path in run.output_dir.iterdir())
    assert written == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert (
        json.loads((run.output_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    )
    assert SECRET_WORD not in (run.output_dir / "README.md").read_text()
    assert not (run.folder / "dataset.jsonl").exists()


def test_full_training_leaves_a_model_that_can_be_trained_again(run: Run) -> None:
    code, events, err = run.finish(run.start(config={"method": "full"}))
    assert code == 0, err
    steps = [event for event in events if event["event"] == "step"]
    assert steps[0]["learning_rate"] == pytest.approx(2e-4)
    assert events[-1]["final_loss"] < steps[0]["loss"]
    assert (run.output_dir / "model.safetensors").stat().st_size > 0
    second = {"model_dir": str(run.output_dir), "output_dir": str(run.folder / "second"), "n_epochs": 1}
    code, events, err = run.finish(run.start(config=second))
    assert code == 0, err
    assert {path.name for path in (run.folder / "second").iterdir()} >= {"adapter_model.safetensors"}


def test_the_same_seed_gives_the_same_adapter(run: Run) -> None:
    digests = []
    for _ in range(2):
        assert run.finish(run.start())[0] == 0
        digests.append((run.output_dir / "adapter_model.safetensors").read_bytes())
    assert digests[0] == digests[1]


def test_a_dataset_comes_through_an_inherited_descriptor(run: Run) -> None:
    reader, writer = os.pipe()
    os.write(writer, "\n".join(map(json.dumps, rows(4))).encode())
    os.close(writer)
    child = run.start(config={"dataset": {"fd": reader}}, pass_fds=[reader])
    os.close(reader)
    code, events, _ = run.finish(child)
    assert (code, events[1]["rows"]) == (0, 4)


class TestChecks:
    """Asked after the planned steps; where they fail and steps are granted, further rounds."""

    def checks(self, run: Run, *expected: tuple[int, str]) -> dict[str, str]:
        path = run.folder / "checks.jsonl"
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"question {index} {SECRET_WORD}"},
                    {"role": "assistant", "content": answer},
                ],
                "group": group,
            }
            for index, (group, answer) in enumerate(expected)
        ]
        path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
        return {"path": str(path)}

    def rows(self) -> str:
        """Every answer begins with Y; a third of the rows belong to group 1."""
        made = rows()
        for index, row in enumerate(made):
            row["messages"][-1]["content"] = "Yes."
            if index % 3 == 0:
                row["group"] = 1
        return "\n".join(map(json.dumps, made))

    def test_what_was_learned_ends_the_run(self, run: Run) -> None:
        config = {
            "checks": self.checks(run, (0, "Yes"), (1, "Yes"), (1, "Yes")),
            "check_pass_share": 1.0,
            "extra_steps_share": 1.0,
            "learning_rate": 0.05,
            "n_epochs": 6,
        }
        code, events, err = run.finish(run.start(text=self.rows(), config=config))
        assert code == 0, err
        (checked,) = [event for event in events if event["event"] == "checked"]
        assert checked == {
            "event": "checked", "round": 0, "kept_round": 0, "extra_steps": 0, "groups": 2,
            "groups_passed": 2, "answers": ["Y", "Y", "Y"],
        }  # fmt: skip
        assert events[-1]["steps"] == events[1]["total_steps"]
        assert events[-1]["rounds"] == 0
        assert events[-1]["trained_tokens"] == 6 * events[1]["answer_tokens"]
        assert not (run.folder / "checks.jsonl").exists()
        assert SECRET_WORD not in err + json.dumps(events)

    def test_what_was_not_learned_gets_the_granted_steps_and_no_more(self, run: Run) -> None:
        """Nothing teaches the answer that group 1 expects, so the budget is spent and said to be."""
        config = {
            "checks": self.checks(run, (0, "Yes"), (1, "No")),
            "check_pass_share": 0.5,
            "extra_steps_share": 0.5,
            "learning_rate": 0.05,
            "n_epochs": 6,
        }
        code, events, _ = run.finish(run.start(text=self.rows(), config=config))
        assert code == 0
        planned = events[1]["total_steps"]
        checked = [event for event in events if event["event"] == "checked"]
        steps = [event for event in events if event["event"] == "step"]
        assert [event["round"] for event in checked] == list(range(len(checked)))
        assert 4 < len(checked) <= 17
        assert checked[-1]["extra_steps"] == planned // 2
        assert {event["groups_passed"] for event in checked} == {1}
        assert events[-1]["steps"] == planned + planned // 2 == steps[-1]["step"]
        assert events[-1]["rounds"] == len(checked) - 1
        assert events[-1]["trained_tokens"] > 6 * events[1]["answer_tokens"]
        totals = [event["total_steps"] for event in steps]
        assert totals == sorted(totals)
        assert totals[0] == planned < totals[-1] == steps[-1]["step"]
        assert all(event["eta_seconds"] >= 0 for event in steps)
        assert steps[-1]["learning_rate"] == pytest.approx(0.2 * 0.05)

    def test_checks_alone_grant_no_steps(self, run: Run) -> None:
        config = {"checks": self.checks(run, (0, "Never")), "extra_steps_share": 0.5}
        code, events, _ = run.finish(run.start(config=config))
        assert code == 0
        assert [event["round"] for event in events if event["event"] == "checked"] == [0]
        assert events[-1]["steps"] == events[1]["total_steps"]


def no_space(run: Run) -> dict[str, Any]:
    """A file-size limit is what an ordinary account can set up; the kernel then answers EFBIG."""
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # noqa: E731
    return {"preexec_fn": limit}


def corrupt_model(run: Run) -> dict[str, Any]:
    copy = run.folder / "broken"
    shutil.copytree(run.config["model_dir"], copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return {"config": {"model_dir": str(copy)}}


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda run: {"text": ""}, "empty_dataset"),
        (lambda run: {"text": "{" + SECRET_WORD}, "invalid_dataset"),
        (lambda run: {"config": {"dataset": {"path": str(run.folder / "no")}}}, "unreadable_dataset"),
        (lambda run: {"config": {"learning_rate": 7}}, "invalid_config"),
        (lambda run: {"config": {"checks": {"path": "/no"}}}, "unreadable_dataset"),
        (lambda run: {"config": {"learning_rate": 0.999, "n_epochs": 1, "lora_alpha": 4096}}, None),
        (corrupt_model, "corrupt_base_model"),
        (lambda run: {"config": {"model_dir": str(run.folder / "none")}}, "corrupt_base_model"),
        (lambda run: {"config": {"output_dir": "/proc/none"}}, "output_not_writable"),
        (no_space, "disk_full"),
    ],
)
def test_a_failure_is_one_typed_event_and_exit_code_1(
    run: Run, prepare: Callable[[Run], dict[str, Any]], code: str | None
) -> None:
    exit_code, events, err = run.finish(run.start(**prepare(run)))
    if code is None:  # an absurd rate: it must end in a finite run or in the typed error, never in NaN files
        assert exit_code == 0 or events[-1]["code"] == "loss_not_finite"
        return
    assert exit_code == 1
    assert (events[-1]["event"], events[-1]["code"]) == ("error", code)
    assert str(run.folder) not in events[-1]["message"]
    assert SECRET_WORD not in err + json.dumps(events)
    assert not (run.output_dir / "adapter_model.safetensors").exists()


def test_a_full_disk_is_told_although_there_is_no_room_for_the_traceback(run: Run) -> None:
    """Standard error is a file on the same disk."""
    with open("/dev/full", "w") as full:
        child = run.start(stderr=full, **no_space(run))
        code, events, _ = run.finish(child)
    assert (code, events[-1]["code"]) == (1, "disk_full")


def test_sigterm_stops_within_two_seconds_and_leaves_nothing(run: Run) -> None:
    child = run.start(config={"n_epochs": 100})
    assert child.stdout is not None
    for line in child.stdout:
        if json.loads(line)["event"] == "step":
            break
    sent = time.monotonic()
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert time.monotonic() - sent < 2
    assert not run.output_dir.exists() or not list(run.output_dir.iterdir())


def test_sigterm_is_heard_while_libraries_load(run: Run) -> None:
    child = run.start()
    time.sleep(0.6)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode in (143, -signal.SIGTERM)


def test_a_parent_that_is_gone_ends_the_run(run: Run) -> None:
    child = run.start(config={"n_epochs": 100})
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=60) == 1


def test_a_world_readable_dataset_file_is_gone_before_the_first_step(run: Run) -> None:
    child = run.start(config={"n_epochs": 50})
    assert child.stdout is not None
    for line in child.stdout:
        if json.loads(line)["event"] == "started":
            break
    assert not (run.folder / "dataset.jsonl").exists()
    child.kill()
    child.communicate(timeout=30)
    assert stat.S_ISDIR(run.folder.stat().st_mode)

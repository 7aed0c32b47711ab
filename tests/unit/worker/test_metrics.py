"""What a worker shows of its devices, and what it never shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.metrics import DeviceCollector


def smi(folder: Path, script: str) -> tuple[str, ...]:
    """A program in the place of nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return (str(program),)


def test_memory_of_each_device_in_bytes(tmp_path: Path) -> None:
    used, total = DeviceCollector(smi(tmp_path, "echo '0, 512, 81559'; echo '1, 0, 81559'")).collect()
    assert [(sample.labels, sample.value) for sample in used.samples] == [
        ({"device": "0"}, 512 * 1024 * 1024),
        ({"device": "1"}, 0),
    ]
    assert total.samples[0].value == 81559 * 1024 * 1024


def test_a_scrape_without_pause_asks_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    devices = DeviceCollector(smi(tmp_path, f"echo x >> {asked}; echo '0, 1, 2'"))
    for _ in range(5):
        list(devices.collect())
    assert asked.read_text() == "x\n"


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo '0, [N/A], 1'"])
def test_a_device_that_does_not_answer_is_no_series(tmp_path: Path, script: str) -> None:
    used, total = DeviceCollector(smi(tmp_path, script)).collect()
    assert used.samples == total.samples == []


def test_a_machine_without_the_program() -> None:
    used, _ = DeviceCollector(("/nonexistent/nvidia-smi",)).collect()
    assert used.samples == []

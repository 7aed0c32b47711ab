"""Exceptions of the libraries and the system, told apart."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from worker.finetune import device
from worker.finetune.device import choose_device
from worker.finetune.errors import DeviceFailedError
from worker.finetune.faults import is_disk_full, of_the_machine


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (RuntimeError("can't start new thread"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "device_out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory\nadvice"), "device_out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "device_out_of_memory"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device_failed"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device_failed"),
        (RuntimeError("CUDA driver initialization failed"), "device_failed"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EFBIG, "File too large"), "disk_full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), None),
        (ValueError("a row about CUDA error, cannot allocate memory"), None),
        (OSError(errno.EIO, "Input/output error"), None),
        (ImportError("No module named 'peft'"), None),
    ],
)  # fmt: skip
def test_what_is_the_machines(error: Exception, code: str | None) -> None:
    found = of_the_machine(error)
    assert (found and found.code) == code
    if found is not None:
        assert str(found)
        assert "advice" not in str(found)
        assert is_disk_full(error) is (code == "disk_full")


class TestTheDevice:
    def test_a_gpu_that_does_not_answer_is_no_reason_to_train_on_the_processor(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "nvidia0").touch()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        with pytest.raises(DeviceFailedError):
            choose_device()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the operator's wish
        assert choose_device().type == "cpu"

    def test_without_one_the_processor_is_used(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        assert choose_device().type == "cpu"
